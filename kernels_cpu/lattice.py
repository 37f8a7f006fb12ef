"""What the kernels of ggml's IQ types share."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import Kernel, inlined
from requant.kernels_cpu.simd import value_bits

_F = np.float32
_NONE: Final = np.empty(0, _F)


class Unweighted(Kernel):
    """A kernel for weighted values, called without an importance."""

    def __init__(self, weighted: Kernel) -> None:
        self.weighted = weighted
        super().__init__(weighted.function, ())

    def __call__(self, *arguments: Any) -> None:
        """(values, out) as (values, no importance, 0, out)."""
        values, out = arguments
        self.weighted(values, _NONE, 0, out)

    def is_cold(self) -> bool:
        """As the kernel it stands for."""
        return self.weighted.is_cold()


@inlined
def nearest_int(x: np.float32) -> int:
    """ggml's nearest_int of one number: ties to even; for what does not fit (or is NaN) the same nonsense as there."""
    return (value_bits(x + _F(12582912)) & 0x7FFFFF) - 0x400000
