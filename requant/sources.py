"""Bytes that can be had when they are wanted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from requant.errors import FormatError

Bytes = NDArray[np.uint8]


class Source(Protocol):
    """A stretch of bytes whose length is free and whose content is asked for."""

    @property
    def nbytes(self) -> int:
        """Length without reading."""
        ...

    def read_into(self, start: int, out: Bytes) -> None:
        """Fill `out` (contiguous) with the bytes from `start` on."""
        ...


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A stretch of a file.

    It is read with `pread`, never mapped: a file that shrinks while it is read is an error here and a
    crash there, and buffers that are reused keep memory bounded where mapped pages would pile up.
    """

    path: Path
    offset: int
    nbytes: int

    def read_into(self, start: int, out: Bytes) -> None:
        """Read; a file that ends early is a `FormatError`."""
        view = memoryview(out.data).cast("B")
        position = self.offset + start
        descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            while view:
                count = os.preadv(descriptor, [view], position)
                if count == 0:
                    raise FormatError(
                        self.path,
                        f"the file ends {len(view)} bytes early; it changed after it was opened",
                        offset=position,
                        hint="is another program still writing it?",
                    )
                view, position = view[count:], position + count
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Bytes made by the plan itself, such as the frequency factors of a scaled rope."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """Length."""
        return len(self.data)

    def read_into(self, start: int, out: Bytes) -> None:
        """Copy."""
        out[...] = np.frombuffer(self.data, np.uint8, out.size, start)


def read(source: Source, start: int = 0, stop: int | None = None) -> Bytes:
    """The bytes `[start, stop)` of `source` in a new array."""
    out = np.empty((source.nbytes if stop is None else stop) - start, np.uint8)
    source.read_into(start, out)
    return out
