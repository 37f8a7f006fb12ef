"""Sums over whole tensors: norms and dot products, of a tensor or of each of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.precision import Precision

#: Of the rows of all models, their numbers and what is known already: sums [..., rows].
Terms = Callable[[Sequence[Values], range, Sequence[Any]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Totals(Reduction):
    """Sums over all rows of a tensor: [...]. `terms` gives those of each row, or of each value of some axis.

    needed: by what is known already, whether it is needed at all; the result is None if not.
    """

    inputs: tuple[Node, ...] = field(compare=False)
    terms: Terms = field(compare=False)
    needed: Callable[[Sequence[Any]], bool] = field(default=lambda known: True, compare=False)

    def needs(self, rows: range, known: Sequence[Any]) -> bool:
        """Of every slab or of none."""
        return self.needed(known)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
        """Of one slab."""
        return np.asarray(self.terms(values, rows, known).sum(axis=-1))

    def merge(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        """Added."""
        return np.asarray(one + other)


@dataclass(frozen=True, slots=True)
class RowSums(Reduction):
    """A sum for each row of a tensor: [..., rows]."""

    inputs: tuple[Node, ...] = field(compare=False)
    terms: Terms = field(compare=False)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
        """Of one slab."""
        return self.terms(values, rows, known)

    def merge(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        """One after the other."""
        return np.concatenate([one, other], axis=-1)


def products(left: Values, right: Values, precision: Precision = Precision.F32) -> NDArray[np.float64]:
    """The sum of the products of each row, every product rounded, added up in double precision: [rows]."""
    from requant.kernels_cpu.merging import multiply_rows

    out = np.empty(len(left), np.float64)
    columns = left.shape[-1] if left.ndim > 1 else 1
    if out.size and columns:
        x, y = np.ascontiguousarray(left).reshape(-1), np.ascontiguousarray(right).reshape(-1)
        multiply_rows(x, y, columns, precision.work, out)
    else:
        out[:] = 0
    return out
