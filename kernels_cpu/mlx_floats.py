"""MLX's small floats as it makes them on the CPU: scales without a search, every step rounded to the weights' dtype.

Sources: `fp_quantize` in mlx/ops.cpp (what MLX falls back to without a GPU) and `ToFP8` of its CPU backend. Powers of
two are rounded up as MLX 0.32.4 does; sources of August 2026 rounded their logarithms to the nearest.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import FLOATS, NUMBER, OUT_BYTES, OUT_FLOATS, Bytes, Floats, inlined, kernel
from requant.kernels_cpu.dense import E2M1, small_float_table
from requant.kernels_cpu.groups import rounded
from requant.kernels_cpu.simd import (
    F32x16,
    fabs,
    greater,
    largest_lane,
    load16,
    splat16,
    splat_int16,
    store,
    store_bytes,
    where,
)

_F = np.float32
#: The values of E4M3 by code, without signs and NaN.
_E4M3: Final = small_float_table("F8_E4M3")[:127]


@inlined
def _scalar(x: np.float32, rounding: int) -> Any:
    """One number, rounded as lanes are."""
    return largest_lane(rounded(splat16(x), rounding))


@inlined
def _largest(values: Floats, start: int, group: int) -> Any:
    """The largest size in a group."""
    most: F32x16 = splat16(_F(0))
    for i in range(start, start + group, 16):
        most = greater(most, fabs(load16(values, i)))
    return largest_lane(most)


@inlined
def _divided(values: Floats, start: int, group: int, scale: np.float32, rounding: int, out: Floats) -> None:
    """Values over a scale, which may be 0."""
    for i in range(start, start + group, 16):
        store(out, i, rounded(load16(values, i) / scale, rounding))


@kernel(FLOATS, NUMBER, NUMBER, NUMBER, OUT_BYTES, OUT_FLOATS)
def over_powers(values: Floats, group: int, top: int, rounding: int, scales: Bytes, quotients: Floats) -> None:
    """Groups over the least power of two that is not below the largest size over `top`.

    scales: their exponents, plus 127. rounding: the dtype of the weights, as in `groups.ROUNDING`.
    """
    for k in range(scales.size):
        size = _scalar(_largest(values, k * group, group) / _F(top), rounding)
        exponent = _F(0)
        if size != 0:
            exponent = _F(np.ceil(np.log2(size)))
        scales[k] = np.uint8(max(exponent + _F(127), _F(0)))
        power = _scalar(_F(2.0 ** np.float64(exponent)), rounding)
        _divided(values, k * group, group, power, rounding, quotients)


@kernel(FLOATS, NUMBER, NUMBER, OUT_BYTES, OUT_FLOATS)
def over_e4m3(values: Floats, group: int, rounding: int, scales: Bytes, quotients: Floats) -> None:
    """Groups over the E4M3 number nearest to a sixth of the largest size; of two as near, the even code."""
    table = np.empty(127, np.float32)
    for code in range(127):
        table[code] = _E4M3[code]
    for k in range(scales.size):
        size = _scalar(_largest(values, k * group, group) / _F(6), rounding)
        code = min(int(np.searchsorted(table, size)), 126)
        if code > 0:
            below, above = size - table[code - 1], table[code] - size
            if below < above or (below == above and code % 2 == 1):
                code -= 1
        scales[k] = np.uint8(code)
        _divided(values, k * group, group, table[code], rounding, quotients)


@kernel(FLOATS, NUMBER, OUT_BYTES)
def nearest_e2m1(quotients: Floats, rounding: int, codes: Bytes) -> None:
    """E2M1, one code to a byte; of levels whose distances are the same once rounded, the first.

    What is infinite or no number, which a scale of 0 makes, gets code 0.
    """
    for i in range(0, quotients.size, 16):
        x = load16(quotients, i)
        least, code = splat16(_F(np.inf)), splat_int16(0)
        for level in range(16):
            distance = fabs(rounded(x - E2M1[level], rounding))
            nearer = distance < least
            least, code = where(nearer, distance, least), where(nearer, splat_int16(level), code)
        store_bytes(codes, i, code)
