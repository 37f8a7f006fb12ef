"""Nodes whose rows are had some at a time only."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from numpy.typing import NDArray

from requant.codecs import Codes
from requant.expressions.context import Context
from requant.expressions.form import Form
from requant.expressions.node import Node


class InGranules(Node):
    """Any rows are given, out of whole granules; the last granule of a tensor may be short."""

    __slots__ = ()

    @abstractmethod
    def fill_granules(self, form: Form, start: int, stop: int, out: NDArray[Any], context: Context) -> None:
        """The rows `[start, stop)`, which are whole granules; `out` is contiguous."""

    def codes_of_granules(self, start: int, stop: int, context: Context) -> Codes:
        """The same as integers and their scales."""
        raise NotImplementedError(f"{type(self).__name__} has no codes")

    @abstractmethod
    def granule_bytes(self, form: Form, rows: int, width: int) -> int:
        """What `fill_granules` takes for `rows` rows, besides `out`."""

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """With the rows that are made only because they are of the same granules."""
        if straight:
            return self.granule_bytes(form, rows, width)
        rows = min(self.rows, -(-rows // self.granule) * self.granule + (self.granule if self.granule > 1 else 0))
        return self.granule_bytes(form, rows, width) + rows * width

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """Straight into `out` where that has room for whole granules, else by way of a buffer."""
        if not rows:
            return
        start, stop = self._covering(rows)
        if rows == range(start, stop) and out.flags.c_contiguous:
            self.fill_granules(form, start, stop, out, context)
            return
        with context.scratch.room() as scratch:
            wide = scratch.like(out, stop - start)
            self.fill_granules(form, start, stop, wide, context)
            out[...] = wide[rows.start - start :: rows.step][: len(rows)]

    def codes(self, rows: range, context: Context) -> Codes:
        """Those of whole granules, and of them the wanted ones."""
        start, stop = self._covering(rows)
        codes = self.codes_of_granules(start, stop, context)
        if rows == range(start, stop):
            return codes
        return codes.by_row(lambda array: array[rows.start - start :: rows.step][: len(rows)].copy())

    def _covering(self, rows: range) -> tuple[int, int]:
        last = rows[-1] + 1 if rows else rows.start
        return rows.start // self.granule * self.granule, min(self.rows, -(-last // self.granule) * self.granule)
