"""The tensors of one torch file."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Final

from requant.encodings import DENSE, Dense
from requant.errors import FormatError, UnsupportedError
from requant.formats.safetensors.header import Header
from requant.formats.torch_zip.archive import Archive
from requant.formats.torch_zip.pickled import PickleError, Storage, UnknownGlobalError, View, load
from requant.formats.torch_zip.strided import StridedSlice
from requant.ir import Tensor
from requant.printable import shorten
from requant.sources import FileSlice, Source, open_regular
from requant.system import read_at

MAX_PICKLE: Final = 1 << 24
#: How many times the file's bytes its tensors may have together. Views repeat numbers: a head that is tied has all of
#: the embedding's, `expand` makes rows of one; a hostile file of a kilobyte could promise terabytes.
MAX_EXPANSION: Final = 16
#: Tensors that repeat numbers and are told by name.
_TOLD: Final = 8
#: How a file begins that torch wrote before version 1.6: a pickled magic number.
LEGACY: Final = bytes.fromhex("80028a0a6cfc9c46f920")
#: Under which keys training tools keep the weights beside other things.
_NESTED: Final = ("state_dict", "model_state_dict", "model", "module")

_TORCH: Final[Mapping[str, str]] = {
    **{f"torch.{name}": label for name, label in {
        "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "short": "I16", "uint16": "U16", "int32": "I32",
        "int": "I32", "uint32": "U32", "int64": "I64", "long": "I64", "uint64": "U64", "float16": "F16", "half": "F16",
        "bfloat16": "BF16", "float32": "F32", "float": "F32", "float64": "F64", "double": "F64", "complex64": "C64",
        "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
        "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    }.items()},
    **{f"torch.{name}Storage": label for name, label in {
        "Bool": "BOOL", "Byte": "U8", "Char": "I8", "Short": "I16", "Int": "I32", "Long": "I64", "Half": "F16",
        "BFloat16": "BF16", "Float": "F32", "Double": "F64", "ComplexFloat": "C64",
    }.items()},
}  # fmt: skip


def read_torch(path: Path) -> Header:
    """The tensors of `path` in the order of its dictionary. Nothing of the file is run, no tensor byte is read."""
    descriptor = open_regular(path)
    try:
        start = read_at(descriptor, len(LEGACY), 0)
        if start == LEGACY:
            raise UnsupportedError(
                f"{path}: written by torch before version 1.6, or with _use_new_zipfile_serialization=False",
                hint='save it again: torch.save(torch.load("FILE", weights_only=True), "FILE")',
            )
        archive = Archive(path, descriptor)
        root = _root(archive)
        if f"{root}/byteorder" in archive.members and archive.read(f"{root}/byteorder", 16) != b"little":
            raise UnsupportedError(f"{path}: written on a big-endian machine", hint="save it again on a common one")
        program = archive.read(f"{root}/data.pkl", MAX_PICKLE)
        return _Reader(archive, root).header(_load(path, program))
    finally:
        os.close(descriptor)


def is_torch(path: Path) -> bool:
    """Whether a file was written by torch.save; may raise `OSError` or an `Error`."""
    descriptor = open_regular(path)
    try:
        start = read_at(descriptor, len(LEGACY), 0)
        if start == LEGACY:
            return True
        return start.startswith(b"PK\x03\x04") and bool(_root(Archive(path, descriptor)))
    finally:
        os.close(descriptor)


def _root(archive: Archive) -> str:
    """The folder inside the archive that everything is in, whatever it is called."""
    for name in archive.members:
        if name.endswith("/data.pkl"):
            root = name.removesuffix("/data.pkl")
            if f"{root}/constants.pkl" in archive.members:
                raise UnsupportedError(
                    f"{archive.path}: a TorchScript program, not a file of weights",
                    hint='save its weights: torch.save(torch.jit.load("FILE").state_dict(), "NEW")',
                )
            return root
    raise FormatError(archive.path, "a zip archive without data.pkl", hint="torch.save did not write this file")


def _load(path: Path, program: bytes) -> object:
    try:
        return load(program)
    except UnknownGlobalError as error:
        raise FormatError(
            path,
            f"data.pkl asks to call {shorten(str(error))}, which no tensor needs",
            hint="nothing of it was run; if you trust the file, save only its weights: model.state_dict()",
        ) from None
    except PickleError as error:
        raise FormatError(path, f"data.pkl: {error}", hint="the file is damaged") from None


@dataclass(frozen=True, slots=True)
class _Reader:
    archive: Archive
    root: str

    def header(self, value: object) -> Header:
        """The tensors of the dictionary that holds them; text and numbers beside them are kept as metadata."""
        state = _state(value)
        if state is None:
            raise FormatError(
                self.archive.path, "no dictionary of tensors", hint="save the weights alone: model.state_dict()"
            )
        tensors: list[Tensor] = []
        views: list[View] = []
        metadata: dict[str, str] = {}
        for key, item in state.items():
            if isinstance(item, View):
                tensors.append(self._tensor(str(key), item))
                views.append(item)
            elif isinstance(item, str | int | float):
                metadata[str(key)] = str(item)
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise FormatError(self.archive.path, "two tensors have the same name: one is text, the other a number")
        self._refuse_overlaps({view.storage.key for view in views})
        return Header(metadata, tuple(tensors), self._repeated(tensors, views))

    def _refuse_overlaps(self, keys: Collection[str]) -> None:
        """Storages that share bytes of the file: torch writes none, and each would be read as if it were its own."""
        members = {key: self.archive.members[f"{self.root}/data/{key}"] for key in keys}
        spans = sorted((member.header, self.archive.offset(member) + member.nbytes, k) for k, member in members.items())
        for (_, end, first), (start, _, second) in pairwise(spans):
            if start < end:
                found = f"the storages {shorten(first)} and {shorten(second)} lie over each other"
                raise self.archive.error(found, start)

    def _repeated(self, tensors: Sequence[Tensor], views: Sequence[View]) -> tuple[str, ...]:
        """What is to be told of tensors with more numbers than are stored; `FormatError` where that has no measure."""
        total = sum(tensor.nbytes for tensor in tensors)
        if total > MAX_EXPANSION * self.archive.size:
            raise FormatError(
                self.archive.path,
                f"its tensors have {total:,} bytes, the file {self.archive.size:,}: they repeat the same numbers",
                hint="if that is meant, save copies: {name: t.contiguous().clone() for name, t in state.items()}",
            )
        sizes = [(tensor, self._nbytes(tensor.name, view.storage)) for tensor, view in zip(tensors, views, strict=True)]
        return tuple(
            f"{shorten(tensor.name)} repeats numbers: {held:,} bytes are stored, {tensor.nbytes:,} are read"
            for tensor, held in sizes
            if tensor.nbytes > held
        )[:_TOLD]

    def _tensor(self, name: str, view: View) -> Tensor:
        kind = view.dtype or view.storage.kind.replace("torch.cuda.", "torch.")
        label = _TORCH.get(kind)
        if label is None:
            raise UnsupportedError(f"{self.archive.path}: tensor {shorten(name)} is of type {shorten(kind)}")
        encoding = DENSE[label]
        return Tensor(name, view.shape, encoding, {"data": self._source(name, view, encoding)})

    def _source(self, name: str, view: View, encoding: Dense) -> Source:
        itemsize = encoding.dtype.bits // 8
        count = prod(view.shape)
        steps = zip(view.shape, view.strides, strict=True)
        end = view.offset + 1 + sum((size - 1) * step for size, step in steps) if count else view.offset
        held = self._nbytes(name, view.storage)
        if end * itemsize > held or count > 1 << 62:
            raise FormatError(
                self.archive.path,
                f"tensor {shorten(name)}: {encoding.label}{shorten(list(view.shape))} ends at byte {end * itemsize} "
                f"of a storage of {held} bytes",
                hint="the file is damaged",
            )
        member = self.archive.members[f"{self.root}/data/{view.storage.key}"]
        start = self.archive.offset(member) + view.offset * itemsize
        if _is_contiguous(view):
            return FileSlice(self.archive.path, start, count * itemsize, self.archive.identity)
        return StridedSlice(self.archive.path, start, itemsize, view.shape, view.strides, self.archive.identity)

    def _nbytes(self, name: str, storage: Storage) -> int:
        """Bytes of a storage, which its member must hold."""
        member = self.archive.members.get(f"{self.root}/data/{storage.key}")
        if member is None:
            raise FormatError(
                self.archive.path,
                f"tensor {shorten(name)}: its storage {shorten(storage.key)} is not in the archive",
                hint="the file is damaged",
            )
        label = _TORCH.get(storage.kind.replace("torch.cuda.", "torch."))
        itemsize = DENSE[label].dtype.bits // 8 if label else 1
        if storage.numel * itemsize > member.nbytes:
            raise FormatError(
                self.archive.path,
                f"tensor {shorten(name)}: a storage of {storage.numel * itemsize} bytes in a member of {member.nbytes}",
                hint="the file is damaged",
            )
        return storage.numel * itemsize


def _state(value: object) -> dict[object, object] | None:
    """The dictionary with tensors in it: the value itself, or under one of the usual keys."""
    if not isinstance(value, dict):
        return None
    if any(isinstance(item, View) for item in value.values()):
        return value
    nested = (value[key] for key in _NESTED if isinstance(value.get(key), dict))
    return next((inner for inner in nested if any(isinstance(item, View) for item in inner.values())), None)


def _is_contiguous(view: View) -> bool:
    expected = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if size != 1 and stride != expected:
            return prod(view.shape) == 0
        expected *= size
    return True
