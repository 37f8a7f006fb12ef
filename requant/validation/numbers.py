"""Values: NaN, infinities, matrices of zeros, and what cannot be decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from requant.codecs import Values
from requant.encodings import Dense
from requant.expressions import Context, Node, Reduction, Scratch, Stored, part_of, slabs
from requant.ir import Checkpoint, Tensor
from requant.printable import printable
from requant.sources import FileSlice
from requant.validation.findings import Report
from requant.validation.scales import check_scales


class _Odd(Reduction):
    """Of a tensor: values that are not finite, the row of the first of them, and whether any value is not 0."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self._node,)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> tuple[int, int, bool]:
        """Of a slab; nearly all have none, which their least and largest tell."""
        (slab,) = values
        if not slab.size:
            return 0, -1, False
        least, largest = float(slab.min()), float(slab.max())
        if np.isfinite(least) and np.isfinite(largest):
            return 0, -1, bool(least or largest)
        bad = ~np.isfinite(slab)
        return int(bad.sum()), rows.start + int(np.flatnonzero(bad.any(axis=1))[0]), True

    def merge(self, one: tuple[int, int, bool], other: tuple[int, int, bool]) -> tuple[int, int, bool]:
        """Both; the earlier row."""
        return one[0] + other[0], one[1] if one[1] >= 0 else other[1], one[2] or other[2]


def check_values(source: Checkpoint[Tensor], report: Report, progress: Callable[[int], object]) -> None:
    """Decode every tensor, a slab at a time. progress: called with the bytes of each tensor that is done."""
    scratch = Scratch()
    for tensor in source.tensors:
        if not _is_integer(tensor) and _is_whole(tensor):
            _check(tensor, scratch, report)
        progress(tensor.nbytes)
    report.checked.append("values")


def _is_integer(tensor: Tensor) -> bool:
    return isinstance(tensor.encoding, Dense) and not tensor.encoding.dtype.is_float


def _is_whole(tensor: Tensor) -> bool:
    """Whether files have all of its bytes; that they have not is found elsewhere, and a row may be larger than any."""
    slices = (source for source in tensor.sources.values() if isinstance(source, FileSlice))
    return all(source.offset + source.nbytes <= source.path.stat().st_size for source in slices)


def _check(tensor: Tensor, scratch: Scratch, report: Report) -> None:
    odd = _Odd(Stored(tensor))
    context = Context(scratch)
    name = printable(tensor.name)
    total: tuple[int, int, bool] = (0, -1, False)
    with report.noting("readable", f"values of {name}"):
        for rows in slabs(odd.inputs):
            total = odd.merge(total, part_of(odd, rows, (), context))
    count, row, anything = total
    check_scales(tensor, report)
    if count:
        report.add("not-finite", f"tensor {name!r}: {count:,} values are NaN or infinite, the first in row {row}")
    elif not anything and len(tensor.shape) > 1 and 0 not in tensor.shape:
        report.add("all-zero", f"tensor {name!r} is nothing but zeros")
