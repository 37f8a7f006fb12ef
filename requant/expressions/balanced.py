"""Columns or rows by factors that a plan has found: one side of what leaves the function of a model as it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from requant.codecs import Values
from requant.expressions.elementwise import Elementwise
from requant.expressions.single import Single


@dataclass(frozen=True, slots=True)
class Balanced(Single, Elementwise):
    """x * factors in float32. by_row: there is one for each row, not for each column."""

    factors: Values = field(default_factory=lambda: np.ones(1, np.float32), compare=False)
    by_row: bool = False

    def explain(self) -> str:
        """For example `columns of up_proj * smoothing`."""
        return f"{'rows' if self.by_row else 'columns'} of {self.of.explain()} * smoothing"

    def change(self, values: Values, rows: range) -> None:
        """One rounding."""
        values *= self.factors[rows.start : rows.stop : rows.step, None] if self.by_row else self.factors
