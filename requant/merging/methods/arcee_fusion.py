"""Arcee Fusion: the other model's values where their importance stands out, the base's elsewhere.

Importance is the size of the difference times the divergence of the two rows' softmax; what lies 1.5 quartile
distances above the median stands out. mergekit 0.1.5 estimates the quartiles of large tensors from a million random
values; here they are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.methods.method import Base, Method
from requant.merging.methods.ranks import Wanted, finding, found
from requant.merging.methods.rowwise import Rowwise

_QUARTILES: Final = (0.25, 0.5, 0.75)
_EPSILON: Final = 1e-8


@dataclass(frozen=True, slots=True)
class ArceeFusion(Rowwise):
    """A pass for the quartiles, and one for the values."""

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """Quartiles of importance; of what is less than 0, for rounding may leave that, the size apart."""

        def numbers(values: Sequence[Values], key: int) -> tuple[Values, Values]:
            importance = self._importance(values)
            signed = np.maximum(importance, 0) if key == 0 else np.minimum(importance, 0)
            return signed, np.zeros_like(signed)

        last = self.setting.size - 1
        ranks = [int(share * last) for share in _QUARTILES]
        wanted = (*(Wanted(0, rank) for rank in ranks), *(Wanted(1, last - rank) for rank in ranks))
        return finding(inputs, numbers, wanted if last >= 0 else (), self.setting.precision)

    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """Value by value."""
        base, other = models[self.setting.base or 0], models[1 - (self.setting.base or 0)]
        kept = self._importance(models) >= self._threshold(known)
        merged: Values = base + np.where(kept, self.setting.precision.rounded(other - base), np.float32(0))
        return merged

    def _threshold(self, known: Sequence[Any]) -> np.float32:
        number = self.setting.precision.number
        sizes = np.array([bits for bits, _ in found(known)], np.int32).view(np.float32)
        low, median, high = np.where(sizes[:3] > 0, sizes[:3], -sizes[3:])
        return number(float(median + number(1.5 * float(number(float(high - low))))))

    def _importance(self, models: Sequence[Values]) -> Values:
        r = self.setting.precision.rounded
        base, other = (np.asarray(models[n]) for n in (self.setting.base or 0, 1 - (self.setting.base or 0)))
        p, q = (r(self._softmax(x) + np.float32(_EPSILON)) for x in (other, base))
        divergence = r(r(p * r(np.log(r(p / q)))).sum(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32))
        return r(r(np.abs(r(other - base))) * divergence)

    def _softmax(self, x: Values) -> Values:
        """In double precision, and rounded once: the divergence of two rows is what is left of terms that all but
        cancel, and one power on the wrong side of a rounding moves all the importance of its row."""
        powers = x.astype(np.float64)
        powers -= powers.max(axis=-1, keepdims=True)
        np.exp(powers, out=powers)
        powers /= powers.sum(axis=-1, keepdims=True)
        return self.setting.precision.rounded(powers.astype(np.float32))


ARCEE_FUSION = Method(
    "arcee_fusion",
    "Arcee Fusion",
    "https://arcee.ai",
    ArceeFusion,
    base=Base.REQUIRED,
    inputs=(2, 2),
)
