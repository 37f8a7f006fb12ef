"""Every byte of a safetensors checkpoint that is not tensor data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from requant.dtypes import DTYPES
from requant.errors import PlanError
from requant.formats.safetensors.folder import CONFIG, MODULE, WEIGHTS, write_config
from requant.formats.safetensors.header import METADATA, write_header
from requant.formats.safetensors.index import SUFFIX, write_index
from requant.formats.safetensors.stream import is_text
from requant.formats.stored import StoredArray, stored_arrays
from requant.ir import Checkpoint, TensorSpec
from requant.layout import Layout, LayoutOptions, OutputFile
from requant.printable import shorten

#: Bytes of tensors in one file of a folder, as transformers writes them.
SHARD_BYTES: Final = 5_000_000_000
_RANK: Final = {label: rank for rank, label in enumerate(DTYPES)}


def layout_file(checkpoint: Checkpoint[TensorSpec], destination: Path, options: LayoutOptions) -> Layout:
    """One file of the given name; shards named after it where `options` ask for them. Nothing is carried along."""
    weights = _weights(checkpoint, destination.name.removesuffix(".safetensors"), options, _metadata(checkpoint))
    return Layout(destination.parent, tuple(weights))


def layout_folder(checkpoint: Checkpoint[TensorSpec], destination: Path, options: LayoutOptions) -> Layout:
    """A Hugging Face folder: config.json, carried files, weights, index."""
    if options.shard_bytes is None:
        options = LayoutOptions(SHARD_BYTES, options.shard_tensors)
    files = [_small(CONFIG, write_config(checkpoint.config))] if checkpoint.config else []
    for name, source in checkpoint.files.items():
        _check_name(name)
        files.append(OutputFile(name, b"", source.nbytes, body=source))
    modules = {tensor.name: tensor for tensor in checkpoint.tensors if "/" in tensor.name}
    files += _modules(tuple(modules.values()))
    model = replace(checkpoint, tensors=tuple(tensor for tensor in checkpoint.tensors if tensor.name not in modules))
    files += _weights(model, "model", options, {"format": "pt", **_metadata(checkpoint)})
    return Layout(destination, tuple(files))


def _modules(tensors: Sequence[TensorSpec]) -> Iterator[OutputFile]:
    """Files for tensors of modules beside the model: `2_Dense/linear.weight` is `linear.weight` in the folder."""
    found: dict[str, list[StoredArray]] = {}
    for tensor in tensors:
        folder, _, name = tensor.name.partition("/")
        file = f"{folder}/model.safetensors"
        arrays = stored_arrays(tensor)
        if not MODULE.fullmatch(file) or len(arrays) != 1:
            raise PlanError(f"tensor {shorten(tensor.name)}: a module's tensors are stored as they are, {file!r}")
        found.setdefault(file, []).append(replace(arrays[0], name=name))
    for file, stored in found.items():
        _check_arrays(stored)
        yield _file(file, stored, {"format": "pt"})


def _weights(
    checkpoint: Checkpoint[TensorSpec], stem: str, options: LayoutOptions, metadata: Mapping[str, str]
) -> Iterator[OutputFile]:
    shards = _cut([stored_arrays(tensor) for tensor in checkpoint.tensors], options)
    _check_arrays([array for shard in shards for array in shard])
    if len(shards) == 1:
        yield _file(f"{stem}.safetensors", shards[0], metadata)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        yield _file(name, shard, metadata)
        weight_map.update((array.name, name) for array in shard)
    total = sum(array.nbytes for shard in shards for array in shard)
    yield _small(f"{stem}{SUFFIX}", write_index(weight_map, total))


def _cut(tensors: list[tuple[StoredArray, ...]], options: LayoutOptions) -> list[list[StoredArray]]:
    """Tensors in order, each shard as full as it may be; a tensor is never split, nor are its parts parted."""
    shards: list[list[StoredArray]] = [[]]
    nbytes = count = 0
    for arrays in tensors:
        size = sum(array.nbytes for array in arrays)
        full = options.shard_bytes is not None and nbytes + size > options.shard_bytes
        if count and (full or count == options.shard_tensors):
            shards.append([])
            nbytes = count = 0
        shards[-1] += arrays
        nbytes, count = nbytes + size, count + 1
    return shards


def _file(name: str, arrays: list[StoredArray], metadata: Mapping[str, str]) -> OutputFile:
    """Arrays lie in the reference writer's order, wide dtypes first, which aligns every one of them."""
    arrays = sorted(arrays, key=lambda array: (-_RANK[array.spec.dtype.label], array.name))
    head, offsets = write_header(
        metadata, ((array.name, array.spec.dtype, array.spec.shape, array.nbytes) for array in arrays)
    )
    slots = {(array.tensor, array.part): offset for array, offset in zip(arrays, offsets, strict=True)}
    return OutputFile(name, head, len(head) + sum(array.nbytes for array in arrays), slots)


def _small(name: str, content: bytes) -> OutputFile:
    return OutputFile(name, content, len(content))


def _metadata(checkpoint: Checkpoint[TensorSpec]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for key, typed in checkpoint.metadata.items():
        if typed.kind != "str" or not isinstance(typed.value, str) or not is_text(key + typed.value):
            raise PlanError(f"metadata {shorten(key)}: safetensors stores text only, not {typed.kind}")
        metadata[key] = typed.value
    return metadata


def _check_arrays(arrays: list[StoredArray]) -> None:
    owners: dict[str, str] = {}
    for array in arrays:
        if array.name == METADATA or not is_text(array.name):
            raise PlanError(f"tensor {shorten(array.name)}: safetensors cannot store this name")
        if array.name in owners:
            both = {owners[array.name], array.tensor}
            raise PlanError(f"the name {array.name!r} is needed twice, for {' and '.join(sorted(both))}")
        owners[array.name] = array.tensor


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and str(path) == name and "\0" not in name
    weights = path.suffix.lower() in WEIGHTS and not MODULE.fullmatch(name)
    if not inside or name in (".", CONFIG) or weights or name.endswith(SUFFIX):
        raise PlanError(f"a file named {shorten(name)} cannot be carried into a model folder")
