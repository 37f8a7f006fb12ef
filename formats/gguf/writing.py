"""The bytes of a GGUF file before its tensor data, and where that data goes.

As ggml/src/gguf.cpp writes it: version 3, key-values and tensors in the given order, all padded with zeros to the
alignment, the last tensor too. A file without tensors ends after its key-values, as a vocabulary made by
llama.cpp's conversion script does; one of a split model is padded, as llama-gguf-split writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

from requant.errors import Error, PlanError
from requant.formats.gguf.ggml_types import number_of
from requant.formats.gguf.header import ALIGNMENT_KEY, KEY_LIMIT, MAGIC, MAX_DIMENSIONS, alignment_of
from requant.formats.gguf.shards import (
    COUNT_KEY,
    FILE_KEYS,
    MAX_SHARDS,
    NUMBER_KEY,
    TENSORS_KEY,
    prefix_of,
    shard_name,
)
from requant.formats.gguf.values import pack_pair, pack_string
from requant.ir import Checkpoint, TensorSpec, Typed
from requant.layout import Layout, LayoutOptions, OutputFile

VERSION: Final = 3
#: llama.cpp refuses longer names (GGML_MAX_NAME counts a closing zero).
NAME_LIMIT: Final = 63


def layout(checkpoint: Checkpoint[TensorSpec], destination: Path, options: LayoutOptions) -> Layout:
    """One file, or as many as the options ask for; names follow llama.cpp and metadata is in the first."""
    metadata = {key: typed for key, typed in checkpoint.metadata.items() if key not in FILE_KEYS}
    alignment = _check(checkpoint.tensors, metadata, destination)
    shards = _cut(checkpoint.tensors, alignment, options)
    if options.bare_first:
        shards.insert(0, ())
    if len(shards) == 1 and not options.numbered:
        return Layout(destination.parent, (_file(destination.name, metadata, shards[0], alignment),))
    if len(shards) > MAX_SHARDS:
        raise PlanError(f"{len(shards)} files; GGUF knows {MAX_SHARDS} at most", hint="choose larger shards")
    prefix = prefix_of(destination.name) or destination.name.removesuffix(".gguf")
    files = []
    for index, tensors in enumerate(shards):
        own = {key: typed for key, typed in metadata.items() if index == 0 or key == ALIGNMENT_KEY}
        total, count = Typed("i32", len(checkpoint.tensors)), Typed("u16", len(shards))
        own[NUMBER_KEY] = Typed("u16", index)
        # in the order of gguf-split; or in that of llama-quantize, which keeps files as they were cut
        counts = {TENSORS_KEY: total, COUNT_KEY: count}
        own |= counts if options.shard_counts is None else dict(reversed(counts.items()))
        files.append(_file(shard_name(prefix, index, len(shards)), own, tensors, alignment, padded=True))
    return Layout(destination.parent, tuple(files))


def _check(tensors: tuple[TensorSpec, ...], metadata: Mapping[str, Typed], destination: Path) -> int:
    """Refuse names and shapes that no GGUF file can hold or llama.cpp would not load; the alignment."""
    for key in metadata:
        if not 0 < _length(key) <= KEY_LIMIT:
            raise PlanError(f"metadata key {key[:60]!r} must have 1 to {KEY_LIMIT} bytes")
    names = set()
    for tensor in tensors:
        length = _length(tensor.name)
        if "\0" in tensor.name:
            raise PlanError(f"tensor {tensor.name!r}: llama.cpp ends a name at its first NUL")
        if length > NAME_LIMIT:
            raise PlanError(
                f"tensor {tensor.name!r}: its name has {length} bytes; llama.cpp reads {NAME_LIMIT} at most"
            )
        if tensor.name in names:
            raise PlanError(f"tensor {tensor.name!r} occurs twice")
        names.add(tensor.name)
        if len(tensor.shape) > MAX_DIMENSIONS:
            raise PlanError(
                f"tensor {tensor.name!r} has the shape {list(tensor.shape)}; ggml has {MAX_DIMENSIONS} dimensions"
            )
        if number_of(tensor.encoding) is None:
            raise PlanError(f"tensor {tensor.name!r}: GGUF cannot store {tensor.encoding.label}")
    try:
        return alignment_of(destination, dict(metadata))
    except Error as error:
        raise PlanError(str(error)) from None


def _length(name: str) -> int:
    """Bytes of a name in a file."""
    return len(pack_string(name)) - 8


def _padded(nbytes: int, alignment: int) -> int:
    return nbytes + -nbytes % alignment


def _cut(tensors: tuple[TensorSpec, ...], alignment: int, options: LayoutOptions) -> list[tuple[TensorSpec, ...]]:
    """Tensors in order, a new file whenever the next one would not fit; at least one in each."""
    for limit in (options.shard_bytes, options.shard_tensors):
        if limit is not None and limit < 1:
            raise PlanError(f"files of at most {limit} tensors or bytes cannot hold anything")
    if options.shard_counts is not None:
        ends = list(accumulate(options.shard_counts, initial=0))
        return [tensors[start:end] for start, end in pairwise(ends)]
    shards: list[list[TensorSpec]] = [[]]
    nbytes = 0
    for tensor in tensors:
        size = _padded(tensor.nbytes, alignment)
        full = options.shard_tensors is not None and len(shards[-1]) >= options.shard_tensors
        heavy = options.shard_bytes is not None and nbytes + size > options.shard_bytes
        if shards[-1] and (full or heavy):
            shards.append([])
            nbytes = 0
        shards[-1].append(tensor)
        nbytes += size
    return [tuple(shard) for shard in shards]


def _file(
    name: str, metadata: Mapping[str, Typed], tensors: tuple[TensorSpec, ...], alignment: int, *, padded: bool = False
) -> OutputFile:
    """Head and slots of one file. padded: even where no tensor follows."""
    *offsets, end = accumulate((_padded(tensor.nbytes, alignment) for tensor in tensors), initial=0)
    head = packed_head(VERSION, metadata, zip(tensors, offsets, strict=True))
    if tensors or padded:
        head += bytes(-len(head) % alignment)
    slots = {(tensor.name, "data"): len(head) + start for tensor, start in zip(tensors, offsets, strict=True)}
    return OutputFile(name, head, len(head) + end, slots)


def packed_head(version: int, metadata: Mapping[str, Typed], tensors: Iterable[tuple[TensorSpec, int]]) -> bytes:
    """Everything before the padding. tensors: each with its offset in the data."""
    infos = []
    for tensor, offset in tensors:
        dimensions = tensor.shape[::-1]
        infos.append(pack_string(tensor.name))
        numbers = (len(dimensions), *dimensions, number_of(tensor.encoding), offset)
        infos.append(struct.pack(f"<I{len(dimensions)}QIQ", *numbers))
    pairs = (pack_pair(key, typed) for key, typed in metadata.items())
    counts = struct.pack("<IQQ", version, len(infos) // 2, len(metadata))
    return b"".join((MAGIC, counts, *pairs, *infos))
