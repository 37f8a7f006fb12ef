"""A tensor that is not contiguous: its numbers are gathered from a file in the order in which they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import as_strided

from requant.sources import Bytes, FileSlice, Identity, read

Sizes = tuple[int, ...]

#: Bytes read at once although not all of them are wanted.
_GAP: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class StridedSlice:
    """`shape` numbers of `itemsize` bytes, `strides` numbers apart, the first at byte `offset` of the file."""

    path: Path
    offset: int
    itemsize: int
    shape: Sizes
    strides: Sizes
    identity: Identity | None = field(default=None, compare=False)

    @property
    def file(self) -> FileSlice:
        """What it is a view of."""
        return FileSlice(self.path, self.offset, 0, self.identity)

    @property
    def nbytes(self) -> int:
        """Length, as if it were contiguous."""
        return prod(self.shape) * self.itemsize

    def read_into(self, start: int, out: Bytes) -> None:
        """Gather; memory is some times `out`, whatever the size of the tensor."""
        first, last = start // self.itemsize, -(-(start + out.size) // self.itemsize)
        numbers = np.empty((last - first, self.itemsize), np.uint8)
        self._range(self.offset, self.shape, self.strides, first, last, numbers)
        skip = start - first * self.itemsize
        out[...] = numbers.reshape(-1)[skip : skip + out.size]

    def _range(self, offset: int, shape: Sizes, strides: Sizes, first: int, last: int, out: Bytes) -> None:
        """The numbers `[first, last)` of a view, counted in row-major order."""
        if first == last:
            return
        if last - first == prod(shape):
            self._whole(offset, shape, strides, out)
            return
        row = prod(shape[1:])
        step = strides[0] * self.itemsize
        while first < last:
            index, within = divmod(first, row)
            whole_rows = (last - first) // row if not within else 0
            count = whole_rows * row if whole_rows else min(last, (index + 1) * row) - first
            part, out = out[:count], out[count:]
            at = offset + index * step
            if whole_rows:
                self._whole(at, (whole_rows, *shape[1:]), strides, part)
            else:
                self._range(at, shape[1:], strides[1:], within, within + count, part)
            first += count

    def _whole(self, offset: int, shape: Sizes, strides: Sizes, out: Bytes) -> None:
        """All numbers of a view: at once where they lie close together, else half by half."""
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if span * self.itemsize <= max(_GAP, 4 * out.size):
            data = read(replace(self.file, offset=offset, nbytes=span * self.itemsize)).reshape(-1, self.itemsize)
            steps = (*(stride * self.itemsize for stride in strides), 1)
            out[...] = as_strided(data, (*shape, self.itemsize), steps, writeable=False).reshape(out.shape)
            return
        axis = max(range(len(shape)), key=lambda i: (shape[i] - 1) * strides[i])
        half = shape[axis] // 2
        target = out.reshape(*shape, self.itemsize)
        for start, size in ((0, half), (half, shape[axis] - half)):
            part = (*shape[:axis], size, *shape[axis + 1 :])
            gathered = np.empty((prod(part), self.itemsize), np.uint8)
            self._whole(offset + start * strides[axis] * self.itemsize, part, strides, gathered)
            where = (*(slice(None),) * axis, slice(start, start + size))
            target[where] = gathered.reshape(*part, self.itemsize)
