"""The searches of ggml's quantizers for the scale of a group, sixteen groups at a time, or two times sixteen.

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
    all_lanes,
    any_lane,
    fabs,
    float_bits,
    greater,
    lesser,
    load16,
    load32,
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
_EXACT_BELOW: Final = _F(4194303)  # beyond, the low bits mean something else
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

    The made function is (xs, ws, codes, found) -> None, of two times sixteen groups, one set after the other: the sums
    of a group wait for each other, and those of a second set fill the time. found: of each set [scale, -minimum,
    inverse, base] of the lanes; a value has the code `inverse * (x - base)`. codes is scratch, as large as xs.
    """
    apart = 16 * length
    start, delta = _F(first), _F(step)
    sums, error_of = _summing_up_to(length, top), _error_of(length, absolute)

    @inlined
    def search(xs: Floats, ws: Floats, codes: Floats, found: Floats) -> None:
        zero = splat32(_F(0))
        x, w = load_pair(xs, 0, apart), load_pair(ws, 0, apart)
        low, high, sum_w, sum_x = x, x, w, w * x
        for i in range(1, length):
            x, w = load_pair(xs, 16 * i, apart), load_pair(ws, 16 * i, apart)
            low, high = lesser(x, low), greater(x, high)
            sum_w, sum_x = sum_w + w, sum_x + w * x
        lowest, low = low, where(low > zero, zero, low)
        flat = high <= low

        best, scale, best_inverse, base = zero, zero, zero, low
        for attempt in range(-1, tries + 1):
            wanted = _F(top) if attempt < 0 else start + delta * _F(attempt) + _F(top)
            inverse = where(flat, zero, splat32(wanted) / (high - low))
            sum_l, sum_l2, sum_xl = sums(xs, ws, codes, low, inverse, lowest, high - low, wanted)
            if attempt < 0:
                scale, best_inverse = 1 / inverse, inverse
                best = error_of(xs, ws, codes, scale, low)
                continue
            determinant = sum_w * sum_l2 - sum_l * sum_l
            this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
            this_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
            above = this_low > zero
            if any_lane(above):
                this_scale, this_low = where(above, sum_xl / sum_l2, this_scale), where(above, zero, this_low)
            total = error_of(xs, ws, codes, this_scale, this_low)
            better = (determinant > zero) & (total < best)
            best_inverse, base = where(better, inverse, best_inverse), where(better, low, base)
            best, scale, low = (
                where(better, total, best),
                where(better, this_scale, scale),
                where(better, this_low, low),
            )

        store_pair(found, 0, 64, where(flat, zero, scale))
        store_pair(found, 16, 64, low * -1)
        store_pair(found, 32, 64, best_inverse)
        store_pair(found, 48, 64, base)

    return search


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


def signed_search(length: int, top: int, sets: int = 2, unbounded: bool = False) -> Callable[..., Any]:
    """make_qx_quants with rmse_type 1: code * scale, codes in -top..top-1.

    unbounded: the values may be infinite or NaN (scales whose sums overflowed), and round as ggml's integers do.

    The made function is (xs, ws, wxs, found) -> None, of one or two sets of sixteen groups, one after the other. found:
    of each set [scale, inverse, whether the group is not zero] of the lanes; a value has the code `inverse * x`. wxs is
    scratch, as large as xs.
    """
    lanes, store_lanes, spread = taking(sets, 16 * length)
    _, store_found, _ = taking(sets, 48)

    @inlined
    def fast_code(x: Any) -> Any:
        return greater(lesser(rint(x), top - 1), -top)

    @inlined
    def exact_code(x: Any) -> Any:
        return to_float(greater(lesser(nearest(x), top - 1), -top))

    code_of, extreme_of = exact_code if unbounded else fast_code, extremes(length, sets)

    @inlined
    def sums(xs: Floats, ws: Floats, wxs: Floats, inverse: Any) -> Any:
        sum_lx, sum_l2 = spread(_F(0)), spread(_F(0))
        for i in range(length):
            code = code_of(inverse * lanes(xs, 16 * i))
            sum_lx = sum_lx + lanes(wxs, 16 * i) * code
            sum_l2 = sum_l2 + lanes(ws, 16 * i) * code * code
        return sum_lx, sum_l2

    @inlined
    def search(xs: Floats, ws: Floats, wxs: Floats, found: Floats) -> None:
        zero = spread(_F(0))
        extreme, largest = extreme_of(xs)
        for i in range(length):
            store_lanes(wxs, 16 * i, lanes(ws, 16 * i) * lanes(xs, 16 * i))
        empty = largest < TINY
        extreme = where(empty, _F(1), extreme)

        best_inverse = spread(_F(-top)) / extreme
        sum_lx, sum_l2 = sums(xs, ws, wxs, best_inverse)
        scale = where(sum_l2 != zero, sum_lx / sum_l2, zero)
        best = scale * sum_lx
        for attempt in range(-9, 10):
            if attempt == 0:
                continue
            inverse = spread(-(_F(top) + _F(0.1) * _F(attempt))) / extreme
            sum_lx, sum_l2 = sums(xs, ws, wxs, inverse)
            better = (sum_l2 > zero) & (sum_lx * sum_lx > best * sum_l2)
            this_scale = sum_lx / sum_l2
            scale, best = where(better, this_scale, scale), where(better, this_scale * sum_lx, best)
            best_inverse = where(better, inverse, best_inverse)
        store_found(found, 0, where(empty, zero, scale))
        store_found(found, 16, best_inverse)
        store_found(found, 32, where(empty, zero, _F(1)))

    return search


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
