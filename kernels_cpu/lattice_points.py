"""Which point of a codebook is the nearest to some values, of the neighbours of the code that they round to.

A neighbour's distance is a sum of one term for each coordinate, and a coordinate has three or eight levels: the terms
are tables, the sum looks them up in the reference's order, for sixteen neighbours at a time.

A search asks for many scales, and many of them round to the same code. For these, the distance of neighbour q of values
x with weights w is, over the scale s and but for what is the same for all, s * sum(w * q * q) - sum(2 * w * x * q): a
line, whose two sums are made once. A line that is the lowest at the least and at the greatest of the scales is so in
between. Else sixteen scales at a time see which line is the lowest. Where another comes so close that rounding might
tell them apart in another way than the reference does, the distances themselves are compared.

Where nothing is nearer than the largest float (a weight or a square overflowed) the reference aborts the process; here
the first neighbour is taken.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import Floats, Ints, Words, inlined, spliced
from requant.kernels_cpu.cache import has
from requant.kernels_cpu.ggml_shells import count_of, first_of
from requant.kernels_cpu.simd import (
    F32x8,
    F32x16,
    any_lane,
    fabs,
    first_lane,
    greater,
    lanes8,
    lanes16,
    largest_lane,
    lesser,
    load,
    load16,
    load_ints,
    load_ints16,
    load_words,
    load_words16,
    mask_bits,
    number,
    smallest_lane,
    splat,
    splat16,
    splat_int,
    splat_int16,
    store,
    store_ints,
    to_float,
    where,
)
from requant.kernels_cpu.simd_lookup import bits_set, lowest_bit, permute, permute_four, repeated, repeated8
from requant.kernels_cpu.simd_vectors import Mask16

_F = np.float32
_LARGEST: Final = _F(np.finfo(_F).max)
#: The most neighbours that a code has, rounded up.
_MOST: Final = 320
#: Where the tables of both sums are, behind those of distances: twice eight numbers for each coordinate of a group.
_LINES: Final = 64
#: The numbers that levels stand for: those of three bits, or those of two bits, twice.
ODDS: Final = {bits: np.array([2 * (k % (1 << bits)) + 1 for k in range(8)], _F) for bits in (2, 3)}


@spliced
def reach_of(xs: Floats, at: int, length: int) -> np.float32:
    """The size of the largest of some values, a multiple of sixteen."""
    largest = fabs(load16(xs, at))
    for i in range(16, length, 16):
        largest = greater(fabs(load16(xs, at + i)), largest)
    return largest_lane(largest)


def looking_up(bits: int) -> Any:
    """What looks a level up in eight numbers, of which those of two bits are there twice."""
    return {2: permute_four, 3: permute}[bits]


def _taking(lanes: int) -> tuple[Any, Any, Any, Any, Any]:
    """What loads numbers and codes, spreads a number or an integer, and counts, for as many lanes."""
    if lanes == 8:
        return load, load_words, splat, splat_int, lanes8
    return load16, load_words16, splat16, splat_int16, lanes16


#: How many of many neighbours are looked at together: as many as a register holds, where much has to be held.
_WIDE: Final = 16 if has("avx512f") else 8
_load, _load_codes, _spread, _spread_int, _counting = _taking(_WIDE)


def make_nearest_point(dimensions: int, bits: int, lanes: int) -> Any:
    """The best of some neighbours, of which as many as `lanes` are looked at together; of equals the first, as in the
    reference.
    """
    look_up = looking_up(bits)
    _, load_codes, spread, spread_int, counting = _taking(lanes)

    @spliced
    def nearest_point(
        xs: Floats, ws: Floats, at: int, rungs: F32x8, near: Words, first: int, count: int, terms: Floats
    ) -> int:
        """The point nearest to the values from `at` on, of the `count` ones from `first` on.

        rungs: what the levels stand for.
        """
        if count == 1:
            return int(near[first])
        for i in range(dimensions):
            difference = rungs - repeated8(xs, at + i)
            store(terms, 8 * i, difference * repeated8(ws, at + i) * difference)
        best, chosen = spread(_LARGEST), spread_int(0)
        for j in range(0, count, lanes):
            codes, places = load_codes(near, first + j), counting() + j
            total = look_up(load(terms, 0), codes)
            for i in range(1, dimensions):
                total = total + look_up(load(terms, 8 * i), codes >> bits * i)
            better = (total < best) & (places < count)
            best, chosen = where(better, total, best), where(better, places, chosen)
        lowest = best == smallest_lane(best)
        if count <= lanes:
            return int(near[first + (first_lane(lowest) & lanes - 1)])
        return int(near[first + int(smallest_lane(where(lowest, to_float(chosen), _LARGEST)))])

    return nearest_point


@spliced
def margin(far: np.float32, weight: np.float32, scale: np.float32) -> np.float32:
    """How much lower the lowest line must be, if rounding is to tell the same of distances.

    Values and points reach `far` together. Of 24 bits, a reference's distance is off by less than 14 units of
    weight * far**2, a line by 11 units of that over the scale; twice the sum of both is less than 64. What is less than
    the least normal number is off by more. How far two lines are apart is a line, too: what is far enough at two scales
    is so between them.
    """
    beyond = (far + _F(1)) * (far + _F(1))
    return (far * far * weight * _F(2.0**-18) + beyond * _F(2.0**-120)) / scale


def _make_lines(dimensions: int, bits: int) -> tuple[Any, Any, Any]:
    """What makes the lines of neighbours, from tables of what a coordinate's levels add to them."""
    look_up, odds = looking_up(bits), ODDS[bits]

    @spliced
    def put_tables(xs: Floats, ws: Floats, at: int, tables: Floats, place: int) -> None:
        odd = load(odds, 0)
        for i in range(dimensions):
            w, x = repeated8(ws, at + i), repeated8(xs, at + i)
            store(tables, place + 16 * i, odd * odd * w)
            store(tables, place + 16 * i + 8, odd * (_F(2) * w * x))

    @spliced
    def lines_of(codes: Any, there: Any, tables: Floats, place: int) -> Any:
        """The sums of neighbours, as far as they are there: those that the scale multiplies, and the others."""
        squares, products = look_up(load(tables, place), codes), look_up(load(tables, place + 8), codes)
        for i in range(1, dimensions):
            index = codes >> bits * i
            squares = squares + look_up(load(tables, place + 16 * i), index)
            products = products + look_up(load(tables, place + 16 * i + 8), index)
        return where(there, squares, _F(0)), where(there, products, _F(-(2.0**126)))

    @spliced
    def put_lines(near: Words, first: int, count: int, tables: Floats, place: int, lines: Floats) -> None:
        """The first sums from 0 on, the others from _MOST on."""
        for j in range(0, count, _WIDE):
            squares, products = lines_of(_load_codes(near, first + j), _counting() < count - j, tables, place)
            store(lines, j, squares)
            store(lines, _MOST + j, products)

    return put_tables, lines_of, put_lines


@spliced
def _low_ones(height: F32x16, there: Mask16, least: np.float32) -> int:
    """A bit for each height within `least` of the lowest."""
    return mask_bits(there & (height <= smallest_lane(height) + least))


@spliced
def _lower(height: Any, places: Any, low: Any, second: Any, which: Any) -> Any:
    """The lowest heights, the second lowest, and which the lowest are, with those of more neighbours."""
    return lesser(height, low), lesser(greater(height, low), second), where(height < low, places, which)


@spliced
def _lowest_places(
    scale: np.float32,
    other: np.float32,
    count: int,
    lines: Floats,
    least: np.float32,
    spare: Ints,
    at: int,
) -> tuple[int, int]:
    """Which lines are the lowest at two scales; -1 for both if at one of them another is within `least`."""
    low, low2, second, second2 = _spread(_LARGEST), _spread(_LARGEST), _spread(_F(np.inf)), _spread(_F(np.inf))
    which, which2 = _spread_int(0), _spread_int(0)
    for j in range(0, count, _WIDE):
        squares, products, places = _load(lines, j), _load(lines, _MOST + j), _counting() + j
        low, second, which = _lower(squares * scale - products, places, low, second, which)
        low2, second2, which2 = _lower(squares * other - products, places, low2, second2, which2)
    limit, limit2 = smallest_lane(low) + least, smallest_lane(low2) + least
    close, close2 = mask_bits(low <= limit), mask_bits(low2 <= limit2)
    if close & close - 1 or close2 & close2 - 1 or any_lane((second <= limit) | (second2 <= limit2)):
        return -1, -1
    store_ints(spare, at, which)
    place = number(spare, at + lowest_bit(close))
    store_ints(spare, at, which2)
    return place, number(spare, at + lowest_bit(close2))


@spliced
def _are_lowest(one: int, other: int, count: int, lines: Floats, least: np.float32) -> bool:
    """Whether two lines are lower than all others where they cross, by more than twice `least`.

    Each then is so from there to the scale at which it is the lowest.
    """
    squares, products = lines[one] - lines[other], lines[_MOST + one] - lines[_MOST + other]
    scale = products / squares
    limit, close = scale * lines[one] - lines[_MOST + one] + least + least, 0
    for j in range(0, count, 16):
        close += bits_set(mask_bits(load16(lines, j) * scale - load16(lines, _MOST + j) <= limit))
    return close == 2


def make_nearest_points(length: int, dimensions: int, bits: int, lanes: int, count: int, together: int) -> Any:
    """For each point and candidate scale the best of the neighbours.

    lanes: `count`, the number of candidates, rounded up. together: how many neighbours' distances are compared at once.
    """
    top, odds = {2: 5, 3: 15}[bits], ODDS[bits]
    nearest_point = make_nearest_point(dimensions, bits, together)
    put_tables, lines_of, put_lines = _make_lines(dimensions, bits)

    @spliced
    def ends_of_runs(numbers: Ints, row: int) -> int:
        """A bit for each candidate after which comes another number."""
        ends = 0
        for k in range(0, lanes, 8):
            ends |= mask_bits(load_ints(numbers, row + k) != load_ints(numbers, row + k + 1)) << k
        return ends & ((1 << count) - 1) | 1 << count - 1

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
    def lower_lines(scales: F32x16, near: Words, first: int, two: tuple[int, int], lines: Floats, least: Any) -> Any:
        """The same of two lines."""
        one, other = two
        height = scales * repeated(lines, one) - repeated(lines, _MOST + one)
        second = scales * repeated(lines, other) - repeated(lines, _MOST + other)
        lower = where(height < second, repeated(near, first + one), repeated(near, first + other))
        return lower, ~mask_bits(fabs(height - second) > splat16(least))

    @inlined
    def settle(
        xs: Floats,
        ws: Floats,
        place: int,
        near: Words,
        first: int,
        candidates: int,
        work: tuple[Floats, Floats, Floats, Ints, Ints, Ints],
        run: tuple[int, int, int],
        two: tuple[int, int],
        least: np.float32,
    ) -> None:
        """The points of a run of candidate scales that have not all the same; `two` are its ends'."""
        floats, tables, lines, _, chosen, _ = work
        row, c, last = run
        few = two[0] >= 0 and _are_lowest(two[0], two[1], candidates, lines, least)
        while c <= last:
            scales = load16(floats, 32 + c)
            if few:
                found, doubts = lower_lines(scales, near, first, two, lines, least)
            else:
                found, doubts = lowest_lines(scales, near, first, candidates, lines, least)
            store_ints(chosen, row + c, where(lanes16() <= last - c, found, load_ints16(chosen, row + c)))
            doubts &= (2 << min(last - c, 15)) - 1
            while doubts:
                k = c + lowest_bit(doubts)
                doubts &= doubts - 1
                rungs = load(odds, 0) * floats[32 + k]
                chosen[row + k] = nearest_point(xs, ws, place, rungs, near, first, candidates, tables)
            c += 16

    @spliced
    def nearest_points(
        xs: Floats,
        ws: Floats,
        at: int,
        largest: np.float32,
        grid: tuple[Ints, Words],
        work: tuple[Floats, Floats, Floats, Ints, Ints, Ints],
    ) -> None:
        """The points nearest to the values from `at` on, whose largest size is given.

        Candidate scales are from 32 on in the first of `work`. What is done for every run of up to sixteen neighbours
        does not depend on what is found; those that have to be settled wait.
        """
        (span, near), (floats, tables, lines, numbers, chosen, waiting) = grid, work
        far, left = largest + _F(top) * floats[32], 0
        for p in range(length // dimensions):
            place, row, c, weight = at + dimensions * p, lanes * p, 0, _F(0)
            for i in range(dimensions):
                weight += ws[place + i]
            least = margin(far, weight, floats[31 + count])
            if not least < _F(2.0**80):
                least = _F(np.inf)  # not even a line's sums may overflow
            floats[64 + p], table = least, _LINES + 16 * dimensions * p
            put_tables(xs, ws, place, tables, table)
            ends = ends_of_runs(numbers, row)
            while ends:
                last = lowest_bit(ends)
                ends &= ends - 1
                u = number(numbers, row + last)
                first, candidates = first_of(span, u), count_of(span, u)
                scale, other = floats[32 + c], floats[32 + last]
                if bits == 2 and candidates == 1:  # as nearly half of those with three levels are
                    low = 0
                elif candidates <= 16:
                    there = lanes16() < candidates
                    squares, products = lines_of(load_words16(near, first), there, tables, table)
                    close = _low_ones(squares * scale - products, there, least)
                    close2 = _low_ones(squares * other - products, there, least)
                    low, doubt = lowest_bit(close), close & close - 1
                    waiting[left] = p << 16 | c << 8 | last
                    waiting[_MOST + left] = -1 if doubt | close2 & close2 - 1 else low << 8 | lowest_bit(close2)
                    left += 1 if doubt | (close ^ close2) else 0
                else:
                    put_lines(near, first, candidates, tables, table, lines)
                    low, high = _lowest_places(scale, other, candidates, lines, least, chosen, row + c)
                    if low != high or low < 0:
                        settle(xs, ws, place, near, first, candidates, work, (row, c, last), (low, high), least)
                        c = last + 1
                        continue
                point = splat_int16(int(near[first + low]))
                store_ints(chosen, row + c, point)
                if last - c >= 16:
                    store_ints(chosen, row + c + 16, point)
                c = last + 1
        for k in range(left):
            p, c, last = waiting[k] >> 16, waiting[k] >> 8 & 255, waiting[k] & 255
            u, table, two = number(numbers, lanes * p + last), _LINES + 16 * dimensions * p, waiting[_MOST + k]
            first, candidates = first_of(span, u), count_of(span, u)
            put_lines(near, first, candidates, tables, table, lines)
            run, least = (lanes * p, c, last), floats[64 + p]
            settle(xs, ws, at + dimensions * p, near, first, candidates, work, run, (two >> 8, two & 255), least)

    return nearest_points
