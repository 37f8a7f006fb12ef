"""Rows and columns exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from requant.encodings import Dense, Encoding, Shape
from requant.expressions.context import Context
from requant.expressions.factors import Factors, Products
from requant.expressions.form import Form
from requant.expressions.node import Node
from requant.expressions.single import Single


@dataclass(frozen=True, slots=True)
class Transposed(Single):
    """Rows become columns, in every matrix of a stack: GPT-2's Conv1D and gpt-oss' experts are [in, out] in
    transformers, where a linear layer is [out, in]."""

    @property
    def shape(self) -> Shape:
        """[..., columns, rows]."""
        *stack, rows, columns = self.of.shape
        return (*stack, columns, rows)

    def explain(self) -> str:
        """For example `transposed(c_attn)`."""
        return f"transposed({self.of.explain()})"

    def turned(self) -> Node:
        """What it is made of."""
        return self.of

    def product(self, of: Products) -> Factors | None:
        """Each is the other, turned."""
        found = self.of.product(of)
        return None if found is None else found.turned()

    def forms(self, target: Encoding) -> Form:
        """Values: nothing else is stored by the number."""
        return Form.VALUES

    def holds(self, target: Encoding) -> bool:
        """Dense numbers are moved; groups of others are not the same any more."""
        return isinstance(target, Dense) and self.of.holds(target)

    @property
    def granule(self) -> int:
        """A whole matrix, which is read for any of its rows."""
        return max(self.shape[-2], 1)

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """A whole matrix of the child, whatever is wanted of it."""
        height = self.columns
        whole = height % self.of.granule == 0 or height == self.of.rows
        return 4 * height * self.of.columns + self.of.run_bytes(form, height, 4 * self.of.columns, straight=whole)

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """Matrix by matrix; of each, only the columns that are wanted."""
        height, wide = self.columns, self.shape[-2]
        at = 0
        while at < len(rows):
            matrix, first = divmod(rows[at], wide)
            count = len(range(first, wide, rows.step))
            here = out[at : at + count]
            with context.scratch.room() as scratch:
                values = scratch.values(height, wide)
                self.of.fill(form, range(matrix * height, (matrix + 1) * height), values, context)
                here[...] = values[:, first :: rows.step][:, : len(here)].T
            at += len(here)
