"""The searches of ggml's quantizers for the scale of a group, sixteen groups at a time, or four times sixteen.

Each function here does in every lane what one scalar function of ggml/src/ggml-quants.c does, in its order. Groups lie
transposed: element i of lane k at `xs[16 * i + k]`, its weight at the same place of `ws`.

Functions are made for their constants, which the compiler then knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, overload

import numpy as np

from requant.kernels_cpu._jit import Floats, Ints, Ints64, inlined
from requant.kernels_cpu.simd import (
    F32x8,
    F32x16,
    F32x32,
    I32x8,
    I32x16,
    any_lane,
    fabs,
    float_bits,
    greater,
    lesser,
    load16,
    load_ints16,
    load_pair,
    rint,
    splat16,
    splat32,
    splat_int16,
    store,
    store_ints,
    store_pair,
    to_float,
    where,
)
from requant.kernels_cpu.simd_transpose import transpose_rows
from requant.kernels_cpu.simd_vectors import I32x32

_F = np.float32
_ROUNDER: Final = _F(12582912)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits
SETS: Final = 4  # sets of sixteen groups that a search takes
TINY: Final = _F(1e-15)  # GROUP_MAX_EPS: a group below it is zero


@overload
def nearest(x: F32x8) -> I32x8: ...
@overload
def nearest(x: F32x16) -> I32x16: ...
@overload
def nearest(x: F32x32) -> I32x32: ...
@inlined
def nearest(x: Any) -> Any:
    """ggml's nearest_int, of any number of lanes: ties to even, and for what does not fit (or is NaN) the same
    nonsense as there.
    """
    return (float_bits(x + _ROUNDER) & 0x7FFFFF) - 0x400000


@inlined
def gather(values: Floats, starts: Ints64, offset: int, length: int, xs: Floats) -> None:
    """Lay sixteen rows of `length` values (a multiple of 8) transposed: row k from `values[starts[k] + offset]` on."""
    for k in range(0, 16, 8):
        for i in range(0, length, 8):
            transpose_rows(values, starts, k, offset + i, xs, 16 * i + k)


@inlined
def put_starts(starts: Ints64, first: int, last: int, length: int) -> None:
    """The places of the sixteen groups from number `first` on; groups beyond `last` are it, again."""
    for k in range(16):
        starts[k] = length * min(first + k, last)


def taking(sets: int, apart: int) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """What loads, stores and spreads the lanes of one set of sixteen groups, or of two that lie `apart`."""

    @inlined
    def load_both(array: Floats, place: int) -> F32x32:
        return load_pair(array, place, apart)

    @inlined
    def store_both(array: Floats, place: int, value: F32x32) -> None:
        store_pair(array, place, apart, value)

    return (load16, store, splat16) if sets == 1 else (load_both, store_both, splat32)


def extremes(length: int, sets: int) -> Callable[..., Any]:
    """Makes what finds the value of the largest size in each group, and that size."""
    lanes, _, spread = taking(sets, 16 * length)

    @inlined
    def extreme_of(xs: Floats) -> Any:
        extreme, largest = spread(_F(0)), spread(_F(0))
        for i in range(length):
            x = lanes(xs, 16 * i)
            size = fabs(x)
            bigger = size > largest
            largest, extreme = where(bigger, size, largest), where(bigger, x, extreme)
        return extreme, largest

    return extreme_of


def _signed_sums(length: int, top: int, sets: int, unbounded: bool) -> Callable[..., Any]:
    """Makes what codes the groups in an attempt: the weighted sums of codes times values, and of the codes' squares."""
    lanes, _, spread = taking(sets, 16 * length)

    @inlined
    def exact_code(x: Any) -> Any:
        return to_float(greater(lesser(nearest(x), top - 1), -top))

    @inlined
    def not_above(x: Any) -> Any:
        return lesser(rint(x), top - 1)

    @inlined
    def within(x: Any) -> Any:
        return greater(lesser(rint(x), top - 1), -top)

    def summing(code_of: Callable[..., Any]) -> Callable[..., Any]:
        @inlined
        def sums(xs: Floats, ws: Floats, wxs: Floats, inverse: Any) -> Any:
            sum_lx, sum_l2 = spread(_F(0)), spread(_F(0))
            for i in range(length):
                code = code_of(inverse * lanes(xs, 16 * i))
                sum_lx = sum_lx + lanes(wxs, 16 * i) * code
                sum_l2 = sum_l2 + lanes(ws, 16 * i) * code * code
            return sum_lx, sum_l2

        return sums

    # of an attempt at `top + attempt / 10` steps no value is farther from 0 than that, so that few need to be held
    few, usual, many = map(summing, (exact_code,) * 3 if unbounded else (rint, not_above, within))

    @inlined
    def sums(xs: Floats, ws: Floats, wxs: Floats, inverse: Any, attempt: int) -> Any:
        if attempt < -5:  # at most top - 0.6
            return few(xs, ws, wxs, inverse)
        if attempt < 5:  # at most top + 0.4
            return usual(xs, ws, wxs, inverse)
        return many(xs, ws, wxs, inverse)

    return sums


def signed_search(length: int, top: int, sets: int = SETS, unbounded: bool = False) -> Callable[..., Any]:
    """make_qx_quants with rmse_type 1: code * scale, codes in -top..top-1.

    unbounded: the values may be infinite or NaN (scales whose sums overflowed), and round as ggml's integers do.

    The made function is (xs, ws, wxs, found) -> None, of `SETS` sets of sixteen groups, or of one. Of four, two go
    together and two such pairs take turns, as in affine_search. found: of each set [scale, inverse, whether the group
    is not zero] of the lanes; a value has the code `inverse * x`. wxs is scratch, as large as xs.
    """
    apart, together = 16 * length, min(sets, 2)
    lanes, store_lanes, spread = taking(together, apart)
    _, store_found, _ = taking(together, 48)

    sums, extreme_of = _signed_sums(length, top, together, unbounded), extremes(length, together)

    @inlined
    def begin(xs: Floats, ws: Floats, wxs: Floats) -> Any:
        """Which groups are zero, the extremes, and the first attempt as the best: (scale, its score, inverse)."""
        zero = spread(_F(0))
        extreme, largest = extreme_of(xs)
        for i in range(length):
            store_lanes(wxs, 16 * i, lanes(ws, 16 * i) * lanes(xs, 16 * i))
        empty = largest < TINY
        extreme = where(empty, _F(1), extreme)
        inverse = spread(_F(-top)) / extreme
        sum_lx, sum_l2 = sums(xs, ws, wxs, inverse, 0)
        scale = where(sum_l2 != zero, sum_lx / sum_l2, zero)
        return empty, extreme, (scale, scale * sum_lx, inverse)

    @inlined
    def better_of(xs: Floats, ws: Floats, wxs: Floats, extreme: Any, best: Any, attempt: int) -> Any:
        scale, score, inverse = best
        this_inverse = spread(-(_F(top) + _F(0.1) * _F(attempt))) / extreme
        sum_lx, sum_l2 = sums(xs, ws, wxs, this_inverse, attempt)
        better = (sum_l2 > spread(_F(0))) & (sum_lx * sum_lx > score * sum_l2)
        this_scale = sum_lx / sum_l2
        return (
            where(better, this_scale, scale),
            where(better, this_scale * sum_lx, score),
            where(better, this_inverse, inverse),
        )

    @inlined
    def put(empty: Any, best: Any, found: Floats) -> None:
        scale, _, inverse = best
        store_found(found, 0, where(empty, spread(_F(0)), scale))
        store_found(found, 16, inverse)
        store_found(found, 32, where(empty, spread(_F(0)), _F(1)))

    @inlined
    def search_one(xs: Floats, ws: Floats, wxs: Floats, found: Floats) -> None:
        empty, extreme, best = begin(xs, ws, wxs)
        for attempt in range(-9, 10):
            if attempt != 0:
                best = better_of(xs, ws, wxs, extreme, best, attempt)
        put(empty, best, found)

    @inlined
    def search(xs: Floats, ws: Floats, wxs: Floats, found: Floats) -> None:
        xs_2, ws_2, wxs_2 = xs[2 * apart :], ws[2 * apart :], wxs[2 * apart :]
        empty, extreme, best = begin(xs, ws, wxs)
        empty_2, extreme_2, best_2 = begin(xs_2, ws_2, wxs_2)
        for attempt in range(-9, 10):
            if attempt != 0:
                best = better_of(xs, ws, wxs, extreme, best, attempt)
                best_2 = better_of(xs_2, ws_2, wxs_2, extreme_2, best_2, attempt)
        put(empty, best, found)
        put(empty_2, best_2, found[96:])

    return search_one if sets == 1 else search


def positive_search(length: int, top: int) -> Callable[..., Any]:
    """make_qp_quants: code * scale, codes in 0..top for numbers that are not negative (if one is, its code wraps).

    The made function is (xs, ws, codes, found) -> None. codes: int32, as xs. found: the scale of the lanes.
    """

    @inlined
    def error_of(xs: Floats, ws: Floats, inverse: F32x16) -> F32x16:
        total, scale = splat16(_F(0)), 1 / inverse
        for i in range(length):
            x = load16(xs, 16 * i)
            error = x - scale * to_float(lesser(nearest(inverse * x), top))
            total = total + load16(ws, 16 * i) * error * error
        return total

    @inlined
    def improve(xs: Floats, ws: Floats, codes: Ints, sum_lx: F32x16, sum_l2: F32x16) -> Any:
        zero, changed = splat16(_F(0)), False
        for i in range(length):
            x, w, code = load16(xs, 16 * i), load16(ws, 16 * i), load_ints16(codes, 16 * i)
            held = to_float(code)
            rest_lx, rest_l2 = sum_lx - w * x * held, sum_l2 - w * held * held
            other = lesser(nearest(x * rest_l2 / rest_lx), top)
            moved = (rest_lx > zero) & (rest_l2 > zero) & (other != code)
            value = to_float(other)
            rest_lx, rest_l2 = rest_lx + w * x * value, rest_l2 + w * value * value
            moved = moved & (rest_lx * rest_lx * sum_l2 > sum_lx * sum_lx * rest_l2)
            store_ints(codes, 16 * i, where(moved, other & 255, code))
            sum_lx, sum_l2 = where(moved, rest_lx, sum_lx), where(moved, rest_l2, sum_l2)
            changed = changed or any_lane(moved)
        return sum_lx, sum_l2, changed

    @inlined
    def search(xs: Floats, ws: Floats, codes: Ints, found: Floats) -> None:
        zero = splat16(_F(0))
        largest = zero
        for i in range(length):
            largest = greater(largest, load16(xs, 16 * i))
        empty = largest < TINY
        inverse = splat16(_F(top)) / largest
        best, scale = zero, 1 / inverse
        for i in range(length):
            x = load16(xs, 16 * i)
            error = x - scale * to_float(nearest(inverse * x) & 255)
            best = best + load16(ws, 16 * i) * error * error
        for attempt in range(-4, 5):
            if attempt != 0:
                candidate = splat16(_F(0.1) * _F(attempt) + _F(top)) / largest
                error = error_of(xs, ws, candidate)
                better = error < best
                best, inverse = where(better, error, best), where(better, candidate, inverse)
        sum_lx, sum_l2 = zero, zero
        for i in range(length):
            x, w = load16(xs, 16 * i), load16(ws, 16 * i)
            code = lesser(nearest(inverse * x), top)
            store_ints(codes, 16 * i, where(empty, splat_int16(0), code & 255))
            value = to_float(code)
            sum_lx, sum_l2 = sum_lx + w * x * value, sum_l2 + w * value * value
        sum_lx, sum_l2 = where(empty, zero, sum_lx), where(empty, zero, sum_l2)
        for _ in range(5):
            sum_lx, sum_l2, changed = improve(xs, ws, codes, sum_lx, sum_l2)
            if not changed:
                break
        store(found, 0, where(sum_l2 > zero, sum_lx / sum_l2, zero))

    return search
