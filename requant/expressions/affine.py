"""A product and a sum with constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from requant.codecs import Values
from requant.expressions.elementwise import Elementwise
from requant.expressions.single import Single


@dataclass(frozen=True, slots=True)
class Affine(Single, Elementwise):
    """factor * x + term in float32: gemma's norms are stored as offsets from one."""

    factor: float = 1.0
    term: float = 0.0

    def explain(self) -> str:
        """For example `norm + 1`."""
        text = self.of.explain() if self.factor == 1 else f"{self.factor:g} * {self.of.explain()}"
        return text if self.term == 0 else f"({text} {'+' if self.term > 0 else '-'} {abs(self.term):g})"

    def change(self, values: Values, rows: range) -> None:
        """One rounding for each of the two that is no identity."""
        if self.factor != 1:
            values *= np.float32(self.factor)
        if self.term != 0:
            values += np.float32(self.term)
