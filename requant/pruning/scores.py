"""What a weight counts: its size, or its size times the norm of what its column is given (Wanda).

Source of the second: Sun, Liu, Bair and Kolter, "A simple and effective pruning approach for large language models"
(2023), https://arxiv.org/abs/2306.11695.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node

_NONE: Final = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """of: the weights. norms: [matrices, columns] of what each matrix of a stack is given, 1 matrix otherwise; None
    where sizes alone count."""

    of: Node
    norms: NDArray[np.float32] | None = None

    @property
    def height(self) -> int:
        """Rows of a matrix."""
        return self.of.rows if self.norms is None else self.of.rows // len(self.norms)

    def pieces(self, values: Values, rows: range) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.float32]]]:
        """Rows of one matrix at a time: (which they are, their flat values, the norms of their columns).

        rows: the numbers of the rows of `values`, which are contiguous.
        """
        start = 0
        while start < len(rows):
            matrix = rows[start] // max(self.height, 1)
            stop = start + len(range(rows[start], (matrix + 1) * self.height, rows.step))
            here = slice(start, min(stop, len(rows)))
            yield here, values[here].reshape(-1), _NONE if self.norms is None else self.norms[matrix]
            start = here.stop
