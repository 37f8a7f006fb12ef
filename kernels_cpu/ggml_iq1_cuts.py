"""The cuts of IQ1_S and IQ1_M: the best way to cut a sorted group of 32 or 16 values into three, lane k group k.

A search begins with what a few cuts are worth: at three of four cuts no lane then finds better.
ggml sorts with qsort, which C lets put equal values in any order; glibc's keeps theirs, and so does this.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import Floats, Ints, Ints64, inlined, spliced
from requant.kernels_cpu.cache import has
from requant.kernels_cpu.room import room
from requant.kernels_cpu.search import gather
from requant.kernels_cpu.simd import (
    any_lane,
    greater,
    load,
    load16,
    load_ints16,
    splat,
    splat16,
    splat_int,
    splat_int16,
    store,
    store_ints,
    where,
)
from requant.kernels_cpu.simd_lookup import permute

_F = np.float32
_LEAST: Final = _F(np.finfo(_F).min)
#: What -1, 0 and 1 stand for, moved up and moved down.
UP: Final = (_F(-0.875), _F(0.125), _F(1.125))
DOWN: Final = (_F(-1.125), _F(-0.125), _F(0.875))


def _taking(lanes: int) -> tuple[Any, Any, Any]:
    """What loads numbers, and spreads a number or an integer, for as many lanes."""
    return (load16, splat16, splat_int16) if lanes == 16 else (load, splat, splat_int)


#: How many groups' cuts are searched together: as many as a register holds, as what one of them finds costs all.
_WIDE: Final = 16 if has("avx512f") else 8
_load, _spread, _spread_int = _taking(_WIDE)


@inlined
def _rank(xs: Floats, length: int, ranks: Ints) -> None:
    """The place of every value in each lane's ascending order; equal values keep theirs."""
    for i in range(length):
        x, rank = load16(xs, 16 * i), splat_int16(0)
        for j in range(i):
            before = load16(xs, 16 * j) <= x
            rank = where(before, rank + 1, rank)
            other = load_ints16(ranks, 16 * j)
            store_ints(ranks, 16 * j, where(before, other, other + 1))
        store_ints(ranks, 16 * i, rank)


@inlined
def sort_groups(xs: Floats, length: int, ranks: Ints, order: Ints) -> None:
    """order[length * lane + place]: which value comes there."""
    _rank(xs, length, ranks)
    for i in range(length):
        for k in range(16):
            order[length * k + ranks[16 * i + k]] = i


@spliced
def _beats(sum_qx: Any, sum_q2: Any, best: Any) -> Any:
    """Where a cut may be better than the best, and is if the sum of squares is not zero."""
    return sum_qx * sum_qx > best * sum_q2


@spliced
def _tried(sum_qx: Any, sum_q2: Any, code: int, best: Any, scale: Any, cut: Any) -> Any:
    """The best, its scale and its cut, after another."""
    better, found = (sum_q2 > _F(0)) & _beats(sum_qx, sum_q2, best), sum_qx / sum_q2
    return where(better, found * sum_qx, best), where(better, found, scale), where(better, _spread_int(code), cut)


@spliced
def _raised(best: Any, sum_qx: Any, sum_q2: Any) -> Any:
    """How good the best is, with one cut more."""
    return where(sum_q2 > _F(0), greater(sum_qx / sum_q2 * sum_qx, best), best)


@spliced
def _known(best: Any, all_w: Any) -> Any:
    """What a search may begin with that will come across something as good as `best`.

    Of all cuts that are better than what was before them, it ends with the last. One that is a millionth worse than
    another is not that, and rounding does not change it as long as products are far from the least and largest floats.
    """
    usual = (best > _F(2.0**-55)) & (best < _F(2.0**60)) & (all_w > _F(2.0**-55)) & (all_w < _F(2.0**40))
    return where(usual, best * _F(1 - 2.0**-20), _LEAST)


@spliced
def _put_high(sum_x: Floats, sum_w: Floats, high: Floats, k: int) -> None:
    """What the values above a cut add to the sums, moved up and down: four numbers of each cut and lane."""
    all_x, all_w = _load(sum_x, 512 + k), _load(sum_w, 512 + k)
    for j in range(33):
        x, w = all_x - _load(sum_x, 16 * j + k), all_w - _load(sum_w, 16 * j + k)
        store(high, 32 * j, x * UP[2])
        store(high, 32 * j + _WIDE, x * DOWN[2])
        store(high, 1056 + 32 * j, w * UP[2] * UP[2])
        store(high, 1056 + 32 * j + _WIDE, w * DOWN[2] * DOWN[2])


@spliced
def _low_s(sum_x: Floats, sum_w: Floats, at: int) -> Any:
    """The running sums up to a cut, and what the values below it add."""
    x, w = _load(sum_x, at), _load(sum_w, at)
    return x, w, x * UP[0], x * DOWN[0], w * UP[0] * UP[0], w * DOWN[0] * DOWN[0]


@spliced
def _sums_s(low: Any, sum_x: Floats, sum_w: Floats, high: Floats, j: int, k: int) -> Any:
    """Of a cut the sums and those of squares, moved up and moved down, whose middle differs but in its sign."""
    x, w, up, down, up2, down2 = low
    middle, middle2 = (_load(sum_x, 16 * j + k) - x) * UP[1], (_load(sum_w, 16 * j + k) - w) * UP[1] * UP[1]
    sum_up, sum_up2 = up + middle + _load(high, 32 * j), up2 + middle2 + _load(high, 1056 + 32 * j)
    sum_down = down - middle + _load(high, 32 * j + _WIDE)
    return sum_up, sum_down, sum_up2, down2 + middle2 + _load(high, 1056 + 32 * j + _WIDE)


@inlined
def cut_s(sum_x: Floats, sum_w: Floats, high: Floats, scales: Floats, cuts: Ints) -> None:
    """The best of all cuts of 32 sorted values and two shifts, from their running sums.

    cuts: values below, values below the middle's end, 0 for up or 1 for down: a byte each; -1 for none.
    """
    for k in range(0, 16, _WIDE):
        _put_high(sum_x, sum_w, high, k)
        best, scale, cut = _spread(_LEAST), _spread(_F(0)), _spread_int(-1)
        for i in range(8, 15, 3):
            low = _low_s(sum_x, sum_w, 16 * i + k)
            for j in range(18, 25, 3):
                up, down, up2, down2 = _sums_s(low, sum_x, sum_w, high, j, k)
                best = _raised(_raised(best, up, up2), down, down2)
        best = _known(best, _load(sum_w, 512 + k))
        for i in range(33):
            low = _low_s(sum_x, sum_w, 16 * i + k)
            for j in range(i, 33):
                up, down, up2, down2 = _sums_s(low, sum_x, sum_w, high, j, k)
                if any_lane(_beats(up, up2, best) | _beats(down, down2, best)):
                    code = i << 16 | j << 8
                    best, scale, cut = _tried(up, up2, code, best, scale, cut)
                    best, scale, cut = _tried(down, down2, code | 1, best, scale, cut)
        store(scales, k, scale)
        store_ints(cuts, k, cut)


@spliced
def _put_above(sum_w: Floats, above: Floats, k: int) -> None:
    """What the weights up to a cut take from the sums of squares, moved up and down, of both halves."""
    for j in range(17):
        for half in range(2):
            w, at = _load(sum_w, 272 * half + 16 * j + k), 64 * j + 32 * half
            store(above, at, w * _F(-1.25))
            store(above, at + _WIDE, w * _F(-0.75))


@spliced
def _low_m(sum_x: Floats, sum_w: Floats, at: int, alls: Any) -> Any:
    """Of one half of the values, what does not depend on the upper cut."""
    w, all_w = _load(sum_w, at), alls[1]
    up2 = all_w * UP[2] * UP[2] + w * _F(0.75)
    return _load(sum_x, at), alls[0] * UP[2], alls[0] * DOWN[2], up2, all_w * DOWN[2] * DOWN[2] + w * _F(1.25)


@spliced
def _half_m(low: Any, sum_x: Floats, above: Floats, at: int, place: int) -> Any:
    """Of one half of the values, moved up and moved down, the sums and those of squares."""
    x, up, down, up2, down2 = low
    both = x + _load(sum_x, at)
    return up - both, down - both, up2 + _load(above, place), down2 + _load(above, place + _WIDE)


@inlined
def cut_m(sum_x: Floats, sum_w: Floats, above: Floats, scales: Floats, cuts: Ints) -> None:
    """The best of all cuts of 16 sorted values and of a shift for each half, from the halves' running sums.

    sum_x, sum_w: [half, value, lane]. cuts as above, with two bits for the shifts, the first half's the higher one.
    """
    for k in range(0, 16, _WIDE):
        _put_above(sum_w, above, k)
        best, scale, cut = _spread(_LEAST), _spread(_F(0)), _spread_int(-1)
        alls0 = _load(sum_x, 256 + k), _load(sum_w, 256 + k)
        alls1 = _load(sum_x, 528 + k), _load(sum_w, 528 + k)
        for i in range(3, 8, 2):
            low0, low1 = _low_m(sum_x, sum_w, 16 * i + k, alls0), _low_m(sum_x, sum_w, 272 + 16 * i + k, alls1)
            for j in range(9, 14, 2):
                up0, down0, up20, down20 = _half_m(low0, sum_x, above, 16 * j + k, 64 * j)
                up1, down1, up21, down21 = _half_m(low1, sum_x, above, 272 + 16 * j + k, 64 * j + 32)
                best = _raised(_raised(best, up0 + up1, up20 + up21), down0 + down1, down20 + down21)
        best = _known(best, alls0[1] + alls1[1])
        for i in range(17):
            low0, low1 = _low_m(sum_x, sum_w, 16 * i + k, alls0), _low_m(sum_x, sum_w, 272 + 16 * i + k, alls1)
            for j in range(i, 17):
                up0, down0, up20, down20 = _half_m(low0, sum_x, above, 16 * j + k, 64 * j)
                up1, down1, up21, down21 = _half_m(low1, sum_x, above, 272 + 16 * j + k, 64 * j + 32)
                better = _beats(up0 + up1, up20 + up21, best) | _beats(up0 + down1, up20 + down21, best)
                better = better | _beats(down0 + up1, down20 + up21, best)
                if any_lane(better | _beats(down0 + down1, down20 + down21, best)):
                    code = i << 16 | j << 8
                    best, scale, cut = _tried(up0 + up1, up20 + up21, code, best, scale, cut)
                    best, scale, cut = _tried(up0 + down1, up20 + down21, code | 1, best, scale, cut)
                    best, scale, cut = _tried(down0 + up1, down20 + up21, code | 2, best, scale, cut)
                    best, scale, cut = _tried(down0 + down1, down20 + down21, code | 3, best, scale, cut)
        store(scales, k, scale)
        store_ints(cuts, k, cut)


@inlined
def put_halves(values: Floats, ws: Floats, order: Ints, starts: Ints64, sum_x: Floats, sum_w: Floats) -> None:
    """Running sums of 16 sorted values, separately for those of the group's first and second half."""
    sorted_x, sorted_w, turned = room(512, _F), room(512, _F), room(256, _F)
    for k in range(0, 256, 16):
        index = load_ints16(order, k)
        w, mine = permute(load16(ws, k), index), index < 8
        x, nothing = w * permute(load16(values, k), index), splat16(_F(0))
        store(sorted_x, k, where(mine, x, nothing))
        store(sorted_x, 256 + k, where(mine, nothing, x))
        store(sorted_w, k, where(mine, w, nothing))
        store(sorted_w, 256 + k, where(mine, nothing, w))
    for half in range(2):
        gather(sorted_x, starts, 256 * half, 16, turned)
        for at in range(0, 256, 16):
            store(sum_x, 272 * half + at + 16, load16(sum_x, 272 * half + at) + load16(turned, at))
        gather(sorted_w, starts, 256 * half, 16, turned)
        for at in range(0, 256, 16):
            store(sum_w, 272 * half + at + 16, load16(sum_w, 272 * half + at) + load16(turned, at))
