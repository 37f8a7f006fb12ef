"""The search of ggml's IQ2 and IQ3 types: the best scale of a group whose values may only be points of a codebook.

ggml tries a dozen or two scales for every group of 16 or 32 values. For each it rounds all values to levels, and where
four or eight of these are no point of the grid, takes the best of the nearest points. Here the candidate scales are
lanes, sixteen at a time; which of the nearest points is the best for each of them is found in lattice_points.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from requant.kernels_cpu._jit import Floats, Ints, Ints64, Words, inlined, spliced
from requant.kernels_cpu.lattice import nearest_int
from requant.kernels_cpu.lattice_points import make_nearest_point, make_nearest_points
from requant.kernels_cpu.search import nearest
from requant.kernels_cpu.simd import (
    F32x16,
    I32x16,
    greater,
    lesser,
    load16,
    load_ints16,
    splat16,
    splat_int16,
    store,
    store_ints,
    to_float,
)
from requant.kernels_cpu.simd_lookup import repeated

_F = np.float32


def numerators(count: int, top: int, step: float) -> Floats:
    """2 * top + 1 and `count` // 2 steps to either side, in the reference's arithmetic; rounded up to whole lanes."""
    offsets = np.minimum(np.arange(-(-count // 16) * 16), count - 1) - count // 2
    return (_F(2 * top + 1) + offsets.astype(_F) * _F(step)).astype(_F)


def _make_rounding(points: int, dimensions: int, levels: int, lanes: int) -> Any:
    @spliced
    def levels_of(x: F32x16) -> I32x16:
        return greater(lesser(nearest((x - _F(1)) * _F(0.5)), levels - 1), 0)

    @spliced
    def round_all(xs: Floats, at: int, floats: Floats, numbers: Ints) -> None:
        """For each point and candidate (an inverse scale, from 0 on) the number of the code that rounding gives."""
        for k in range(0, lanes, 16):
            inverse = load16(floats, k)
            for p in range(points):
                number = splat_int16(0)
                for i in range(dimensions - 1, -1, -1):
                    number = number * levels + levels_of(inverse * repeated(xs, at + dimensions * p + i))
                store_ints(numbers, lanes * p + k, number)

    return round_all


def _make_sums(points: int, dimensions: int, bits: int, lanes: int) -> Any:
    @spliced
    def sums(xs: Floats, ws: Floats, at: int, chosen: Ints, floats: Floats) -> None:
        """sum of w * x * q and of w * q * q for each candidate, from 64 and 96 on."""
        for k in range(0, lanes, 16):
            sum_qx, sum_q2 = splat16(_F(0)), splat16(_F(0))
            for p in range(points):
                codes = load_ints16(chosen, lanes * p + k)
                for i in range(dimensions):
                    place = at + dimensions * p + i
                    w, x = repeated(ws, place), repeated(xs, place)
                    q = to_float((codes >> bits * i & (1 << bits) - 1) * 2 + 1)
                    sum_qx = sum_qx + q * (w * x)
                    sum_q2 = sum_q2 + q * w * q
            store(floats, 64 + k, sum_qx)
            store(floats, 96 + k, sum_q2)

    return sums


@spliced
def _best_candidate(floats: Floats, count: int) -> int:
    """The candidate that the reference ends with, -1 for none."""
    best, found = _F(0), -1
    for c in range(count):
        sum_qx, sum_q2 = floats[64 + c], floats[96 + c]
        if sum_q2 > 0 and sum_qx * sum_qx > best * sum_q2:
            best, found = sum_qx / sum_q2 * sum_qx, c
    return found


def _make_rounding_once(dimensions: int, levels: int) -> Any:
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
    points, lanes, levels = length // dimensions, len(candidates), {2: 3, 3: 8}[bits]
    ladder = np.array([2 * (k % (1 << bits)) + 1 for k in range(16)], _F)
    nearest_point = make_nearest_point(dimensions, bits)
    nearest_points = make_nearest_points(length, dimensions, bits, lanes, count)
    round_all, round_once = _make_rounding(points, dimensions, levels, lanes), _make_rounding_once(dimensions, levels)
    sums, fit = _make_sums(points, dimensions, bits, lanes), _make_fit(length, dimensions, bits)

    @inlined
    def search(
        xs: Floats,
        ws: Floats,
        roots: Floats,
        at: int,
        divisor: np.float32,
        scale: np.float32,
        grid: tuple[Ints64, Words],
        work: tuple[Floats, Floats, Floats, Ints, Ints],
        codes: Ints64,
    ) -> np.float32:
        """The best scale of the group of values from `at` on; `codes` become its points.

        divisor: what the candidates are fractions of; scale: what it is if none of them is any good. grid: span and
        near of its `Neighbours`.
        """
        (span, near), (floats, tables, _, numbers, chosen) = grid, work
        for k in range(0, lanes, 16):
            inverse = load16(candidates, k) / divisor
            store(floats, k, inverse)
            store(floats, 32 + k, _F(1) / inverse)
        round_all(xs, at, floats, numbers)
        nearest_points(xs, roots, at, grid, work)
        sums(xs, ws, at, chosen, floats)
        found = _best_candidate(floats, count)
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

        for p in range(points):
            if again != "outside" or not span[2 * numbers[lanes * p + found] + 1] & 1:
                place = at + dimensions * p
                u = round_once(xs, place, _F(1) / scale)
                first, some = span[2 * u], span[2 * u + 1] >> 1
                codes[p] = nearest_point(xs, roots, place, load16(ladder, 0) * scale, near, first, some, tables)
        fitted: np.float32 = fit(xs, ws, at, codes, scale)
        return fitted

    return search
