"""Whether there is a number that must not enter a file silently: NaN, infinity, or what a half cannot hold.

One pass at the memory's speed finds the largest size, in which infinities and NaN show; only when there is something
to tell are the numbers looked at again.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu.kept import Kept

#: The least size that a half rounds to infinity: half a step above 65504.
HALF_OVERFLOW: Final = 65520.0

_largest_lanes: Final = Kept("largest", "largest_lanes")


def beyond(values: NDArray[np.float32], limit: float = HALF_OVERFLOW) -> int | None:
    """Index of the first of some float32 values whose size is at least `limit` (or NaN), None when there is none."""
    bits = values.reshape(-1).view("u4")
    least = np.float32(limit).view("u4")
    if _largest(bits) < least:
        return None
    return int((bits & np.uint32(0x7FFFFFFF) >= least).argmax())


def _largest(bits: NDArray[np.uint32]) -> int:
    """The largest of some float32 values' bits without their signs."""
    if not bits.size:
        return 0
    lanes = np.empty(16, np.int32)
    _largest_lanes(bits if bits.size >= 16 else np.resize(bits, 16), lanes)
    return int(lanes.max())
