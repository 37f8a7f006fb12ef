"""Two tensors beside each other: sums of squares and products, the largest difference, how many values changed.

One pass over both. Sums are taken in float32 over 256 products, sixteen in each of sixteen lanes, and these are added
up in double precision. Where that is not enough, because a value is NaN or infinite, or squares leave the range of
float32, the few values are done again, one by one, in double precision.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import FLOATS, OUT_DOUBLES, Doubles, Floats, inlined, kernel
from requant.kernels_cpu.simd import fabs, greater, largest_lane, load16, splat16, sum_of_lanes, where

_F = np.float32
#: Values that are added up in float32 before they go to sums in double precision.
_FEW: Final = 256
#: Sums of squares between these lose nothing in float32.
_LEAST, _MOST = np.float64(1e-25), np.float64(1e37)
#: Places in what the kernel gives.
AA, BB, AB, ERROR, LARGEST, CHANGED, FLIPPED, BAD_A, BAD_B, BAD_BOTH = range(10)
COUNT: Final = 10


def differences(a: Floats, b: Floats) -> Doubles:
    """[10]: the sums of a², b², ab and (b-a)², the largest |b-a|, all over pairs of finite numbers; then counts.

    How many values are not equal (NaN is equal to NaN, 0 to -0), have the other sign, are NaN or infinite in `a` alone,
    in `b` alone, in both. a, b: of one size.
    """
    out = np.empty(COUNT, np.float64)
    _differences(a.reshape(-1), b.reshape(-1), out)
    return out


@inlined
def _exactly(a: Floats, b: Floats, start: int, stop: int, out: Doubles) -> None:
    """Some values, each in double precision."""
    for i in range(start, stop):
        x, y = np.float64(a[i]), np.float64(b[i])
        fine_x, fine_y = np.isfinite(x), np.isfinite(y)
        if fine_x and fine_y:
            error = y - x
            out[AA] += x * x
            out[BB] += y * y
            out[AB] += x * y
            out[ERROR] += error * error
            out[LARGEST] = max(out[LARGEST], abs(error))
            out[CHANGED] += x != y
            out[FLIPPED] += (x < 0 < y) or (y < 0 < x)
        else:
            out[BAD_A] += fine_y
            out[BAD_B] += fine_x
            out[BAD_BOTH] += not fine_x and not fine_y
            out[CHANGED] += x != y and not (np.isnan(x) and np.isnan(y))


@kernel(FLOATS, FLOATS, OUT_DOUBLES)
def _differences(a: Floats, b: Floats, out: Doubles) -> None:
    out[:] = 0.0
    zero, one = splat16(_F(0)), splat16(_F(1))
    whole = a.size // _FEW * _FEW
    few = np.empty(7, np.float64)
    for start in range(0, whole, _FEW):
        aa, bb, ab, dd, top, changed, flipped = zero, zero, zero, zero, zero, zero, zero
        for i in range(start, start + _FEW, 16):
            x, y = load16(a, i), load16(b, i)
            d = y - x
            aa, bb, ab, dd = aa + x * x, bb + y * y, ab + x * y, dd + d * d
            top = greater(top, fabs(d))
            changed = changed + where(d != zero, one, zero)
            flipped = flipped + where(((x < zero) & (y > zero)) | ((x > zero) & (y < zero)), one, zero)
        few[AA], few[BB], few[AB] = sum_of_lanes(aa), sum_of_lanes(bb), sum_of_lanes(ab)
        few[ERROR], few[LARGEST] = sum_of_lanes(dd), largest_lane(top)
        few[CHANGED], few[FLIPPED] = sum_of_lanes(changed), sum_of_lanes(flipped)
        fine = few[AA] < _MOST and few[BB] < _MOST and few[ERROR] < _MOST  # which NaN is not
        tiny = few[AA] < _LEAST or few[BB] < _LEAST or (few[CHANGED] > 0 and few[ERROR] < _LEAST)
        if not fine or tiny:
            _exactly(a, b, start, start + _FEW, out)
        else:
            for k in range(7):
                out[k] = max(out[k], few[k]) if k == LARGEST else out[k] + few[k]
    _exactly(a, b, whole, a.size, out)
