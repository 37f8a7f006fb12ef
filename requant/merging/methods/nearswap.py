"""NearSwap: towards the other model where both are near each other, the nearer the more.

Source: alchemonaut, QuartetAnemoi-70B-t0.0001 (2024),
https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from requant.codecs import Values
from requant.merging.methods.method import Base, Method, Parameter
from requant.merging.methods.rowwise import Rowwise

#: Nearer than this counts as this.
_NEAREST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Nearswap(Rowwise):
    """w * other + (1 - w) * base with w = t / |base - other|, at most 1."""

    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """Value by value."""
        r, number, one = self.setting.precision.rounded, self.setting.precision.number, np.float32(1)
        base, other = models[self.setting.base or 0], models[1 - (self.setting.base or 0)]
        distance = np.maximum(np.abs(r(base - other)), number(_NEAREST))
        weight = np.clip(r(r(one / distance) * np.float32(self.setting.number("t"))), 0, 1)
        return r(r(weight * other) + r(r(one - weight) * base))


NEARSWAP = Method(
    "nearswap",
    "NearSwap",
    "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    Nearswap,
    (Parameter("t", float),),
    base=Base.REQUIRED,
    inputs=(2, 2),
)
