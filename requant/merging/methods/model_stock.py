"""Model Stock: from the base towards the average, as far as the angle between the models allows.

Source: Jang, Yun and Han, "Model Stock: all we need is just a few fine-tuned models" (2024),
https://arxiv.org/abs/2403.19522. Every operation is rounded to the dtype of the tensors, as in mergekit 0.1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.methods.method import Base, Method, Parameter
from requant.merging.methods.rowwise import Rowwise, part_of
from requant.merging.methods.sums import RowSums, Totals, products

#: Products of norms below this count as it; so near 0 is a divisor none.
_SMALLEST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class ModelStock(Rowwise):
    """t * average + (1 - t) * base with t = k cos / (1 + (k - 1) cos); of a tensor, or of each row (`filter_wise`)."""

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """Squares of the differences from the base, and products of every two of them."""

        def terms(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            r, base = self.setting.precision.rounded, values[self.setting.base or 0]
            offsets = [r(values[n] - base) for n in self.setting.others]
            squares = [products(x, x) for x in offsets]
            return np.stack([*squares, *(products(x, y, self.setting.precision) for x, y in combinations(offsets, 2))])

        return ((RowSums if self.setting.shared["filter_wise"] else Totals)(inputs, terms),)

    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """Value by value."""
        r, base, others = self.setting.precision.rounded, models[self.setting.base or 0], self.setting.others
        t = part_of(self._share(known[0]), first, len(base))
        average = models[others[0]]
        for n in others[1:]:
            average = r(average + models[n])
        average = r(average / np.float32(len(others)))
        return r(r(t * average) + r(r(np.float32(1) - t) * base))

    def _share(self, sums: Any) -> NDArray[np.float32]:
        """t, [] or [rows]."""
        r, number, count = self.setting.precision.rounded, self.setting.precision.number, len(self.setting.others)
        norms = [r(np.sqrt(np.asarray(total)).astype(np.float32)) for total in sums[:count]]
        cosines = []
        for (n, m), dot in zip(combinations(range(count), 2), sums[count:], strict=True):
            length = np.maximum(r(norms[n] * norms[m]), number(_SMALLEST))
            cosines.append(np.clip(r(r(np.asarray(dot).astype(np.float32)) / length), -1, 1))
        cosine = r(np.stack(cosines).sum(axis=0, dtype=np.float32) / np.float32(len(cosines)))
        divisor = r(np.float32(1) + r(np.float32(count - 1) * cosine))
        singular = np.abs(divisor) < _SMALLEST
        share = r(r(np.float32(count) * cosine) / np.where(singular, np.float32(1), divisor))
        return np.where(singular, np.float32(0), share)


MODEL_STOCK = Method(
    "model_stock",
    "Model Stock",
    "https://arxiv.org/abs/2403.19522",
    ModelStock,
    (Parameter("filter_wise", bool, default=False),),
    base=Base.REQUIRED,
    inputs=(3, None),
)
