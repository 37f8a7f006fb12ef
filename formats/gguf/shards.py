"""Models cut into several files, `NAME-00001-of-00003.gguf`.

Source: `llama_split_path`, `llama_model_loader` and tools/gguf-split of llama.cpp. The first file has the metadata;
every file says which it is (`split.no`, from 0), how many there are, and how many tensors all of them have.
What a file says about its own splitting is no part of the checkpoint: reading drops it, writing makes it anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.formats.gguf.header import Header, read_header
from requant.ir import Tensor, Typed

NUMBER_KEY: Final = "split.no"
COUNT_KEY: Final = "split.count"
TENSORS_KEY: Final = "split.tensors.count"
SPLIT_KEYS: Final = (NUMBER_KEY, COUNT_KEY, TENSORS_KEY)
#: `split.count` is stored in sixteen bits.
MAX_SHARDS: Final = 65535

_NAME: Final = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def shard_name(prefix: str, index: int, count: int) -> str:
    """The name of shard `index`, counted from 0.

    >>> shard_name("model", 0, 3)
    'model-00001-of-00003.gguf'
    """
    return f"{prefix}-{index + 1:05d}-of-{count:05d}.gguf"


def series_of(name: str) -> tuple[str, str] | None:
    """What all shards of a model have in their names, prefix and count; None when `name` is no such name.

    >>> series_of("model-00002-of-00003.gguf")
    ('model', '00003')
    """
    match = _NAME.fullmatch(name)
    return (match["prefix"], match["count"]) if match else None


def prefix_of(name: str) -> str | None:
    """What stands before the numbers in the name of a shard; None when `name` is no such name."""
    series = series_of(name)
    return series[0] if series else None


def read_shards(path: Path) -> tuple[dict[str, Typed], tuple[Tensor, ...]]:
    """Metadata and tensors of the file at `path`, and of its siblings when it is one of several."""
    opened = read_header(path)
    count = _integer(path, opened, COUNT_KEY, 0)
    if count <= 1:
        return _without_split(opened.metadata), opened.tensors
    number = _integer(path, opened, NUMBER_KEY)
    prefix = prefix_of(path.name)
    if prefix is None or path.name != shard_name(prefix, number, count):
        raise FormatError(
            path,
            f"the file says it is number {number + 1} of {count}, its name does not",
            hint=f"name it {shard_name(prefix or 'NAME', number, count)}, and its siblings likewise",
        )
    paths = []
    for index in range(count):
        sibling = path.with_name(shard_name(prefix, index, count))
        if not sibling.is_file():
            raise FormatError(sibling, f"this file is missing: the model is in {count} files", hint="get this one too")
        paths.append(sibling)
    headers = [opened if sibling == path else read_header(sibling) for sibling in paths]
    for index, (sibling, header) in enumerate(zip(paths, headers, strict=True)):
        if (_integer(sibling, header, NUMBER_KEY), _integer(sibling, header, COUNT_KEY)) != (index, count):
            raise FormatError(sibling, f"the file does not say that it is number {index + 1} of {count}")
    return _metadata(paths, headers), _tensors(paths, headers)


def _integer(path: Path, header: Header, key: str, default: int | None = None) -> int:
    """The integer under `key`."""
    typed = header.metadata.get(key)
    value = default if typed is None else typed.value
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError(path, f"{key} must be an integer; it is {'missing' if typed is None else typed.kind}")
    return value


def _without_split(metadata: dict[str, Typed]) -> dict[str, Typed]:
    return {key: typed for key, typed in metadata.items() if key not in SPLIT_KEYS}


def _metadata(paths: list[Path], headers: list[Header]) -> dict[str, Typed]:
    """The first file's key-values, then what others add; they must not contradict each other."""
    merged: dict[str, Typed] = {}
    for path, header in zip(paths, headers, strict=True):
        for key, typed in _without_split(header.metadata).items():
            if merged.setdefault(key, typed) != typed:
                raise FormatError(
                    path, f"metadata {key!r} differs from that of an earlier file", hint=f"see {paths[0]}"
                )
    return merged


def _tensors(paths: list[Path], headers: list[Header]) -> tuple[Tensor, ...]:
    """All tensors, as many as every file says, none twice."""
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    home: dict[str, Path] = {}
    for path, header in zip(paths, headers, strict=True):
        total = _integer(path, header, TENSORS_KEY)
        if total != len(tensors):
            raise FormatError(path, f"{TENSORS_KEY} is {total}, and the {len(paths)} files have {len(tensors)} tensors")
        for tensor in header.tensors:
            if home.setdefault(tensor.name, path) != path:
                raise FormatError(path, f"tensor {tensor.name!r} is also in {home[tensor.name]}")
    return tensors
