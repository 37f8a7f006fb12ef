"""GGUF files: what the reader objects to, and what it leaves alone though llama.cpp or the specification do not.

Source: docs/gguf.md of ggml; ggml/src/gguf.cpp of llama.cpp b11549.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from requant.errors import Error
from requant.formats.gguf.arrays import Strings
from requant.formats.gguf.header import Header
from requant.formats.gguf.shards import joined, read_files
from requant.formats.gguf.writing import NAME_LIMIT
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.printable import printable
from requant.sources import FileSlice, read
from requant.validation.findings import Report

#: The most padding that is read: alignments in use are 32, and a page.
_READ: Final = 1 << 16


def read_gguf(path: Path, report: Report) -> Checkpoint[Tensor] | None:
    """The model, without what is wrong with its files, which the report says; None where nothing can be read."""
    before = len(report.findings)
    with report.noting_all("readable", path):
        files = read_files(path, report.object)
        whole = len(report.findings) == before
        metadata, tensors = joined(files, report.object if whole else _pass_over)
        for file, header in files.items():
            _file(file, header, report)
        report.checked.append(f"{len(files)} GGUF {'file' if len(files) == 1 else 'files'}")
        named = metadata.get("general.architecture")
        architecture = named.value if named is not None and isinstance(named.value, str) else ""
        return Checkpoint(Naming.GGML, architecture, tensors, metadata=metadata, path=path)
    return None


def _pass_over(rule: str, error: Error) -> None:
    """An objection that follows from another: files that could not be read have no tensors to count."""


def _file(path: Path, header: Header, report: Report) -> None:
    where = "" if path == report.path else f"{path.name}: "
    for tensor in header.tensors:
        length = len(tensor.name.encode("utf-8", "surrogateescape"))
        if length > NAME_LIMIT:
            shown = printable(tensor.name, 80)
            report.add("name-length", f"{where}tensor {shown!r}: its name has {length} bytes")
    for what in _not_text(header):
        report.add("text", f"{where}{what} is not UTF-8")
    _places(path, header, where, report)


def _not_text(header: Header) -> Iterator[str]:
    for key, typed in header.metadata.items():
        if not _is_text(key):
            yield f"the key {printable(key)}"
        bad = _bad_strings(typed)
        if bad is not None:
            yield f"{printable(key)}{bad}"
    yield from (f"the name of tensor {printable(t.name)}" for t in header.tensors if not _is_text(t.name))


def _bad_strings(typed: Typed) -> str | None:
    """Which string of a value is not UTF-8."""
    value = typed.value
    if isinstance(value, str):
        return None if _is_text(value) else ""
    if isinstance(value, Strings):
        return next((f", item {index}," for index, item in enumerate(value) if not _is_text(item)), None)
    return None


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\udc80" <= char <= "\udcff" for char in text)


def _places(path: Path, header: Header, where: str, report: Report) -> None:
    """Whether tensors follow each other as gguf.cpp demands, with zeros between them."""
    spans = [source for t in header.tensors if isinstance(source := t.sources["data"], FileSlice)]
    size = path.stat().st_size
    expected, dirty = header.data, []
    for tensor, span in zip(header.tensors, spans, strict=True):
        if header.complete and span.offset != expected and span.offset % header.alignment == 0:
            message = f"begins at byte {span.offset}; it should at {expected}, where the one before it ends"
            report.add("hole", f"{where}tensor {printable(tensor.name)!r} {message}")
        expected = span.offset + span.nbytes
        expected += -expected % header.alignment
    if not header.complete or not spans:
        return
    ends = sorted(span.offset + span.nbytes for span in spans)
    for end in ends:
        gap = FileSlice(path, end, max(0, min(-end % header.alignment, size - end, _READ)))
        if gap.nbytes and np.any(read(gap)):
            dirty.append(end)
    if dirty:
        report.add("padding", f"{where}bytes that are not zero pad {len(dirty)} tensors, the first at byte {dirty[0]}")
    last = ends[-1] + -ends[-1] % header.alignment
    if size > last:
        report.add("bytes-behind", f"{where}{size - last} bytes follow the last tensor, from byte {last} on")
