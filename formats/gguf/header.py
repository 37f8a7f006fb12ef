"""The header of one GGUF file, read and checked to the last byte.

Source: docs/gguf.md of ggml and `gguf_init_from_reader` in ggml/src/gguf.cpp. Stricter than the latter where it
lets later code fail (overlapping tensors, booleans other than 0 and 1), and milder in one point: it demands that
tensors follow each other without gaps, the specification only that they are aligned.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.encodings import Blocks, Encoding, Shape
from requant.errors import FormatError, UnsupportedError
from requant.formats.gguf.arrays import CODES, SIZES, Array, Arrays, Numbers, Strings
from requant.formats.gguf.cursor import Cursor
from requant.formats.gguf.ggml_types import encoding_of
from requant.formats.gguf.values import ARRAY, KINDS, STRING
from requant.ir import Tensor, Typed
from requant.objections import Objection, refuse
from requant.sources import FileSlice, Identity, open_regular

MAGIC: Final = b"GGUF"
ALIGNMENT_KEY: Final = "general.alignment"
DEFAULT_ALIGNMENT: Final = 32
#: An alignment is padded with zeros in memory; the largest in use is a page of 4 KiB.
ALIGNMENT_LIMIT: Final = 16 << 20
MAX_DIMENSIONS: Final = 4

#: Bytes of a key, by the specification; of tensor names only what is read.
KEY_LIMIT: Final = 65535
#: More of these in one file than any model has; a limit keeps hostile files short-lived.
_PAIR_LIMIT: Final = 1 << 16
_TENSOR_LIMIT: Final = 1 << 16
_INNER_ARRAY_LIMIT: Final = 1 << 16
_DEPTH_LIMIT: Final = 8

_DOWNLOAD_AGAIN: Final = "download or copy the file again"

#: What other files saved under the name of a model begin with, what they are, and what to do.
_STRANGERS: Final = (
    (rb"version https://git-lfs", "a git-lfs pointer, not the file it points to", "fetch it with `git lfs pull`"),
    (rb"# xet version", "a xet pointer, not the file it points to", "download it from the hub itself"),
    (rb"\s*<(!doctype|html|head|\?xml)", "a web page", "the download needs another address or a login"),
    (rb"\s*\{\s*\"error", "a server's error message", "look into it, then download the file again"),
    (rb"lmgg|fmgg|tjgg|algg|nsgg", "a GGML file from before GGUF", "convert the original model again"),
    (rb"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint", ""),
    (rb".{7}\x00\{", "a safetensors file", "rename it to .safetensors"),
    (rb"\x00{4}", "empty: it begins with zeros", "an interrupted download leaves such files; start it again"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """Key-values and tensors, both in file order.

    alignment: of tensor data. data: where that begins. identity: of the file that was read. complete: whether no tensor
    was left out (see `Objection`).
    """

    metadata: dict[str, Typed]
    tensors: tuple[Tensor, ...]
    alignment: int
    data: int
    version: int
    identity: Identity
    complete: bool = True


def read_header(path: Path, objection: Objection = refuse) -> Header:
    """Read and check one file; tensors beyond its end, overlapping or misaligned are errors."""
    with open(open_regular(path), "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        identity = Identity.of(os.fstat(file.fileno()))
        cursor = Cursor(path, file, identity.nbytes)
        version, tensor_count, pair_count = _preamble(cursor)
        metadata = _Metadata(cursor, objection).pairs(pair_count)
        alignment = alignment_of(path, metadata, objection)
        infos = _tensor_infos(cursor, tensor_count, objection)
        data = cursor.position + -cursor.position % alignment
        del cursor.buffer[cursor.position :]
    _check_extents(path, infos, data, alignment, cursor.size, objection)
    tensors = tuple(
        Tensor(
            info.name, info.shape, info.encoding, {"data": FileSlice(path, data + info.offset, info.nbytes, identity)}
        )
        for info in infos
    )
    return Header(metadata, tensors, alignment, data, version, identity, len(tensors) == tensor_count)


def alignment_of(path: Path, metadata: dict[str, Typed], objection: Objection = refuse) -> int:
    """The alignment of tensor data: any power of two, as in llama.cpp (the specification wants multiples of 8)."""
    typed = metadata.get(ALIGNMENT_KEY, Typed("u32", DEFAULT_ALIGNMENT))
    value = typed.value
    if typed.kind != "u32" or not isinstance(value, int) or value.bit_count() != 1 or value > ALIGNMENT_LIMIT:
        rule = f"it must be a u32, a power of two and at most {ALIGNMENT_LIMIT}"
        objection("alignment", FormatError(path, f"{ALIGNMENT_KEY} is {typed.kind} {repr(value)[:80]}; {rule}"))
        return DEFAULT_ALIGNMENT
    return value


def _preamble(cursor: Cursor) -> tuple[int, int, int]:
    """The version, and the numbers of tensors and of key-value pairs, after the magic."""
    if not cursor.size:
        raise FormatError(
            cursor.path, "the file is empty", hint=f"it may not have been written whole: {_DOWNLOAD_AGAIN}"
        )
    start = cursor.peek(64)
    if start[:4] != MAGIC:
        for pattern, what, hint in _STRANGERS:
            if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
                raise FormatError(cursor.path, f"this is {what}", offset=0, hint=hint)
        raise FormatError(cursor.path, f"a GGUF file begins with {MAGIC!r}, this with {start[:4]!r}", offset=0)
    cursor.need(4, "the magic")
    (version,) = cursor.unpack("I", "the version")
    if version and not version & 0xFFFF:
        raise UnsupportedError(
            f"{cursor.path}: a big-endian GGUF file",
            hint="`gguf-convert-endian FILE little` of the gguf package makes it little-endian, in place",
        )
    if version == 1:
        raise UnsupportedError(f"{cursor.path}: GGUF version 1, of August 2023; versions 2 and 3 are read")
    if version not in (2, 3):
        raise UnsupportedError(f"{cursor.path}: GGUF version {version}; versions 2 and 3 are read")
    tensors, pairs = cursor.unpack("QQ", "the numbers of tensors and key-values")
    cursor.room(tensors, 8, "the number of tensors")  # its name has a length
    cursor.room(pairs, 8, "the number of key-values")
    if tensors > _TENSOR_LIMIT or pairs > _PAIR_LIMIT:
        most = f"{_TENSOR_LIMIT} and {_PAIR_LIMIT} are read at most"
        raise UnsupportedError(f"{cursor.path}: {tensors} tensors and {pairs} key-values; {most}")
    return version, tensors, pairs


class _Metadata:
    """Reads key-values; counts inner arrays over the whole file."""

    def __init__(self, cursor: Cursor, objection: Objection) -> None:
        self._cursor = cursor
        self._objection = objection
        self._inner_arrays = _INNER_ARRAY_LIMIT

    def pairs(self, count: int) -> dict[str, Typed]:
        """`count` key-value pairs."""
        cursor = self._cursor
        metadata: dict[str, Typed] = {}
        for index in range(count):
            at = cursor.position
            key = cursor.string(f"key {index} of {count}", KEY_LIMIT)
            if not key:
                self._objection("empty-key", cursor.error(f"key {index} is empty", at=at))
            elif key in metadata:
                self._objection("duplicate-key", cursor.error(f"the key {key[:80]!r} occurs twice", at=at))
            what = repr(key[:80])
            (number,) = cursor.unpack("I", f"the type of {what}")
            value = Typed(*self._array(what, 1)) if number == ARRAY else self._scalar(number, what)
            metadata.setdefault(key, value)
        return metadata

    def _scalar(self, number: int, what: str) -> Typed:
        cursor = self._cursor
        if number == STRING:
            return Typed("str", cursor.string(what))
        kind = self._kind(number, what)
        if kind == "bool":
            (value,) = cursor.unpack("B", what)
            if value > 1:
                message = f"{what} is a boolean of value {value}; only 0 and 1 are"
                self._objection("boolean", cursor.error(message, at=cursor.position - 1))
            return Typed("bool", value != 0)
        return Typed(kind, cursor.unpack(CODES[kind], what)[0])

    def _kind(self, number: int, what: str) -> str:
        kind = KINDS.get(number)
        if kind is None:
            raise self._cursor.error(
                f"{what} has the value type {number}; there are 0 to 12", at=self._cursor.position - 4
            )
        return kind

    def _array(self, what: str, depth: int) -> tuple[str, Array]:
        """An array whose type and length come next."""
        cursor = self._cursor
        if depth > _DEPTH_LIMIT:
            raise cursor.error(f"{what} nests arrays more than {_DEPTH_LIMIT} deep")
        (number,) = cursor.unpack("I", f"the item type of {what}")
        kind = "" if number == ARRAY else self._kind(number, what)
        (count,) = cursor.unpack("Q", f"the length of {what}")
        start = cursor.position
        if number == ARRAY:
            return self._arrays(count, what, depth)
        if kind == "str":
            cursor.strings(count, what)
            return "[str]", Strings(cursor.buffer, start, cursor.position, count)
        cursor.room(count, SIZES[kind], what)
        cursor.need(count * SIZES[kind], what)
        values = Numbers(kind, cursor.buffer, start, cursor.position)
        if kind == "bool" and max(values.raw, default=0) > 1:
            self._objection("boolean", cursor.error(f"{what} has booleans that are neither 0 nor 1", at=start))
        return f"[{kind}]", values

    def _arrays(self, count: int, what: str, depth: int) -> tuple[str, Array]:
        """An array of `count` arrays; they must agree on the type of their items."""
        cursor = self._cursor
        cursor.room(count, 12, what)
        self._inner_arrays -= count
        if self._inner_arrays < 0:
            raise UnsupportedError(f"{cursor.path}: {what} brings the inner arrays to more than {_INNER_ARRAY_LIMIT}")
        start = cursor.position
        kind = "[?]"
        items: list[Array] = []
        for index in range(count):
            other, item = self._array(what, depth + 1)
            common = _common(kind, other)
            if common is None:
                raise UnsupportedError(f"{cursor.path}: {what} mixes {kind} and {other} (item {index})")
            kind = common
            items.append(item)
        if depth == 1:
            kind = kind.replace("?", "u8")  # nothing but empty arrays: any type gives the same bytes
        return f"[{kind}]", Arrays(kind, cursor.buffer, start, cursor.position, tuple(items))


def _common(one: str, other: str) -> str | None:
    """The kind of both, where "?" is what an empty array leaves open; None when they differ.

    >>> _common("[[?]]", "[[[f32]]]"), _common("[u8]", "[?]"), _common("[u8]", "[str]")
    ('[[[f32]]]', '[u8]', None)
    """
    for vague, clear in ((one, other), (other, one)):
        depth = vague.find("?")
        if depth >= 0 and clear[:depth] == "[" * depth:
            return clear
    return one if one == other else None


@dataclass(frozen=True, slots=True)
class _Info:
    """A tensor as its header describes it; `offset` counts from the first byte of tensor data."""

    name: str
    shape: Shape
    encoding: Encoding
    offset: int
    nbytes: int
    at: int


def _tensor_infos(cursor: Cursor, count: int, objection: Objection) -> list[_Info]:
    """Name, dimensions, type and offset of `count` tensors; without those that are objected to."""
    infos: list[_Info] = []
    names: set[str] = set()
    for index in range(count):
        at = cursor.position
        name = cursor.string(f"the name of tensor {index} of {count}", KEY_LIMIT)
        what = f"tensor {name[:80]!r}"
        (rank,) = cursor.unpack("I", what)
        if rank > MAX_DIMENSIONS:
            error = cursor.error(
                f"{what} has {rank} dimensions; ggml has {MAX_DIMENSIONS} at most", at=cursor.position - 4
            )
            objection("dimensions", error)
            cursor.room(rank, 8, what)
        shape = cursor.unpack(f"{rank}Q", what)[::-1]
        number, offset = cursor.unpack("IQ", what)
        if name in names:
            objection("duplicate-tensor", cursor.error(f"{what} occurs twice", at=at))
            continue
        names.add(name)
        try:
            encoding = encoding_of(number)
        except UnsupportedError as error:
            objection("tensor-type", UnsupportedError(f"{cursor.path}: {what}: {error}", hint=error.hint))
            continue
        nbytes = _size(cursor, what, shape, encoding, objection)
        if nbytes is not None and rank <= MAX_DIMENSIONS:
            infos.append(_Info(name, shape, encoding, offset, nbytes, at))
    return infos


def _size(cursor: Cursor, what: str, shape: Shape, encoding: Encoding, objection: Objection) -> int | None:
    """Bytes of a tensor; its dimensions must be countable and its rows whole blocks."""
    columns = shape[-1] if shape else 1
    if any(size >= 1 << 63 for size in shape) or math.prod(size or 1 for size in shape) >= 1 << 63:
        objection("tensor-size", cursor.error(f"{what} has the shape {list(shape)}, more than 2^63 values"))
    elif isinstance(encoding, Blocks) and columns % encoding.values:
        message = f"{what} is {encoding.label}, in blocks of {encoding.values}; its rows have {columns} values"
        objection("whole-blocks", cursor.error(message))
    else:
        return encoding.parts(shape)["data"].nbytes
    return None


def _check_extents(path: Path, infos: list[_Info], data: int, alignment: int, size: int, objection: Objection) -> None:
    """Every tensor aligned, none over another, all inside the file."""
    for info in infos:
        if info.offset % alignment:
            message = f"tensor {info.name!r} begins at {info.offset}, no multiple of the alignment {alignment}"
            objection("aligned-tensor", FormatError(path, message, offset=info.at))
    end, before = 0, None
    for info in sorted(infos, key=lambda info: (info.offset, info.nbytes)):
        if before is not None and info.offset < end and info.nbytes:
            message = f"the tensors {before.name!r} and {info.name!r} overlap"
            objection("overlap", FormatError(path, message, offset=info.at))
        if info.offset + info.nbytes >= end:
            end, before = info.offset + info.nbytes, info
    if before is not None and data + end > size:
        error = FormatError(
            path,
            f"{data + end - size} bytes are missing: tensor {before.name!r} needs the bytes up to {data + end}, "
            f"the file has {size}",
            offset=size,
            hint=f"the file is truncated: {_DOWNLOAD_AGAIN}",
        )
        objection("truncated", error)
