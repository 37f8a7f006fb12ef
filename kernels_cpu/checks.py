"""Numbers that must not enter a file silently: NaN, infinities, and what a target cannot hold.

One pass at the memory's speed finds the largest size, in which infinities and NaN show; only when there is something
to tell are the numbers looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu._jit import OUT_INTS, WORDS, WORDS32, kernel
from requant.kernels_cpu.simd import greater, load_ints16, load_words16, splat_int16, store_ints

#: dtype label -> (unsigned view, bits of infinity: those of the exponent).
_INFINITY: Final = {"F16": ("u2", 0x7C00), "BF16": ("u2", 0x7F80), "F32": ("u4", 0x7F800000)}
#: The least size that a half rounds to infinity: half a step above 65504.
HALF_OVERFLOW: Final = 65520.0


@dataclass(frozen=True, slots=True)
class Faults:
    """What is not a number in an array: index of the first one in row-major order, and how many there are."""

    first: int
    nans: int
    infinities: int


def faults(data: NDArray[Any], label: str = "F32") -> Faults | None:
    """NaN and infinities among stored numbers of dtype `label` (F16, BF16 or F32); None when there is none.

    data: contiguous, of any dtype of that width: float32, or the bits.
    """
    view, infinity = _INFINITY[label]
    bits = data.reshape(-1).view(view)
    if _largest(bits) < infinity:
        return None
    sizes = bits & bits.dtype.type((1 << (8 * bits.itemsize - 1)) - 1)
    bad = sizes >= infinity
    nans = int((sizes > infinity).sum())
    return Faults(int(bad.argmax()), nans, int(bad.sum()) - nans)


def beyond(values: NDArray[np.float32], limit: float = HALF_OVERFLOW) -> int | None:
    """Index of the first of some float32 values whose size is at least `limit` (or NaN), None when there is none."""
    bits = values.reshape(-1).view("u4")
    least = np.float32(limit).view("u4")
    if _largest(bits) < least:
        return None
    return int((bits & np.uint32(0x7FFFFFFF) >= least).argmax())


def _largest(bits: NDArray[Any]) -> int:
    """The largest of some floating-point numbers' bits without their signs."""
    if not bits.size:
        return 0
    lanes = np.empty(16, np.int32)
    (_largest_16 if bits.itemsize == 2 else _largest_32)(bits if bits.size >= 16 else np.resize(bits, 16), lanes)
    return int(lanes.max())


@kernel(WORDS32, OUT_INTS)
def _largest_32(bits: NDArray[np.uint32], out: NDArray[np.int32]) -> None:
    top = splat_int16(0)
    for i in range(0, bits.size, 16):
        top = greater(top, load_ints16(bits, min(i, bits.size - 16)) & 0x7FFFFFFF)
    store_ints(out, 0, top)


@kernel(WORDS, OUT_INTS)
def _largest_16(bits: NDArray[np.uint16], out: NDArray[np.int32]) -> None:
    top = splat_int16(0)
    for i in range(0, bits.size, 16):
        top = greater(top, load_words16(bits, min(i, bits.size - 16)) & 0x7FFF)
    store_ints(out, 0, top)
