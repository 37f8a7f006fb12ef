"""The largest size among some numbers, at the memory's speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu._jit import OUT_INTS, WORDS32, kernel
from requant.kernels_cpu.simd import greater, load_ints16, splat_int16, store_ints


@kernel(WORDS32, OUT_INTS)
def largest_lanes(bits: NDArray[np.uint32], out: NDArray[np.int32]) -> None:
    """In each of sixteen lanes the bits of the largest float32 without its sign; at least sixteen values."""
    top = splat_int16(0)
    for i in range(0, bits.size, 16):
        top = greater(top, load_ints16(bits, min(i, bits.size - 16)) & 0x7FFFFFFF)
    store_ints(out, 0, top)
