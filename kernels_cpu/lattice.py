"""The search of ggml's IQ2 and IQ3 types: the best scale of a group whose values may only be points of a codebook.

ggml tries a dozen or two scales for every group of 16 or 32 values. For each it rounds all values to levels, and where
four or eight of these are no point of the grid, takes the best of the nearest points. What is done here in lanes:

* Rounding, eight candidate scales at a time.
* Looking for the best neighbour, eight at a time. A neighbour's distance is a sum of one term for each coordinate, and
  a coordinate has three or eight levels: the terms are tables of eight numbers, the sum looks them up in the
  reference's order.
* The sums over the group's values, which must be in order, for eight candidates at a time.

Where nothing is nearer than the largest float (a weight or a square overflowed) the reference aborts the process; here
point 0 is taken.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu._jit import Kernel, inlined, spliced
from requant.kernels_cpu.simd import (
    F32x8,
    I32x8,
    first_lane,
    float_bits,
    greater,
    lesser,
    load,
    load_ints,
    load_words,
    mask_bits,
    smallest_lane,
    splat,
    splat_int,
    sqrt,
    store,
    store_ints,
    to_float,
    value_bits,
    where,
)
from requant.kernels_cpu.simd_lookup import lane, permute

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint16]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

_F = np.float32
_NONE: Final = np.empty(0, _F)
_LARGEST: Final = _F(np.finfo(_F).max)
_ROUNDER: Final = _F(12582912)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits


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
    return (value_bits(x + _ROUNDER) & 0x7FFFFF) - 0x400000


@inlined
def nearest_ints(x: F32x8) -> I32x8:
    """The same in every lane."""
    return (float_bits(x + _ROUNDER) & 0x7FFFFF) - 0x400000


@inlined
def clear(out: Bytes, start: int, count: int) -> None:
    """Zeros; a loop, because numba takes seconds to compile an assignment to a slice."""
    for i in range(start, start + count):
        out[i] = 0


@inlined
def copy(values: Floats, start: int, block: Floats) -> None:
    """256 values."""
    for i in range(0, 256, 8):
        store(block, i, load(values, start + i))


@inlined
def sum_of_squares(values: Floats, start: int) -> np.float32:
    """Of 256 values, in order."""
    total = _F(0)
    for i in range(start, start + 256):
        total += values[i] * values[i]
    return total


@inlined
def weigh(values: Floats, start: int, importance: Floats, sigma2: np.float32, ws: Floats) -> None:
    """The weights of 256 values that have an importance."""
    place = start % importance.size
    for i in range(0, 256, 8):
        x = load(values, start + i)
        store(ws, i, load(importance, place + i) * sqrt(x * x + sigma2))


@inlined
def split_signs(values: Floats, start: int, xs: Floats, signs: Longs) -> None:
    """Magnitudes of 256 values, and for every eight a bit for each that is negative."""
    for i in range(32):
        x = load(values, start + 8 * i)
        negative = x < _F(0)
        store(xs, 8 * i, where(negative, _F(0) - x, x))
        signs[i] = mask_bits(negative)


@inlined
def even_signs(ws: Floats, xs: Floats, signs: Longs) -> None:
    """Make the number of signs in every eight even: the value that matters least changes its sign."""
    for i in range(32):
        number = signs[i]
        parity = number ^ number >> 4
        parity ^= parity >> 2
        if (parity ^ parity >> 1) & 1:
            x = load(xs, 8 * i)
            cost = load(ws, 8 * i) * x * x
            k = first_lane(cost == smallest_lane(cost)) & 7
            xs[8 * i + k] = -xs[8 * i + k]
            number ^= 1 << k
        signs[i] = number & 127


def numerators(count: int, top: int, step: float) -> Floats:
    """2 * top + 1 and `count` // 2 steps to either side, in the reference's arithmetic; rounded up to whole lanes."""
    offsets = np.minimum(np.arange(-(-count // 8) * 8), count - 1) - count // 2
    return (_F(2 * top + 1) + offsets.astype(_F) * _F(step)).astype(_F)


def make_nearest_point(dimensions: int, bits: int) -> Any:
    """The best neighbour of a code; of those as good as each other the first, as in the reference."""

    @spliced
    def nearest_point(
        xs: Floats, ws: Floats, at: int, rungs: F32x8, u: int, span: Longs, near: Words, terms: Floats
    ) -> int:
        """The point nearest to the values from `at` on, among the neighbours of code number u.

        rungs: what the levels stand for; with two bits the first four twice, as indices are three bits wide.
        """
        first, groups = span[2 * u], span[2 * u + 1] >> 1
        if span[2 * u + 1] & 1:
            return int(near[8 * first])
        for i in range(dimensions):
            difference = rungs - xs[at + i]
            store(terms, 8 * i, difference * ws[at + i] * difference)
        best, chosen = splat(_LARGEST), splat_int(0)
        for group in range(first, first + groups):
            codes = load_words(near, 8 * group)
            total = permute(load(terms, 0), codes)
            for i in range(1, dimensions):
                total = total + permute(load(terms, 8 * i), codes >> bits * i)
            better = total < best
            best, chosen = where(better, total, best), where(better, codes, chosen)
        return lane(chosen, first_lane(best == smallest_lane(best)))

    return nearest_point


def make_search(length: int, dimensions: int, bits: int, candidates: Floats, count: int, again: str) -> Any:
    """The search for groups of `length` values.

    again: which points are looked for once more with the scale that was found: "outside", those that rounding put
    outside the grid; "all", all of them if any was outside; "always", all of them.
    """
    points, lanes, levels = length // dimensions, len(candidates), {2: 3, 3: 8}[bits]
    ladder = np.array([2 * (k % (1 << bits)) + 1 for k in range(8)], _F)
    nearest_point = make_nearest_point(dimensions, bits)

    @spliced
    def levels_of(x: F32x8) -> I32x8:
        return greater(lesser(nearest_ints((x - _F(1)) * _F(0.5)), levels - 1), 0)

    @spliced
    def round_all(xs: Floats, at: int, floats: Floats, numbers: Ints) -> None:
        """For each point and candidate the number of the code that rounding gives."""
        for k in range(0, lanes, 8):
            inverse = load(floats, k)
            for p in range(points):
                number = splat_int(0)
                for i in range(dimensions - 1, -1, -1):
                    number = number * levels + levels_of(inverse * xs[at + dimensions * p + i])
                store_ints(numbers, lanes * p + k, number)

    @spliced
    def sums(xs: Floats, ws: Floats, at: int, chosen: Ints, floats: Floats) -> None:
        """sum of w * x * q and of w * q * q for each candidate, from 64 and 96 on."""
        for k in range(0, lanes, 8):
            sum_qx, sum_q2 = splat(_F(0)), splat(_F(0))
            for p in range(points):
                codes = load_ints(chosen, lanes * p + k)
                for i in range(dimensions):
                    w = ws[at + dimensions * p + i]
                    q = to_float((codes >> bits * i & (1 << bits) - 1) * 2 + 1)
                    sum_qx = sum_qx + q * (w * xs[at + dimensions * p + i])
                    sum_q2 = sum_q2 + q * w * q
            store(floats, 64 + k, sum_qx)
            store(floats, 96 + k, sum_q2)

    @spliced
    def best_candidate(floats: Floats) -> int:
        """The candidate that the reference ends with, -1 for none."""
        best, found = _F(0), -1
        for c in range(count):
            sum_qx, sum_q2 = floats[64 + c], floats[96 + c]
            if sum_q2 > 0 and sum_qx * sum_qx > best * sum_q2:
                best, found = sum_qx / sum_q2 * sum_qx, c
        return found

    @inlined
    def search(
        xs: Floats,
        ws: Floats,
        roots: Floats,
        at: int,
        divisor: np.float32,
        scale: np.float32,
        span: Longs,
        near: Words,
        floats: Floats,
        terms: Floats,
        numbers: Ints,
        chosen: Ints,
        codes: Longs,
    ) -> np.float32:
        """The best scale of the group of values from `at` on; `codes` become its points.

        floats: [128], terms: [64], numbers and chosen: [points * lanes]: work space.
        divisor: what the candidates are fractions of; scale: what it is if none of them is any good.
        """
        for k in range(0, lanes, 8):
            inverse = load(candidates, k) / divisor
            store(floats, k, inverse)
            store(floats, 32 + k, _F(1) / inverse)
        round_all(xs, at, floats, numbers)
        for p in range(points):
            for c in range(count):
                place = at + dimensions * p
                u = numbers[lanes * p + c]
                chosen[lanes * p + c] = nearest_point(
                    xs, roots, place, load(ladder, 0) * floats[32 + c], u, span, near, terms
                )
        sums(xs, ws, at, chosen, floats)
        found = best_candidate(floats)
        in_grid = True
        for p in range(points):
            codes[p] = 0
            if found >= 0:
                codes[p] = chosen[lanes * p + found]
                in_grid = in_grid and span[2 * numbers[lanes * p + found] + 1] & 1 != 0
        if found >= 0:
            scale = floats[64 + found] / floats[96 + found]
        elif again == "all":
            in_grid = False
        if (in_grid and again != "always") or not scale > 0:
            return scale

        back = _F(1) / scale
        for p in range(points):
            if again != "outside" or not span[2 * numbers[lanes * p + found] + 1] & 1:
                place, u = at + dimensions * p, 0
                for i in range(dimensions - 1, -1, -1):
                    level = nearest_int((back * xs[place + i] - _F(1)) * _F(0.5))
                    u = u * levels + max(0, min(levels - 1, level))
                codes[p] = nearest_point(xs, roots, place, load(ladder, 0) * scale, u, span, near, terms)
        sum_qx, sum_q2 = _F(0), _F(0)
        for i in range(length):
            w = ws[at + i]
            q = _F((codes[i // dimensions] >> bits * (i % dimensions) & (1 << bits) - 1) * 2 + 1)
            sum_qx += w * xs[at + i] * q
            sum_q2 += w * q * q
        return sum_qx / sum_q2 if sum_q2 > 0 else scale

    return search
