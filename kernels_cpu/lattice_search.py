"""The search of ggml's IQ2 and IQ3 types: the best scale of a group whose values may only be points of a codebook.

ggml tries a dozen or two scales for every group of 16 or 32 values. For each it rounds all values to levels, and where
four or eight of these are no point of the grid, takes the best of the nearest points. Here the candidate scales are
lanes, sixteen at a time; which of the nearest points is the best for each of them is found in lattice_points.py.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import Floats, Ints, Ints64, Words, inlined, spliced
from requant.kernels_cpu.ggml_shells import count_of, first_of, is_point
from requant.kernels_cpu.lattice import nearest_int
from requant.kernels_cpu.lattice_points import ODDS, looking_up, make_nearest_point, make_nearest_points, reach_of
from requant.kernels_cpu.search import nearest
from requant.kernels_cpu.simd import (
    float_bits,
    greater,
    lanes8,
    largest_lane,
    lesser,
    load,
    load16,
    load_ints,
    load_ints16,
    mask_bits,
    smallest_lane,
    splat,
    splat16,
    splat_int,
    splat_int16,
    store,
    store_ints,
    where,
)
from requant.kernels_cpu.simd_lookup import highest_bit, lowest_bit, repeated, repeated8

_F = np.float32


def numerators(count: int, top: int, step: float) -> Floats:
    """2 * top + 1 and `count` // 2 steps to either side, in the reference's arithmetic; rounded up to whole lanes."""
    offsets = np.minimum(np.arange(-(-count // 8) * 8), count - 1) - count // 2
    return (_F(2 * top + 1) + offsets.astype(_F) * _F(step)).astype(_F)


def _taking(lanes: int) -> tuple[int, Any, Any, Any, Any, Any]:
    """How many lanes are taken at once, and what loads, spreads and repeats numbers for as many."""
    if lanes % 16:
        return 8, load, load_ints, splat, splat_int, repeated8
    return 16, load16, load_ints16, splat16, splat_int16, repeated


#: 1.5 * 2**24: adding it leaves the nearest even number, halved, in the low bits.
_ROUNDER: Final = _F(25165824)
_ROUNDER_BITS: Final = int(_ROUNDER.view(np.int32))


def _make_rounding(points: int, dimensions: int, bits: int, lanes: int) -> Any:
    wide, load_lanes, _, _, spread_int, repeat = _taking(lanes)
    levels = {2: 3, 3: 8}[bits]
    #: What the bits of the rounder add up to in a number of eight levels.
    surplus = sum(_ROUNDER_BITS << 3 * i for i in range(dimensions)) + (1 << 31) & (1 << 32) - 1
    surplus -= 1 << 31

    @spliced
    def any_levels(x: Any) -> Any:
        return greater(lesser(nearest((x - _F(1)) * _F(0.5)), levels - 1), 0)

    @spliced
    def numbers_of(inverse: Any, xs: Floats, at: int) -> Any:
        """Of the sizes of values that no scale brings beyond 2**20."""
        total = spread_int(0)
        for i in range(dimensions - 1, -1, -1):
            x = inverse * repeat(xs, at + i)
            if bits == 2:  # 1.5 levels are 2, and 0.5 are 0: ties go to even numbers
                total = total * 3 + (where(x > _F(2), spread_int(1), 0) + where(x >= _F(4), spread_int(1), 0))
            else:
                rounded = greater(lesser(x, _F(15)), _F(1)) - _F(1) + _ROUNDER
                total = (total << 3) + float_bits(rounded)
        return total if bits == 2 else total - surplus

    @spliced
    def round_all(xs: Floats, at: int, floats: Floats, numbers: Ints, far: np.float32) -> None:
        """For each point and candidate (an inverse scale, from 0 on) the number of the code that rounding gives.

        far: what no value's size exceeds, in steps of any of the scales.
        """
        for k in range(0, lanes, wide):
            inverse = load_lanes(floats, k)
            for p in range(points):
                if far < _F(2.0**20):
                    number = numbers_of(inverse, xs, at + dimensions * p)
                else:
                    number = spread_int(0)
                    for i in range(dimensions - 1, -1, -1):
                        number = number * levels + any_levels(inverse * repeat(xs, at + dimensions * p + i))
                store_ints(numbers, lanes * p + k, number)

    return round_all


def _make_sums(length: int, dimensions: int, bits: int, lanes: int) -> Any:
    wide, _, load_codes, spread, _, _ = _taking(lanes)
    look_up, odds = looking_up(bits), ODDS[bits]

    @spliced
    def sums(xs: Floats, ws: Floats, at: int, chosen: Ints, floats: Floats, tables: Floats) -> None:
        """sum of w * x * q and of w * q * q for each candidate, from 64 and 96 on."""
        odd = load(odds, 0)
        for i in range(length):
            w, x = repeated8(ws, at + i), repeated8(xs, at + i)
            store(tables, 16 * i, odd * (w * x))
            store(tables, 16 * i + 8, odd * w * odd)
        for k in range(0, lanes, wide):
            sum_qx, sum_q2 = spread(_F(0)), spread(_F(0))
            for p in range(length // dimensions):
                codes = load_codes(chosen, lanes * p + k)
                for i in range(dimensions):
                    index, table = codes >> bits * i, 16 * (dimensions * p + i)
                    sum_qx = sum_qx + look_up(load(tables, table), index)
                    sum_q2 = sum_q2 + look_up(load(tables, table + 8), index)
            store(floats, 64 + k, sum_qx)
            store(floats, 96 + k, sum_q2)

    return sums


@spliced
def _best_candidate(floats: Floats, lanes: int, count: int) -> int:
    """The candidate that the reference ends with, -1 for none.

    It ends with the last of those that are better than all before them. One that is a millionth worse than another is
    not that, and rounding does not change it as long as products are far from the least and largest floats. Mostly all
    that are left have the same points and thus the same sums: whether one is better than another, only rounding says.
    """
    best, least, most = splat(_F(0)), splat(_F(1)), splat(_F(1))
    for c in range(0, lanes, 8):
        sum_qx, sum_q2 = load(floats, 64 + c), load(floats, 96 + c)
        there = lanes8() + c < count
        best = where(there, greater(sum_qx / sum_q2 * sum_qx, best), best)
        least, most = where(there, lesser(sum_q2, least), least), where(there, greater(sum_q2, most), most)
    known, found = largest_lane(best), -1
    usual = known > _F(2.0**-55) and known < _F(2.0**60)
    usual = usual and smallest_lane(least) > _F(2.0**-55) and largest_lane(most) < _F(2.0**40)
    known = known * _F(1 - 2.0**-20) if usual else _F(0)
    better = 0
    for c in range(0, lanes, 8):
        sum_qx, sum_q2 = load(floats, 64 + c), load(floats, 96 + c)
        better |= mask_bits((sum_q2 > _F(0)) & (sum_qx * sum_qx > sum_q2 * known)) << c
    better &= (1 << count) - 1
    if usual:
        first, same = lowest_bit(better), 0
        qx, q2 = floats[64 + first], floats[96 + first]
        for c in range(0, lanes, 8):
            same |= mask_bits((load(floats, 64 + c) == qx) & (load(floats, 96 + c) == q2)) << c
        if better & ~same == 0:
            return highest_bit(better) if qx * qx > qx / q2 * qx * q2 else first
    while better:
        c = lowest_bit(better)
        better &= better - 1
        sum_qx, sum_q2 = floats[64 + c], floats[96 + c]
        if sum_qx * sum_qx > known * sum_q2:
            known, found = sum_qx / sum_q2 * sum_qx, c
    return found


def _make_rounding_once(dimensions: int, bits: int) -> Any:
    levels = {2: 3, 3: 8}[bits]

    @spliced
    def round_once(xs: Floats, place: int, inverse: np.float32) -> int:
        """The number of the code that rounding gives the values from `place` on."""
        u = 0
        for i in range(dimensions - 1, -1, -1):
            level = nearest_int((inverse * xs[place + i] - _F(1)) * _F(0.5))
            u = u * levels + max(0, min(levels - 1, level))
        return u

    return round_once


def _make_fit(length: int, dimensions: int, bits: int) -> Any:
    @spliced
    def fit(xs: Floats, ws: Floats, at: int, codes: Ints64, scale: np.float32) -> np.float32:
        """The scale that fits the points of `codes` best; `scale` if there is none."""
        sum_qx, sum_q2 = _F(0), _F(0)
        for i in range(length):
            w = ws[at + i]
            q = _F((codes[i // dimensions] >> bits * (i % dimensions) & (1 << bits) - 1) * 2 + 1)
            sum_qx += w * xs[at + i] * q
            sum_q2 += w * q * q
        return sum_qx / sum_q2 if sum_q2 > 0 else scale

    return fit


def make_search(length: int, dimensions: int, bits: int, candidates: Floats, count: int, again: str) -> Any:
    """The search for groups of `length` values.

    again: which points are looked for once more with the scale that was found: "outside", those that rounding put
    outside the grid; "all", all of them if any was outside; "always", all of them.
    """
    points, lanes, odds = length // dimensions, len(candidates), ODDS[bits]
    together = 16 if again == "always" else 8
    nearest_point = make_nearest_point(dimensions, bits, together)
    nearest_points = make_nearest_points(length, dimensions, bits, lanes, count, together)
    round_all, round_once = _make_rounding(points, dimensions, bits, lanes), _make_rounding_once(dimensions, bits)
    sums, fit = _make_sums(length, dimensions, bits, lanes), _make_fit(length, dimensions, bits)

    @inlined
    def search(
        xs: Floats,
        ws: Floats,
        roots: Floats,
        at: int,
        divisor: np.float32,
        scale: np.float32,
        grid: tuple[Ints, Words],
        work: tuple[Floats, Floats, Floats, Ints, Ints, Ints],
        codes: Ints64,
    ) -> np.float32:
        """The best scale of the group of values from `at` on; `codes` become its points.

        divisor: what the candidates are fractions of; scale: what it is if none of them is any good. grid: span and
        near of its `Neighbours`.
        """
        (span, near), (floats, tables, _, numbers, chosen, _) = grid, work
        for k in range(0, lanes, 8):
            inverse = load(candidates, k) / divisor
            store(floats, k, inverse)
            store(floats, 32 + k, _F(1) / inverse)
        largest = reach_of(xs, at, length)
        round_all(xs, at, floats, numbers, largest * floats[count - 1])
        nearest_points(xs, roots, at, largest, grid, work)
        sums(xs, ws, at, chosen, floats, tables)
        found = _best_candidate(floats, lanes, count)
        in_grid = True
        for p in range(points):
            codes[p] = 0
            if found >= 0:
                codes[p] = chosen[lanes * p + found]
                in_grid = in_grid and is_point(span, numbers[lanes * p + found])
        if found >= 0:
            scale = floats[64 + found] / floats[96 + found]
        elif again == "all":
            in_grid = False
        if (in_grid and again != "always") or not scale > 0:
            return scale

        for p in range(points):
            if again != "outside" or not is_point(span, numbers[lanes * p + found]):
                place = at + dimensions * p
                u = round_once(xs, place, _F(1) / scale)
                first, some = first_of(span, u), count_of(span, u)
                codes[p] = nearest_point(xs, roots, place, load(odds, 0) * scale, near, first, some, tables)
        fitted: np.float32 = fit(xs, ws, at, codes, scale)
        return fitted

    return search
