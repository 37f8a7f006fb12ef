"""Rows that are seen as a grid, with its axes in another order."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from requant.expressions.permuted import Permuted


@dataclass(frozen=True, slots=True)
class Regrouped(Permuted):
    """Rows in groups of `sizes` (slowest first), with the axes of each group in the order `axes`.

    With sizes (2, 3), axes (1, 0) rows 0 1 2, 3 4 5 become 0 3, 1 4, 2 5. Heads of q, k and v that a fused projection
    has by the group are put together so, and value heads that are listed by their key head.
    """

    sizes: tuple[int, ...]
    axes: tuple[int, ...]

    def explain(self) -> str:
        """For example `regrouped(in_proj, 2x3 by 1 0)`."""
        axes = " ".join(map(str, self.axes))
        return f"regrouped({self.of.explain()}, {'x'.join(map(str, self.sizes))} by {axes})"

    @property
    def group(self) -> int:
        """Rows of the grid."""
        return prod(self.sizes)

    def source_rows(self) -> NDArray[np.intp]:
        """The grid's numbers, transposed."""
        return np.arange(self.group, dtype=np.intp).reshape(self.sizes).transpose(self.axes).ravel()
