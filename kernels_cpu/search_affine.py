"""The search of ggml's quantizers for the scale and the minimum of a group, four times sixteen groups at a time.

As in search.py, groups lie transposed, and every lane does what one scalar function of ggml/src/ggml-quants.c does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import Floats, inlined
from requant.kernels_cpu.search import nearest
from requant.kernels_cpu.simd import (
    F32x32,
    all_lanes,
    any_lane,
    fabs,
    greater,
    lesser,
    load32,
    load_pair,
    rint,
    splat32,
    store,
    store_pair,
    to_float,
    where,
)

_F = np.float32
_EXACT_BELOW: Final = _F(4194303)  # beyond, the low bits of `nearest` mean something else


@inlined
def _low_codes(x: F32x32, low: F32x32, inverse: F32x32, top: int) -> F32x32:
    return greater(rint(inverse * (x - low)), _F(0))


@inlined
def _fast_codes(x: F32x32, low: F32x32, inverse: F32x32, top: int) -> F32x32:
    return greater(lesser(rint(inverse * (x - low)), _F(top)), _F(0))


@inlined
def _careful_codes(x: F32x32, low: F32x32, inverse: F32x32, top: int) -> F32x32:
    return to_float(greater(lesser(nearest(inverse * (x - low)), top), 0))


def _summing(length: int, top: int, codes_of: Callable[..., Any]) -> Callable[..., Any]:
    """Makes what codes the groups: the weighted sums of the codes, of their squares, of codes times values."""
    apart = 16 * length

    @inlined
    def sums(xs: Floats, ws: Floats, codes: Floats, low: F32x32, inverse: F32x32) -> Any:
        sum_l, sum_l2, sum_xl = splat32(_F(0)), splat32(_F(0)), splat32(_F(0))
        for i in range(length):
            x, w = load_pair(xs, 16 * i, apart), load_pair(ws, 16 * i, apart)
            code = codes_of(x, low, inverse, top)
            store(codes, 32 * i, code)
            wl = w * code
            sum_l, sum_l2, sum_xl = sum_l + wl, sum_l2 + wl * code, sum_xl + wl * x
        return sum_l, sum_l2, sum_xl

    return sums


def _summing_up_to(length: int, top: int) -> Callable[..., Any]:
    """Makes the sums of one attempt, with no more care than the numbers need.

    lowest: the smallest values; spread: from the minimum to the largest value, of which `wanted` steps are made.
    """
    low_sums = _summing(length, top, _low_codes)
    fast_sums = _summing(length, top, _fast_codes)
    careful_sums = _summing(length, top, _careful_codes)

    @inlined
    def sums(
        xs: Floats,
        ws: Floats,
        codes: Floats,
        low: F32x32,
        inverse: F32x32,
        lowest: F32x32,
        spread: F32x32,
        wanted: np.float32,
    ) -> Any:
        if not all_lanes((fabs(inverse * (lowest - low)) < _EXACT_BELOW) & (fabs(inverse * spread) < _EXACT_BELOW)):
            return careful_sums(xs, ws, codes, low, inverse)
        if wanted < _F(top + 0.49) and all_lanes(spread >= _F(0)):  # then no code is above the top
            return low_sums(xs, ws, codes, low, inverse)
        return fast_sums(xs, ws, codes, low, inverse)

    return sums


def _error_of(length: int, absolute: bool) -> Callable[..., F32x32]:
    """Makes the weighted square (or absolute) error of the groups."""
    apart = 16 * length

    @inlined
    def error_of(xs: Floats, ws: Floats, codes: Floats, scale: F32x32, low: F32x32) -> F32x32:
        total = splat32(_F(0))
        for i in range(length):
            error = scale * load32(codes, 32 * i) + low - load_pair(xs, 16 * i, apart)
            total = total + load_pair(ws, 16 * i, apart) * (fabs(error) if absolute else error * error)
        return total

    return error_of


def affine_search(length: int, top: int, first: float, step: float, tries: int, absolute: bool) -> Callable[..., Any]:
    """make_qkx2_quants and make_qkx3_quants: code * scale + minimum, codes in 0..top.

    The made function is (xs, ws, codes, found) -> None, of `SETS` sets of sixteen groups, one set after the
    other. Two sets go together: the sums of a group wait for each other, and those of a second set fill the time. Two
    such pairs take turns: the divisions of one are done while the other one's sums are made. found: of each set [scale,
    -minimum, inverse, base] of the lanes; a value has the code `inverse * (x - base)`. codes is scratch, as large as
    xs.
    """
    apart = 16 * length
    start, delta = _F(first), _F(step)
    sums, error_of = _summing_up_to(length, top), _error_of(length, absolute)

    @inlined
    def begin(xs: Floats, ws: Floats, codes: Floats) -> Any:
        """What does not change, (lowest, highest, whether they are the same, sum_w, sum_x), and the first attempt as
        the best, (error, scale, minimum, inverse, base)."""
        zero = splat32(_F(0))
        x, w = load_pair(xs, 0, apart), load_pair(ws, 0, apart)
        lowest, high, sum_w, sum_x = x, x, w, w * x
        for i in range(1, length):
            x, w = load_pair(xs, 16 * i, apart), load_pair(ws, 16 * i, apart)
            lowest, high = lesser(x, lowest), greater(x, high)
            sum_w, sum_x = sum_w + w, sum_x + w * x
        low = where(lowest > zero, zero, lowest)
        flat = high <= low
        inverse = where(flat, zero, splat32(_F(top)) / (high - low))
        sums(xs, ws, codes, low, inverse, lowest, high - low, _F(top))
        scale = 1 / inverse
        return (lowest, high, flat, sum_w, sum_x), (error_of(xs, ws, codes, scale, low), scale, low, inverse, low)

    @inlined
    def attempted(xs: Floats, ws: Floats, codes: Floats, extent: Any, low: F32x32, wanted: np.float32) -> Any:
        """Codes of `wanted` steps above `low`, and what fits them best: (inverse, whether there is one, scale,
        minimum)."""
        (lowest, high, flat, sum_w, sum_x), zero = extent, splat32(_F(0))
        inverse = where(flat, zero, splat32(wanted) / (high - low))
        sum_l, sum_l2, sum_xl = sums(xs, ws, codes, low, inverse, lowest, high - low, wanted)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = minimum > zero
        if any_lane(above):
            scale, minimum = where(above, sum_xl / sum_l2, scale), where(above, zero, minimum)
        return inverse, determinant > zero, scale, minimum

    @inlined
    def better_of(xs: Floats, ws: Floats, codes: Floats, best: Any, attempt: Any) -> Any:
        (least, scale, low, inverse, base), (this_inverse, fits, this_scale, this_low) = best, attempt
        error = error_of(xs, ws, codes, this_scale, this_low)
        better = fits & (error < least)
        return (
            where(better, error, least),
            where(better, this_scale, scale),
            where(better, this_low, low),
            where(better, this_inverse, inverse),
            where(better, low, base),
        )

    @inlined
    def put(extent: Any, best: Any, found: Floats) -> None:
        _, scale, low, inverse, base = best
        store_pair(found, 0, 64, where(extent[2], splat32(_F(0)), scale))
        store_pair(found, 16, 64, low * -1)
        store_pair(found, 32, 64, inverse)
        store_pair(found, 48, 64, base)

    @inlined
    def search(xs: Floats, ws: Floats, codes: Floats, found: Floats) -> None:
        xs_2, ws_2, codes_2 = xs[2 * apart :], ws[2 * apart :], codes[2 * apart :]
        extent, best = begin(xs, ws, codes)
        extent_2, best_2 = begin(xs_2, ws_2, codes_2)
        for attempt in range(tries + 1):
            wanted = start + delta * _F(attempt) + _F(top)
            one = attempted(xs, ws, codes, extent, best[2], wanted)
            two = attempted(xs_2, ws_2, codes_2, extent_2, best_2[2], wanted)
            best = better_of(xs, ws, codes, best, one)
            best_2 = better_of(xs_2, ws_2, codes_2, best_2, two)
        put(extent, best, found)
        put(extent_2, best_2, found[128:])

    return search
