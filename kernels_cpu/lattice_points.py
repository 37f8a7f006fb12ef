"""Which point of a codebook is the nearest to some values, of the neighbours of the code that they round to.

A neighbour's distance is a sum of one term for each coordinate, and a coordinate has three or eight levels: the terms
are tables, the sum looks them up in the reference's order, for sixteen neighbours at a time.

A search asks for many scales, and many of them round to the same code. For these, the distance of neighbour q of values
x with weights w is, over the scale s and but for what is the same for all, s * sum(w * q * q) - sum(2 * w * x * q): a
line, whose two sums are made once. Sixteen scales at a time see which line is the lowest. Where another comes so close
that rounding might tell them apart in another way than the reference does, the distances themselves are compared.

Where nothing is nearer than the largest float (a weight or a square overflowed) the reference aborts the process; here
the first neighbour is taken.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import Floats, Ints, Ints64, Words, spliced
from requant.kernels_cpu.ggml_shells import NONE
from requant.kernels_cpu.simd import (
    F32x16,
    fabs,
    greater,
    lanes16,
    largest_lane,
    lesser,
    load16,
    load_ints16,
    load_words16,
    mask_bits,
    smallest_lane,
    splat16,
    splat_int16,
    store,
    store_ints,
    to_float,
    where,
)
from requant.kernels_cpu.simd_lookup import lowest_bit, permute, repeated

_F = np.float32
_LARGEST: Final = _F(np.finfo(_F).max)
#: The most neighbours that a code has, rounded up.
_MOST: Final = 320
#: Where tables of the two sums are, behind those of distances.
_SQUARES: Final = 128
_PRODUCTS: Final = 192


def make_nearest_point(dimensions: int, bits: int) -> Any:
    """The best of some neighbours; of those as good as each other the first, as in the reference."""

    @spliced
    def nearest_point(
        xs: Floats, ws: Floats, at: int, rungs: F32x16, near: Words, first: int, count: int, terms: Floats
    ) -> int:
        """The point nearest to the values from `at` on, of the `count` ones from `first` on.

        rungs: what the levels stand for, again and again, as indices are four bits wide.
        """
        if count == 1:
            return int(near[first])
        for i in range(dimensions):
            difference = rungs - repeated(xs, at + i)
            store(terms, 16 * i, difference * repeated(ws, at + i) * difference)
        best, chosen = splat16(_LARGEST), splat_int16(0)
        for j in range(0, count, 16):
            codes, places = load_words16(near, first + j), lanes16() + j
            total = permute(load16(terms, 0), codes)
            for i in range(1, dimensions):
                total = total + permute(load16(terms, 16 * i), codes >> bits * i)
            better = (total < best) & (places < count)
            best, chosen = where(better, total, best), where(better, places, chosen)
        place = smallest_lane(where(best == smallest_lane(best), to_float(chosen), _LARGEST))
        return int(near[first + int(place)])

    return nearest_point


@spliced
def margin(far: np.float32, weight: np.float32, scale: np.float32) -> np.float32:
    """How much lower the lowest line must be, if rounding is to tell the same of distances.

    Values and points reach `far` together. Of 24 bits, a reference's distance is off by less than 14 units of
    weight * far**2, a line by 11 units of that over the scale; twice the sum of both is less than 64. What is less than
    the least normal number is off by more.
    """
    beyond = (far + _F(1)) * (far + _F(1))
    return (far * far * weight * _F(2.0**-18) + beyond * _F(2.0**-120)) / scale


def _make_lines(bits: int) -> tuple[Any, Any]:
    """What makes the lines of neighbours, from tables of what four parts of a code add to them."""
    both, width = bits == 2, {2: 4, 3: 3}[bits]  # with two bits, a part is two coordinates
    low = np.array([2 * (k % (1 << bits)) + 1 for k in range(16)], _F)
    high = np.array([2 * (k // 4) + 1 for k in range(16)], _F)
    low2, high2 = low * low, high * high

    @spliced
    def put_tables(xs: Floats, ws: Floats, at: int, tables: Floats) -> None:
        for part in range(4):
            i = at + (2 * part if both else part)
            w, x = repeated(ws, i), repeated(xs, i)
            squares, products = load16(low2, 0) * w, load16(low, 0) * (_F(2) * w * x)
            if both:
                w, x = repeated(ws, i + 1), repeated(xs, i + 1)
                squares = squares + load16(high2, 0) * w
                products = products + load16(high, 0) * (_F(2) * w * x)
            store(tables, _SQUARES + 16 * part, squares)
            store(tables, _PRODUCTS + 16 * part, products)

    @spliced
    def put_lines(near: Words, first: int, count: int, tables: Floats, lines: Floats) -> None:
        """The sums that the scale multiplies from 0 on, the others from _MOST on."""
        for j in range(0, count, 16):
            codes = load_words16(near, first + j)
            squares, products = splat16(_F(0)), splat16(_F(0))
            for part in range(4):
                index = codes >> width * part
                squares = squares + permute(load16(tables, _SQUARES + 16 * part), index)
                products = products + permute(load16(tables, _PRODUCTS + 16 * part), index)
            there = codes != NONE
            store(lines, j, where(there, squares, _F(0)))
            store(lines, _MOST + j, where(there, products, _F(-(2.0**126))))

    return put_tables, put_lines


def make_nearest_points(length: int, dimensions: int, bits: int, lanes: int, count: int) -> Any:
    """For each point and candidate scale the best of the neighbours."""
    top, ladder = {2: 5, 3: 15}[bits], np.array([2 * (k % (1 << bits)) + 1 for k in range(16)], _F)
    nearest_point = make_nearest_point(dimensions, bits)
    put_tables, put_lines = _make_lines(bits)

    @spliced
    def ends_of_runs(numbers: Ints, row: int) -> int:
        """A bit for each candidate after which comes another number."""
        ends = 0
        for k in range(0, lanes, 16):
            ends |= mask_bits(load_ints16(numbers, row + k) != load_ints16(numbers, row + k + 1)) << k
        return ends & ((1 << count) - 1) | 1 << count - 1

    @spliced
    def reach(xs: Floats, at: int) -> np.float32:
        """The size of the largest value."""
        largest = fabs(load16(xs, at))
        for i in range(16, length, 16):
            largest = greater(fabs(load16(xs, at + i)), largest)
        return largest_lane(largest)

    @spliced
    def lowest_lines(scales: F32x16, near: Words, first: int, count: int, lines: Floats, least: np.float32) -> Any:
        """Of each scale the point of the lowest line, and a bit where another comes closer than `least`."""
        best, second, chosen = splat16(_LARGEST), splat16(_F(np.inf)), repeated(near, first)
        for start in range(0, count, 4):
            for j in range(start, start + 4):
                height = scales * repeated(lines, j) - repeated(lines, _MOST + j)
                second = lesser(greater(height, best), second)
                better = height < best
                best, chosen = where(better, height, best), where(better, repeated(near, first + j), chosen)
        return chosen, ~mask_bits(second > best + least)

    @spliced
    def nearest_points(
        xs: Floats,
        ws: Floats,
        at: int,
        grid: tuple[Ints64, Words],
        work: tuple[Floats, Floats, Floats, Ints, Ints],
    ) -> None:
        """The points nearest to the values from `at` on; candidate scales are from 32 on in the first of `work`."""
        (span, near), (floats, tables, lines, numbers, chosen) = grid, work
        far = reach(xs, at) + _F(top) * floats[32]
        for p in range(length // dimensions):
            place, row, c, weight = at + dimensions * p, lanes * p, 0, _F(0)
            for i in range(dimensions):
                weight += ws[place + i]
            least = margin(far, weight, floats[31 + count])
            if not least < _F(2.0**80):
                least = _F(np.inf)  # not even a line's sums may overflow
            put_tables(xs, ws, place, tables)
            ends = ends_of_runs(numbers, row)
            while ends:
                last = lowest_bit(ends)
                ends &= ends - 1
                u = numbers[row + last]
                first, candidates = span[2 * u], span[2 * u + 1] >> 1
                lined = candidates if candidates > 1 else 0
                put_lines(near, first, lined, tables, lines)
                while c <= last:
                    found, doubts = lowest_lines(load16(floats, 32 + c), near, first, lined, lines, least)
                    store_ints(chosen, row + c, found)
                    doubts &= (2 << min(last - c, 15)) - 1
                    while doubts:
                        k = c + lowest_bit(doubts)
                        doubts &= doubts - 1
                        rungs = load16(ladder, 0) * floats[32 + k]
                        chosen[row + k] = nearest_point(xs, ws, place, rungs, near, first, candidates, tables)
                    c += 16
                c = last + 1

    return nearest_points
