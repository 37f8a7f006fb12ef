"""What a matrix is given, as E[x xᵀ] over tokens: which errors of its weights make up for each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.errors import PlanError
from requant.sources import Bytes, Source, read

Square = NDArray[np.float32]

#: How far the diagonal may be from the squares that were summed up beside it, relative to the largest of them.
_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Hessian:
    """Σ x xᵀ over what one matrix was given, where it lies.

    name: of the tensor that holds it in a file of statistics; matrices that are given the same share one.
    source: float32 [columns, columns]. tokens: how many were summed up. squares: what the diagonal must be, where it
    was summed up besides. divisors: by which inputs are divided since, [columns].
    """

    name: str
    columns: int
    tokens: int
    source: Source
    squares: NDArray[np.float32] | None = None
    divisors: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Of the whole square."""
        return 4 * self.columns * self.columns

    def mean(self) -> Square:
        """E[x xᵀ], read now. Raises `PlanError` for one that no token has reached, and for what is none."""
        if not self.tokens:
            raise PlanError(f"{self.name} was reached by no token", hint="calibrate with more text")
        found = read(self.source).view("<f4").astype(np.float32, copy=False).reshape(self.columns, self.columns)
        diagonal = np.diagonal(found)
        if not np.isfinite(found).all() or (diagonal < 0).any():
            raise PlanError(f"{self.name} holds what is no sum of squares", hint="the statistics are damaged")
        if self.squares is not None:
            self._check_diagonal(diagonal, self.squares)
        found /= np.float32(self.tokens)
        if self.divisors is not None:
            found /= self.divisors[:, None]
            found /= self.divisors
        return found

    def _check_diagonal(self, diagonal: NDArray[np.float32], squares: NDArray[np.float32]) -> None:
        if not float(np.abs(diagonal - squares).max()) <= _TOLERANCE * max(float(squares.max()), 1e-30):
            raise PlanError(
                f"{self.name}: its diagonal is not the squares beside it", hint="the statistics are damaged"
            )


@dataclass(frozen=True, slots=True)
class Added:
    """Float32 numbers, each the sum of those of several sources."""

    sources: tuple[Source, ...]

    @property
    def nbytes(self) -> int:
        """Of each of them."""
        return self.sources[0].nbytes

    def read_into(self, start: int, out: Bytes) -> None:
        """Sums are made as they are read; stretches begin and end at whole numbers."""
        total = np.zeros(out.size // 4, np.float32)
        for source in self.sources:
            total += read(source, start, start + out.size).view("<f4")
        out[...] = total.astype("<f4", copy=False).view(np.uint8)


def added(parts: Sequence[Hessian]) -> Hessian:
    """Of several calibrations of one model; raises `PlanError` where they are of different columns."""
    first = parts[0]
    if len({(part.name, part.columns) for part in parts}) > 1:
        raise PlanError(f"{first.name} is of other columns in the statistics that are merged")
    source = Added(tuple(part.source for part in parts))
    return Hessian(first.name, first.columns, sum(part.tokens for part in parts), source)
