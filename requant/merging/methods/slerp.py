"""SLERP: along the arc between two models, as vectors of all values of a tensor.

Source: Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985). As mergekit 0.1.5 does, it computes in
float32 whatever the dtype, and goes along the straight line where the two are nearly parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import acos, sin, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.methods.method import Base, Method, Parameter
from requant.merging.methods.sums import Totals
from requant.merging.methods.weighted import WeightedSum

#: Beyond this cosine the line is as good as the arc; norms below EPSILON count as 1.
_PARALLEL: Final = 0.9995
_EPSILON: Final = 1e-8


@dataclass(frozen=True, slots=True)
class Slerp(WeightedSum):
    """sin((1 - t) * angle) / sin(angle) of the base, sin(t * angle) / sin(angle) of the other."""

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """Both norms, squared, and the dot product."""

        def terms(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            from requant.kernels_cpu.merging import multiply_all

            out = np.empty((3, 1), np.float64)
            multiply_all(values[0].reshape(-1), values[1].reshape(-1), out.reshape(-1))
            return out

        return (Totals(inputs, terms),)

    def numbers(self, known: Sequence[Any]) -> list[float]:
        """How far each goes, and nothing to divide by."""
        t = float(np.float32(self.setting.number("t")))
        lengths = [sqrt(total) if sqrt(total) > _EPSILON else 1.0 for total in known[0][:2]]
        cosine = min(1.0, max(-1.0, float(known[0][2]) / lengths[0] / lengths[1]))
        weights = [1 - t, t]
        if self.setting.base == 1:
            weights.reverse()
        if abs(cosine) <= _PARALLEL:
            angle = acos(cosine)
            weights = [sin(weight * angle) / sin(angle) for weight in weights]
        return [*weights, 1.0]


SLERP = Method(
    "slerp",
    "SLERP",
    "https://en.wikipedia.org/wiki/Slerp",
    Slerp,
    (Parameter("t", float),),
    base=Base.REQUIRED,
    inputs=(2, 2),
)
