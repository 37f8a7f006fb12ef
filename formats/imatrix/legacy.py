"""The old form of importance matrices: no magic, no version, little-endian 32-bit numbers one after another.

    entries (i32, at least 1), then for each: length of the name, the name, calls (i32), values (i32, at least 1),
    that many f32; then, perhaps: chunks (i32), length of the data set's name, the name.

Values are mean squares times calls, so that dividing by calls gives the means.
Source: `common_imatrix_load_legacy` of llama.cpp.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from requant.errors import FormatError
from requant.importance import Importance, Measured

#: ggml's names are shorter, and so are those in real files of this form.
_NAME_LIMIT: Final = 1024
#: More columns times experts than any tensor has; it keeps hostile files from filling memory.
VALUES_LIMIT: Final = 1 << 24


def read_legacy(path: Path) -> Importance:
    """Read a `.dat`; of two entries of one name the later counts."""
    with path.open("rb") as file:
        return _Reader(path, file).importance()


class _Reader:
    """Goes through an open file from front to back."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def importance(self) -> Importance:
        (count,) = self._numbers(1, "the number of entries")
        if count < 1 or 13 * count > self._size:
            raise FormatError(
                self._path,
                f"this is no importance matrix: it would begin with {count} entries, in {self._size} bytes",
                offset=0,
                hint="llama-imatrix makes importance matrices",
            )
        entries = dict(self._entry(index) for index in range(count))
        chunks, datasets = self._trailer()
        return Importance(entries, datasets, chunks, source=str(self._path))

    def _entry(self, index: int) -> tuple[str, Measured]:
        (length,) = self._numbers(1, f"entry {index}")
        if not 0 <= length <= _NAME_LIMIT:
            raise self._damaged(f"entry {index} claims a name of {length} bytes")
        name = _text(self._bytes(length, f"the name of entry {index}"))
        calls, count = self._numbers(2, f"the lengths of entry {index}")
        if not 0 < count <= min(VALUES_LIMIT, (self._size - self._file.tell()) // 4):
            raise self._damaged(f"{name or 'an entry'} claims {count} values")
        values = np.frombuffer(self._bytes(4 * count, f"the values of {name}"), "<f4")
        return name, Measured(values.reshape(1, -1), np.array([max(calls, 1)], np.int64))

    def _trailer(self) -> tuple[int, tuple[str, ...]]:
        """Chunks and data set, each only if it is there whole."""
        left = self._size - self._file.tell()
        if left < 4:
            return 0, ()
        (chunks,) = self._numbers(1, "the number of chunks")
        if left >= 8:
            (length,) = self._numbers(1, "the length of the data set's name")
            if 0 < length <= min(left - 8, _NAME_LIMIT):
                return max(chunks, 0), (_text(self._bytes(length, "the data set's name")),)
        return max(chunks, 0), ()

    def _numbers(self, count: int, what: str) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", self._bytes(4 * count, what))

    def _bytes(self, count: int, what: str) -> bytes:
        position = self._file.tell()
        data = self._file.read(count)
        if len(data) < count:
            raise FormatError(self._path, f"the file ends before {what}", offset=position, hint="is it cut short?")
        return data

    def _damaged(self, message: str) -> FormatError:
        return FormatError(
            self._path,
            message,
            offset=self._file.tell(),
            hint="the file is damaged or cut short, or no importance matrix",
        )


def _text(data: bytes) -> str:
    """A zero byte ends a name, whatever length was claimed for it."""
    return data.split(b"\0")[0].decode("utf-8", "surrogateescape")


def legacy_bytes(importance: Importance) -> bytes:
    """`importance` as llama-imatrix writes it with `--output-format dat`.

    Sums become means times chunks, and experts that no token reached count 1. Entries without any token are left out.
    Source: `save_imatrix_legacy` of its tool.
    """
    tokens = max(importance.chunk_tokens, 1)
    entries = {name: entry for name, entry in sorted(importance.entries.items()) if (entry.counts > 0).any()}
    out = [struct.pack("<i", len(entries))]
    for name, entry in entries.items():
        raw = name.encode("utf-8", "surrogateescape")
        calls = (int(entry.counts.max()) + tokens - 1) // tokens
        counts = entry.counts.astype(np.float32)[:, None]
        with np.errstate(all="ignore"):
            means = np.where(counts > 0, entry.sums / counts, np.float32(1)) * np.float32(calls)
        out.append(struct.pack(f"<i{len(raw)}sii", len(raw), raw, calls, means.size))
        out.append(means.astype("<f4").tobytes())
    dataset = (importance.datasets[0] if importance.datasets else "").encode("utf-8", "surrogateescape")
    out.append(struct.pack(f"<ii{len(dataset)}s", importance.chunks, len(dataset), dataset))
    return b"".join(out)
