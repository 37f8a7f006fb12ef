"""How large the weights of each row and each column of a matrix are together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.reducing import reduced

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Energies(Reduction):
    """Sums of squares: of each row, and of each column."""

    of: Node

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The matrix."""
        return (self.of,)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> tuple[list[Doubles], Doubles]:
        """Of a slab."""
        squares = np.square(values[0], dtype=np.float32)
        return [squares.sum(1, dtype=np.float64)], squares.sum(0, dtype=np.float64)

    def merge(self, one: Any, other: Any) -> Any:
        """Rows follow each other, columns are added."""
        return [*one[0], *other[0]], one[1] + other[1]

    def result(self, total: Any | None) -> tuple[Doubles, Doubles]:
        """[rows], [columns]."""
        if total is None:
            return np.zeros(self.of.rows), np.zeros(self.of.columns)
        return np.concatenate(total[0]), total[1]


def energies_of(nodes: Mapping[str, Node]) -> dict[str, tuple[Doubles, Doubles]]:
    """Of every matrix, by name; each is read once, some rows at a time."""
    return dict(zip(nodes, reduced(map(Energies, nodes.values())), strict=True))
