"""NuSLERP: SLERP with weights, of two models or of their differences from a base; of whole tensors or of each row.

As mergekit 0.1.5 defines it: with `nuslerp_flatten: false`, rows are turned one by one, and with `nuslerp_row_wise`
columns. Every operation is rounded to the dtype of the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.methods.method import Base, Method, Parameter, Scope, Setting
from requant.merging.methods.rowwise import Rowwise, part_of
from requant.merging.methods.sums import RowSums, Totals, products

#: Norms below the first count as it; the square of a sine below the square of the second is none.
_SHORTEST: Final = 1e-7
_PARALLEL: Final = 1e-8


@dataclass(frozen=True, slots=True)
class Nuslerp(Rowwise):
    """Two passes: norms, then the cosine of what was made unit vectors."""

    @property
    def _by_columns(self) -> bool:
        flat = bool(self.setting.shared["nuslerp_flatten"])
        return not flat and bool(self.setting.shared["nuslerp_row_wise"]) and len(self.setting.shape) > 1

    @property
    def _by_rows(self) -> bool:
        flat = bool(self.setting.shared["nuslerp_flatten"])
        return not flat and not self._by_columns

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """Sums of squares of both, then of products of both made unit."""

        def squares(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            return np.stack([self._sums(x, x) for x in self._pair(values)])

        def dots(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            r, lengths = self.setting.precision.rounded, self._lengths(known)
            one, other = (
                r(x / self._placed(length, rows.start, len(rows)))
                for x, length in zip(self._pair(values), lengths, strict=True)
            )
            return self._sums(r(one * other), np.ones_like(one))[None]

        kind = RowSums if self._by_rows else Totals
        return (kind(inputs, squares), kind(inputs, dots))

    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """Value by value."""
        r, placed = self.setting.precision.rounded, self._placed
        one, other = self._pair(models)
        first_weight, other_weight, sine, parallel = (placed(x, first, len(one)) for x in self._weights(known))
        arc = r(r(r(first_weight * one) + r(other_weight * other)) / sine)
        t = self._t
        line = r(r(np.float32(1 - t) * one) + r(np.float32(t) * other))
        result = np.where(parallel != 0, line, arc)
        return result if self.setting.base is None else r(models[self.setting.base] + result)

    @property
    def _t(self) -> float:
        """The share of the second."""
        weights = [self.setting.number("weight", n) for n in self.setting.others]
        total = sum(weights)
        return 0.5 if abs(total) < 1e-6 else weights[1] / total

    def _pair(self, models: Sequence[Values]) -> list[Values]:
        r = self.setting.precision.rounded
        one, other = (np.asarray(models[n]) for n in self.setting.others)
        if self.setting.base is None:
            return [one, other]
        return [r(x - models[self.setting.base]) for x in (one, other)]

    def _sums(self, left: Values, right: Values) -> NDArray[np.float64]:
        """Of each row; or the terms of each column, which are added up later."""
        if self._by_columns:
            return (left.astype(np.float64) * right).T
        return products(left, right)

    def _lengths(self, known: Sequence[Any]) -> list[NDArray[np.float32]]:
        r = self.setting.precision.rounded
        return [np.maximum(r(np.sqrt(np.asarray(sums)).astype(np.float32)), np.float32(_SHORTEST)) for sums in known[0]]

    def _weights(self, known: Sequence[Any]) -> list[NDArray[np.float32]]:
        """Of both, the sine they are divided by, and where they are parallel; each [] or [rows] or [columns]."""
        r, one = self.setting.precision.rounded, np.float32(1)
        cosine = np.clip(r(np.asarray(known[1][0]).astype(np.float32)), -1, 1)
        parallel = r(one - r(cosine * cosine)) <= self.setting.precision.number(_PARALLEL**2)
        angle = r(np.arccos(np.where(parallel, np.float32(0), cosine)))
        t = self._t
        parts = [r(np.sin(r(np.float32(share) * angle))) for share in (1 - t, t)]
        return [*parts, r(np.sin(angle)), parallel.astype(np.float32)]

    def _placed(self, numbers: NDArray[np.float32], first: int, rows: int) -> NDArray[np.float32]:
        return numbers[None, :] if self._by_columns else part_of(numbers, first, rows)


def _contradiction(setting: Setting) -> str:
    """Columns of a stack of matrices are none of one matrix."""
    flat, turned = setting.shared["nuslerp_flatten"], setting.shared["nuslerp_row_wise"]
    stack = len(setting.shape) > 2 and not flat and turned
    return f"nuslerp_row_wise takes matrices, and the shape is {list(setting.shape)}" if stack else ""


NUSLERP = Method(
    "nuslerp",
    "NuSLERP",
    "",
    Nuslerp,
    (
        Parameter("weight", float, Scope.OTHER),
        Parameter("nuslerp_row_wise", bool, default=False),
        Parameter("nuslerp_flatten", bool, default=True),
    ),
    base=Base.OPTIONAL,
    others=(2, 2),
    check=_contradiction,
)
