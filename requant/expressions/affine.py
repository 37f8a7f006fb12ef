"""A product and a sum with constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from requant.codecs import Values
from requant.expressions.elementwise import Elementwise
from requant.expressions.node import Node


@dataclass(frozen=True, slots=True)
class Affine(Elementwise):
    """factor * x + term in float32: gemma's norms are stored as offsets from one."""

    of: Node
    factor: float = 1.0
    term: float = 0.0

    @property
    def children(self) -> tuple[Node, ...]:
        """What is multiplied."""
        return (self.of,)

    def over(self, children: Sequence[Node]) -> Node:
        """The same of another."""
        return replace(self, of=children[0])

    def explain(self) -> str:
        """For example `norm + 1`."""
        text = self.of.explain() if self.factor == 1 else f"{self.factor:g} * {self.of.explain()}"
        return text if self.term == 0 else f"{text} {'+' if self.term > 0 else '-'} {abs(self.term):g}"

    def change(self, values: Values, rows: range) -> None:
        """One rounding for each of the two that is no identity."""
        if self.factor != 1:
            values *= np.float32(self.factor)
        if self.term != 0:
            values += np.float32(self.term)
