"""Each column by a factor of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from requant.encodings import Shape
from requant.expressions.arithmetic import Arithmetic
from requant.expressions.context import Context
from requant.expressions.form import Form
from requant.expressions.node import Node


@dataclass(frozen=True, slots=True)
class ColumnsScaled(Arithmetic):
    """x * factors in float32. factors: as many numbers as `of` has columns."""

    of: Node
    factors: Node

    @property
    def shape(self) -> Shape:
        """That of `of`."""
        return self.of.shape

    @property
    def children(self) -> tuple[Node, ...]:
        """The matrix and its factors."""
        return (self.of, self.factors)

    def over(self, children: Sequence[Node]) -> Self:
        """Another matrix and its factors."""
        return type(self)(*children)

    def explain(self) -> str:
        """For example `columns of up_proj * scales`."""
        return f"columns of {self.of.explain()} * {self.factors.explain()}"

    @property
    def granule(self) -> int:
        """The matrix's."""
        return self.of.granule

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """What the matrix takes, and the factors."""
        factors = 4 * self.of.columns
        once = factors + self.factors.run_bytes(form, self.factors.rows, 4 * self.factors.columns, straight=True)
        return max(self.of.run_bytes(form, rows, width, straight), once + 128)

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """The matrix's rows, each multiplied."""
        self.of.fill(form, rows, out, context)
        with context.scratch.room() as scratch:
            factors = scratch.values(self.factors.rows, self.factors.columns)
            self.factors.fill(form, range(self.factors.rows), factors, context)
            out *= factors.reshape(1, -1)
