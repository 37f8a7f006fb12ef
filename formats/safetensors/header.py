"""The head of one safetensors file: its length, a JSON object, and where every tensor lies.

The rules are those of the reference reader (safetensors 0.8, `SafeTensors::read_metadata`), including what it accepts
by accident; only a name or metadata key that is there twice, which it resolves silently, is refused here.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.dtypes import DTYPES, DType
from requant.encodings import DENSE, Shape
from requant.errors import FormatError, PlanError
from requant.formats.safetensors.stream import JsonStream, is_text
from requant.ir import Tensor
from requant.objections import Objection, refuse
from requant.printable import shorten
from requant.sources import FileSlice, Identity, open_regular
from requant.system import read_at

#: Longest header, in bytes, that the reference reader accepts.
MAX_HEADER: Final = 100_000_000
#: Bounds of ours that keep a hostile header cheap: tensors in a file, JSON characters of a name, of a tensor's entry
#: and of the whole metadata. Single files of the largest models hold some thousand tensors.
MAX_TENSORS: Final = 100_000
MAX_NAME: Final = 1 << 16
MAX_ENTRY: Final = 1 << 17
MAX_METADATA: Final = 6_000_000

METADATA: Final = "__metadata__"
_FIELDS: Final = ("dtype", "shape", "data_offsets")
#: An entry as every known writer writes it: dtype, dimensions, begin, end. Anything else takes the general way.
_INTEGER: Final = "(?:0|[1-9][0-9]{0,17})"
_ENTRY: Final = re.compile(
    r' ?\{"dtype": ?"(\w+)", ?"shape": ?\[((?:%s(?:, ?%s){0,15})?)\], ?"data_offsets": ?\[(%s), ?(%s)\]\}'
    % ((_INTEGER,) * 4)
)
_LENGTH: Final = struct.Struct("<Q")
_U64: Final = 1 << 64
_DEPTH: Final = 127  # serde_json refuses the 128th level


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says: its metadata, and its tensors in the order of their bytes, each dense.

    notices: what is strange about several files together (see `Checkpoint`).
    """

    metadata: Mapping[str, str]
    tensors: tuple[Tensor, ...]
    notices: tuple[str, ...] = ()


def read_header(path: Path, objection: Objection = refuse) -> Header:
    """Read and check the whole header of `path`; raises `FormatError`. No tensor byte is read.

    Tensors that are objected to are left out.
    """
    descriptor = open_regular(path)
    try:
        identity = Identity.of(os.fstat(descriptor))
        size = identity.nbytes
        length = header_length(path, read_at(descriptor, _LENGTH.size, 0), size)
        data = _LENGTH.size + length
        stream = JsonStream(path, descriptor, _LENGTH.size, data)
        metadata, tensors = _parse(FileSlice(path, data, size - data, identity), stream, objection)
    finally:
        os.close(descriptor)
    tensors.sort(key=_extent)
    _check_extents(path, tensors, data, size, objection)
    return Header(metadata, tuple(tensors))


def write_header(
    metadata: Mapping[str, str], arrays: Iterable[tuple[str, DType, Shape, int]]
) -> tuple[bytes, list[int]]:
    """The bytes before the data, and the absolute offset of each of `arrays` (name, dtype, shape, bytes).

    The same bytes as the reference writer's, which pads to a multiple of eight; the metadata, whose order is random
    there, is sorted. Raises `PlanError` when the header would be longer than readers accept.
    """
    header: dict[str, object] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    starts: list[int] = []
    end = 0
    for name, dtype, shape, nbytes in arrays:
        header[name] = {"dtype": dtype.label, "shape": list(shape), "data_offsets": [end, end + nbytes]}
        starts.append(end)
        end += nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER or len(starts) > MAX_TENSORS:
        raise PlanError(
            f"{len(starts)} tensors make a header of {len(text)} bytes; readers accept {MAX_TENSORS} and {MAX_HEADER}",
            hint="write smaller shards",
        )
    head = _LENGTH.pack(len(text)) + text
    return head, [len(head) + start for start in starts]


#: Bytes before the JSON text, which say how long it is.
HEAD_SIZE: Final = _LENGTH.size


def header_length(path: Path, start: bytes, size: int) -> int:
    """The length of the JSON text. start: the first `HEAD_SIZE` bytes. size: of the file. Raises `FormatError`."""
    if len(start) < _LENGTH.size:
        raise FormatError(
            path, f"{size} bytes are too few for a safetensors file, which begins with the length of its header",
            offset=0, hint="the file may be truncated",
        )  # fmt: skip
    (length,) = _LENGTH.unpack(start)
    for prefix, what in _STRANGERS.items():
        if start.startswith(prefix):
            raise FormatError(path, f"not a safetensors file: it begins with {start!r}", offset=0, hint=what)
    if length > MAX_HEADER:
        raise FormatError(
            path, f"a header of {length} bytes; the format allows {MAX_HEADER}",
            offset=0, hint="this is probably not a safetensors file",
        )  # fmt: skip
    if _LENGTH.size + length > size:
        raise FormatError(
            path, f"a header of {length} bytes in a file of {size}", offset=0, hint="the file may be truncated"
        )
    return int(length)


#: How files begin that are often found under this name.
_STRANGERS: Final = {
    b"version ": "this is a Git LFS pointer: fetch the file itself with `git lfs pull`",
    b"<!DOCTYP": "this is a web page: the download failed",
    b"<html": "this is a web page: the download failed",
    b"PK\x03\x04": "this is a zip archive, perhaps a PyTorch file",
    b"GGUF": "this is a GGUF file: rename it",
}


def _parse(data: FileSlice, stream: JsonStream, objection: Objection) -> tuple[dict[str, str], list[Tensor]]:
    metadata: dict[str, str] | None = None
    tensors: dict[str, Tensor] = {}
    for name in stream.keys(MAX_NAME):
        if name == METADATA:
            if metadata is not None:
                objection("duplicate-key", stream.error(f"{METADATA} is there twice"))
            metadata = {**_metadata(stream, objection), **(metadata or {})}
        elif len(tensors) == MAX_TENSORS:
            raise stream.error(f"more than {MAX_TENSORS} tensors", hint="split the file into shards")
        else:
            if name in tensors:
                hint = "other readers silently drop one of the two"
                objection("duplicate-tensor", stream.error(f"two tensors are named {shorten(name)}", hint=hint))
            tensor = _tensor(data, stream, name, objection)
            if tensor is not None:
                tensors.setdefault(name, tensor)
    stream.end()
    return metadata or {}, list(tensors.values())


def _metadata(stream: JsonStream, objection: Objection) -> dict[str, str]:
    if stream.peek() == "n":
        if stream.value(limit=4) is not None:
            raise stream.error(f"{METADATA} must be an object or null")
        return {}
    metadata: dict[str, str] = {}
    budget = MAX_METADATA
    for key in stream.keys(budget):
        if key in metadata:
            hint = "other readers silently drop one of the two"
            objection("duplicate-key", stream.error(f"{METADATA} has two values for {shorten(key)}", hint=hint))
        value = stream.string(budget)
        metadata.setdefault(key, value)
        budget -= len(key) + len(value) + 64  # what an entry costs at least
        if budget < 0:
            raise stream.error(f"more than {MAX_METADATA} bytes of {METADATA}")
    return metadata


def _tensor(data: FileSlice, stream: JsonStream, name: str, objection: Objection) -> Tensor | None:
    if match := stream.match(_ENTRY):
        label, start, stop = match[1], int(match[3]), int(match[4])
        shape = [int(n) for n in match[2].split(",")] if match[2] else []
    else:
        label, shape, start, stop = _entry(stream, name)
    dtype = DTYPES.get(label)
    if dtype is None:
        message, hint = f"tensor {shorten(name)}: unknown dtype {shorten(label)}", f"known are {', '.join(DTYPES)}"
        objection("tensor-type", stream.error(message, hint=hint))
        return None
    if (problem := _size_problem(dtype, shape, stop - start)) is not None:
        objection("tensor-size", stream.error(f"tensor {shorten(name)}: {label}{shorten(shape)} {problem}"))
        return None
    source = FileSlice(data.path, data.offset + start, stop - start, data.identity)
    return Tensor(name, tuple(shape), DENSE[label], {"data": source})


def _entry(stream: JsonStream, name: str) -> tuple[str, list[int], int, int]:
    """Dtype, shape and extent, whatever the order and the spelling."""
    match _fields(stream, name, stream.value(MAX_ENTRY)):
        case {"dtype": str(label), "shape": list(shape), "data_offsets": list(offsets)} if len(offsets) == 2:
            if all(type(n) is int and 0 <= n < _U64 for n in (*shape, *offsets)):
                return label, shape, offsets[0], offsets[1]
            trouble = (
                f"shape {shorten(shape)} and data_offsets {shorten(offsets)} must be whole numbers from 0 to 2⁶⁴ - 1, "
                "written without a point"
            )
        case fields:
            missing = [field for field in _FIELDS if field not in fields]
            trouble = (
                f"no {missing[0]}" if missing else "dtype must be a string, shape a list, data_offsets a list of two"
            )
    raise stream.error(f"tensor {shorten(name)}: {trouble}")


def _size_problem(dtype: DType, shape: list[int], given: int) -> str | None:
    """What is wrong with a tensor of `given` bytes.

    A product that leaves 64 bits on its way is refused even if a later dimension is zero, as the reference reader does.
    """
    if given < 0:
        return "ends before it begins"
    bits = 1
    for factor in (*shape, dtype.bits):
        bits *= factor
        if bits >= _U64:
            return "has more bits than a 64-bit number can count"
    if bits % 8:
        return f"takes {bits} bits, which is no whole number of bytes"
    return None if bits // 8 == given else f"needs {bits // 8} bytes, the header gives {given}"


def _fields(stream: JsonStream, name: str, value: object) -> dict[str, object]:
    """The fields of an entry.

    The reference reader also takes an entry written as a list of the three, and a dtype written as `{"F32": null}`.
    """
    if isinstance(value, list) and len(value) == len(_FIELDS):
        fields: dict[str, object] = dict(zip(_FIELDS, value, strict=True))
    elif isinstance(value, tuple):
        fields = {}
        for key, field in value:
            if key not in _FIELDS:
                _check_ignored(stream, key, 3)
                _check_ignored(stream, field, 3)
            elif key in fields:
                raise stream.error(f"tensor {shorten(name)}: {key} is there twice")
            else:
                fields[key] = field
    else:
        raise stream.error(f"tensor {shorten(name)}: its entry must be an object, not {shorten(value)}")
    dtype = fields.get("dtype")
    if isinstance(dtype, tuple) and len(dtype) == 1 and dtype[0][1] is None:
        fields["dtype"] = dtype[0][0]
    return fields


def _check_ignored(stream: JsonStream, value: object, depth: int) -> None:
    """Values of unknown fields count for nothing, but the reference reader parses them."""
    if isinstance(value, list | tuple) and depth > _DEPTH:
        raise stream.error("JSON values are nested too deeply")
    match value:
        case list():
            for item in value:
                _check_ignored(stream, item, depth + 1)
        case tuple():
            for key, item in value:
                _check_ignored(stream, key, depth + 1)
                _check_ignored(stream, item, depth + 1)
        case str() if not is_text(value):
            raise stream.error(f"half a surrogate pair in the string {shorten(value)}")
        case int() | float():
            try:
                finite = abs(float(value)) < float("inf")
            except OverflowError:
                finite = False
            if not finite:
                raise stream.error(f"number out of range: {shorten(value)}")


def _extent(tensor: Tensor) -> tuple[int, int]:
    source = tensor.sources["data"]
    assert isinstance(source, FileSlice)
    return source.offset, source.nbytes


def _check_extents(path: Path, tensors: list[Tensor], data: int, size: int, objection: Objection) -> None:
    """The tensors, sorted, fill the data from its first byte to its last, one after another."""
    end = data
    for i, tensor in enumerate(tensors):
        start, nbytes = _extent(tensor)
        if start != end:
            before = f"tensor {shorten(tensors[i - 1].name)}" if i else "the header"
            trouble = (
                f"begins {start - end} bytes after the end of {before}"
                if start > end
                else f"overlaps {before} by {end - start} bytes"
            )
            message = f"tensor {shorten(tensor.name)}: {trouble}; the format allows neither holes nor overlaps"
            objection("hole" if start > end else "overlap", FormatError(path, message, offset=start))
        end = max(end, start + nbytes)
    if end > size:
        message = f"the header describes {end - data} bytes of tensors, the file holds {size - data}"
        objection("truncated", FormatError(path, message, offset=size, hint="the file is truncated: fetch it again"))
    if end < size:
        message = f"{size - end} bytes follow the last tensor and belong to nothing"
        objection("trailing-bytes", FormatError(path, message, offset=end))
