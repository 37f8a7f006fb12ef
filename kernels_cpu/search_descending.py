"""make_q3_quants of ggml-quants.c: code * scale, codes in -top..top-1, improved one at a time in up to five rounds.

Of normally distributed groups, four of five have nothing to improve. `look` sees that of two times sixteen groups
without a branch: no code is further than half a step, less what rounding may do, from the one that fits the others
best, or else the sums are negative, as they are if the largest value is positive: then the reference improves nothing.
What is unusual, as a largest value of both signs, is left to `search`, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from requant.kernels_cpu._jit import Floats, inlined
from requant.kernels_cpu.search import TINY, extremes, nearest, taking
from requant.kernels_cpu.simd import any_lane, fabs, greater, lesser, load32, mask_bits, rint, store, to_float, where

_F = np.float32


def descending_search(length: int, top: int) -> tuple[Callable[..., int], Callable[..., None]]:
    """Makes look and search, of two sets of sixteen groups, one after the other.

    look: (xs, products, found) -> int, a bit for each lane in which a code may be improved; such a lane's scale is not
    found yet. search: (xs, codes, found) -> None; it leaves the codes plus top, as floats. found: the scales of the
    lanes. products is scratch, three times as large as xs.
    """
    lanes, store_lanes, spread = taking(2, 16 * length)
    extreme_of, size = extremes(length, 2), 32 * length

    @inlined
    def end(sum_lx: Any, sum_l2: Any, empty: Any, found: Floats) -> None:
        zero = spread(_F(0))
        store(found, 0, where(empty, zero, where(sum_l2 > zero, sum_lx / sum_l2, zero)))

    @inlined
    def look(xs: Floats, products: Floats, found: Floats) -> int:
        low = high = lanes(xs, 0)
        for i in range(1, length):
            x = lanes(xs, 16 * i)
            low, high = lesser(x, low), greater(x, high)
        largest = greater(high, spread(_F(0)) - low)
        empty = largest < TINY
        inverse = spread(_F(-top)) / where(empty, _F(1), where(high == largest, high, low))
        sum_lx, sum_l2 = spread(_F(0)), spread(_F(0))
        for i in range(length):
            x = lanes(xs, 16 * i)
            code = greater(lesser(rint(inverse * x), top - 1), -top)
            w = x * x
            lx, l2 = w * x * code, w * code * code
            store(products, 32 * i, code)
            store(products, size + 32 * i, lx)
            store(products, 2 * size + 32 * i, l2)
            sum_lx, sum_l2 = sum_lx + lx, sum_l2 + l2
        end(sum_lx, sum_l2, empty, found)

        settled, least, most = largest == largest, sum_lx, sum_lx
        for i in range(length):
            rest_lx = sum_lx - load32(products, size + 32 * i)
            wanted = lanes(xs, 16 * i) * (sum_l2 - load32(products, 2 * size + 32 * i))  # the best code, times rest_lx
            inside = greater(lesser(wanted, rest_lx * _F(top - 1)), rest_lx * _F(-top))
            difference = inside - rest_lx * load32(products, 32 * i)
            settled = settled & (fabs(difference) <= rest_lx * _F(0.4999))
            least, most = lesser(rest_lx, least), greater(rest_lx, most)
        usual = (least > _F(2.0**-100)) & (largest * sum_l2 < least * _F(2.0**20))
        settled = empty | (most <= _F(0)) | settled & usual
        return mask_bits(settled & (high + low != _F(0))) ^ (1 << 32) - 1

    @inlined
    def search(xs: Floats, codes: Floats, found: Floats) -> None:
        extreme, largest = extreme_of(xs)
        empty = largest < TINY
        inverse = spread(_F(-top)) / where(empty, _F(1), extreme)
        zero, unchanged = spread(_F(0)), 0
        sum_lx, sum_l2 = zero, zero
        for i in range(length):
            x = lanes(xs, 16 * i)
            code = greater(lesser(rint(inverse * x), top - 1), -top)
            store_lanes(codes, 16 * i, code)
            w = x * x
            sum_lx, sum_l2 = sum_lx + w * x * code, sum_l2 + w * code * code
        for step in range(5 * length):
            i = step % length
            x, code = lanes(xs, 16 * i), lanes(codes, 16 * i)
            w = x * x
            rest_lx, rest_l2 = sum_lx - w * x * code, sum_l2 - w * code * code
            other = to_float(greater(lesser(nearest(x * rest_l2 / rest_lx), top - 1), -top))
            moved = (rest_lx > zero) & (other != code)
            unchanged += 1
            if any_lane(moved):
                rest_lx, rest_l2 = rest_lx + w * x * other, rest_l2 + w * other * other
                gains = rest_lx * rest_lx * sum_l2 > sum_lx * sum_lx * rest_l2
                moved = moved & (rest_l2 > zero) & gains
                store_lanes(codes, 16 * i, where(moved, other, code))
                sum_lx, sum_l2 = where(moved, rest_lx, sum_lx), where(moved, rest_l2, sum_l2)
                unchanged = 0 if any_lane(moved) else unchanged
            if unchanged == length:
                break
        for i in range(length):
            store_lanes(codes, 16 * i, where(empty, zero, lanes(codes, 16 * i) + top))
        end(sum_lx, sum_l2, empty, found)

    return look, search
