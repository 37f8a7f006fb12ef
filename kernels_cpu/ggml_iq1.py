"""IQ1_S and IQ1_M: eight values as a point of a codebook of -1, 0 and 1, moved by an eighth up or down. Encoding.

The reference sorts a group of 32 or 16 values and tries every way to cut it into three. Lane k does that for group k of
one or two blocks. A search begins with what a few cuts are worth: at three of four cuts no lane then finds better.
It sorts with qsort, which C lets put equal values in any order; glibc's keeps theirs, and so does this.
IQ1_M follows the reference since it keeps sums for each half of a group (2026): earlier ones (libgguf 0.2.2,
libggml 0.20) round differently, and now and then end with another cut.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import (
    FLOATS,
    INTS,
    NUMBER,
    OUT_BYTES,
    WORDS,
    Bytes,
    Floats,
    Ints,
    Ints64,
    Words,
    inlined,
    kernel,
    spliced,
)
from requant.kernels_cpu.cache import has
from requant.kernels_cpu.ggml_shells import count_of, first_of, is_point
from requant.kernels_cpu.lattice import clear, copy, nearest_int, sum_of_squares, weigh, weigh_by_size
from requant.kernels_cpu.lattice_points import make_nearest_point
from requant.kernels_cpu.room import room, zeros
from requant.kernels_cpu.search import gather, put_starts
from requant.kernels_cpu.simd import (
    F32x16,
    any_lane,
    fabs,
    greater,
    half_bits,
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

_F = np.float32
_LEAST: Final = _F(np.finfo(_F).min)
_UP: Final = (_F(-0.875), _F(0.125), _F(1.125))  # -1, 0, 1 moved up,
_DOWN: Final = (_F(-1.125), _F(-0.125), _F(0.875))  # and down
#: Both, each twice: up from 0 on, down from 8 on.
_RUNGS: Final = np.array([*((*_UP, 0) * 2), *((*_DOWN, 0) * 2)], _F)


def _taking(lanes: int) -> tuple[Any, Any, Any]:
    """What loads numbers, and spreads a number or an integer, for as many lanes."""
    return (load16, splat16, splat_int16) if lanes == 16 else (load, splat, splat_int)


#: How many groups' cuts are searched together: as many as a register holds, as what one of them finds costs all.
_WIDE: Final = 16 if has("avx512f") else 8
_load, _spread, _spread_int = _taking(_WIDE)

_nearest_point: Final = make_nearest_point(8, 2, 16)


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
def _sort(xs: Floats, length: int, ranks: Ints, order: Ints) -> None:
    """order[16 * place + lane]: which value comes there."""
    _rank(xs, length, ranks)
    for i in range(length):
        for k in range(16):
            order[16 * ranks[16 * i + k] + k] = i


@inlined
def _largest(xs: Floats, length: int) -> F32x16:
    top = splat16(_F(0))
    for i in range(length):
        top = greater(fabs(load16(xs, 16 * i)), top)
    return top


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

    Of all cuts that are better than what was before them, it ends with the last. One that is a thousandth worse than
    another is not that, and rounding does not change it as long as products are far from the least and largest floats.
    """
    usual = (best > _F(2.0**-55)) & (best < _F(2.0**60)) & (all_w > _F(2.0**-55)) & (all_w < _F(2.0**40))
    return where(usual, best * _F(1 - 2.0**-10), _LEAST)


@spliced
def _put_high(sum_x: Floats, sum_w: Floats, high: Floats, k: int) -> None:
    """What the values above a cut add to the sums, moved up and down: four numbers of each cut and lane."""
    all_x, all_w = _load(sum_x, 512 + k), _load(sum_w, 512 + k)
    for j in range(33):
        x, w = all_x - _load(sum_x, 16 * j + k), all_w - _load(sum_w, 16 * j + k)
        store(high, 32 * j, x * _UP[2])
        store(high, 32 * j + _WIDE, x * _DOWN[2])
        store(high, 1056 + 32 * j, w * _UP[2] * _UP[2])
        store(high, 1056 + 32 * j + _WIDE, w * _DOWN[2] * _DOWN[2])


@spliced
def _low_s(sum_x: Floats, sum_w: Floats, at: int) -> Any:
    """The running sums up to a cut, and what the values below it add."""
    x, w = _load(sum_x, at), _load(sum_w, at)
    return x, w, x * _UP[0], x * _DOWN[0], w * _UP[0] * _UP[0], w * _DOWN[0] * _DOWN[0]


@spliced
def _sums_s(low: Any, sum_x: Floats, sum_w: Floats, high: Floats, j: int, k: int) -> Any:
    """Of a cut the sums and those of squares, moved up and moved down, whose middle differs but in its sign."""
    x, w, up, down, up2, down2 = low
    middle, middle2 = (_load(sum_x, 16 * j + k) - x) * _UP[1], (_load(sum_w, 16 * j + k) - w) * _UP[1] * _UP[1]
    sum_up, sum_up2 = up + middle + _load(high, 32 * j), up2 + middle2 + _load(high, 1056 + 32 * j)
    sum_down = down - middle + _load(high, 32 * j + _WIDE)
    return sum_up, sum_down, sum_up2, down2 + middle2 + _load(high, 1056 + 32 * j + _WIDE)


@inlined
def _cut_s(sum_x: Floats, sum_w: Floats, high: Floats, scales: Floats, cuts: Ints) -> None:
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


@inlined
def _fill(order: Ints, k: int, length: int, low: int, high: int, flip: bool, levels: Ints64) -> None:
    """Levels 0, 1, 2 of the values of lane k, cut after `low` and `high` of them; the other way round if `flip`."""
    for place in range(length):
        level = 0 if place < low else 1 if place < high else 2
        levels[order[16 * place + k]] = 2 - level if flip else level


@inlined
def _points(
    xs: Floats,
    ws: Floats,
    at: int,
    count: int,
    levels: Ints64,
    scale: np.float32,
    downs: int,
    span: Ints,
    near: Words,
    terms: Floats,
    codes: Ints64,
    first: int,
) -> np.float32:
    """The points of `count` eights, eight i moved down if bit i of `downs` is set; the scale that fits them.

    xs, ws: from `at` on; levels: from 0 on; codes: the points, from `first` on.
    """
    in_grid = True
    for p in range(count):
        u, code = 0, 0
        for i in range(7, -1, -1):
            u, code = u * 3 + levels[8 * p + i], code << 2 | levels[8 * p + i]
        if not is_point(span, u):
            in_grid = False
            rungs = load(_RUNGS, 8 * (downs >> p & 1)) * scale
            code = _nearest_point(xs, ws, at + 8 * p, rungs, near, first_of(span, u), count_of(span, u), terms)
        codes[first + p] = code
    if in_grid:
        return scale
    sum_qx, sum_q2 = _F(0), _F(0)
    for p in range(count):
        for i in range(8):
            w = ws[at + 8 * p + i]
            q = _RUNGS[8 * (downs >> p & 1) + (codes[first + p] >> 2 * i & 3)]
            sum_qx += w * q * xs[at + 8 * p + i]
            sum_q2 += w * q * q
    return sum_qx / sum_q2 if sum_qx > 0 and sum_q2 > 0 else scale


@kernel(FLOATS, FLOATS, NUMBER, INTS, WORDS, WORDS, OUT_BYTES)
def encode_iq1_s(
    values: Floats, importance: Floats, columns: int, span: Ints, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 50 bytes."""
    plain, ws, xs, turned = room(512, _F), room(512, _F), room(512, _F), room(512, _F)
    sum_x, sum_w, above = zeros(528, _F), zeros(528, _F), room(2112, _F)
    ranks, order, cuts = room(512, np.int32), room(512, np.int32), room(16, np.int32)
    terms, scales, tops, starts = room(128, _F), room(16, _F), room(16, _F), room(16, np.int64)
    levels, codes, downs = room(32, np.int64), room(4, np.int64), room(16, np.int64)
    last = values.size // 256 - 1
    for n in range(last + 1):
        start, top, first = 50 * n, _F(0), 8 * (n % 2)
        clear(out, start, 50)
        if first == 0:
            for part in range(2):
                place = 256 * min(n + part, last)
                sigma2 = _F(2) * sum_of_squares(values, place) / _F(256)
                weigh(values, place, importance, sigma2, ws[256 * part :])
                copy(values, place, plain[256 * part :])
            put_starts(starts, 0, 15, 32)
            gather(plain, starts, 0, 32, xs)
            gather(ws, starts, 0, 32, turned)
            store(tops, 0, _largest(xs, 32))
            _sort(xs, 32, ranks, order)
            for place in range(0, 512, 16):
                for k in range(place, place + 16):
                    i = 16 * order[k] + k - place
                    sum_x[k + 16] = sum_x[k] + turned[i] * xs[i]
                    sum_w[k + 16] = sum_w[k] + turned[i]
            _cut_s(sum_x, sum_w, above, scales, cuts)
        for k in range(first, first + 8):
            downs[k] = 0
            if tops[k] < _F(1e-12) or cuts[k] < 0:
                scales[k] = 0
                continue
            flip = scales[k] < 0
            _fill(order, k, 32, cuts[k] >> 16, cuts[k] >> 8 & 255, flip, levels)
            downs[k] = cuts[k] & 1 ^ (1 if flip else 0)
            scale = _points(plain, ws, 32 * k, 4, levels, abs(scales[k]), 15 * downs[k], span, near, terms, codes, 0)
            high, place = 0, k - first
            for i in range(4):
                point = int(index[codes[i]])
                out[start + 2 + 4 * place + i] = point & 255
                high |= point >> 8 << 3 * i
            out[start + 34 + 2 * place], out[start + 35 + 2 * place] = high & 255, high >> 8
            scales[k] = scale
            top = max(top, scale)
        if top > 0:
            inverse = _F(1) / (top / _F(15))
            d = half_bits(top / _F(15) * _F(1.125))
            out[start], out[start + 1] = d & 255, d >> 8
            for k in range(first, first + 8):
                step = max(0, min(7, nearest_int(_F(0.5) * (inverse * scales[k] - _F(1)))))
                out[start + 35 + 2 * (k - first)] |= (step | 8 * downs[k]) << 4


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
    up2 = all_w * _UP[2] * _UP[2] + w * _F(0.75)
    return _load(sum_x, at), alls[0] * _UP[2], alls[0] * _DOWN[2], up2, all_w * _DOWN[2] * _DOWN[2] + w * _F(1.25)


@spliced
def _half_m(low: Any, sum_x: Floats, above: Floats, at: int, place: int) -> Any:
    """Of one half of the values, moved up and moved down, the sums and those of squares."""
    x, up, down, up2, down2 = low
    both = x + _load(sum_x, at)
    return up - both, down - both, up2 + _load(above, place), down2 + _load(above, place + _WIDE)


@inlined
def _cut_m(sum_x: Floats, sum_w: Floats, above: Floats, scales: Floats, cuts: Ints) -> None:
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


@kernel(FLOATS, FLOATS, NUMBER, INTS, WORDS, WORDS, OUT_BYTES)
def encode_iq1_m(
    values: Floats, importance: Floats, columns: int, span: Ints, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 56 bytes; an empty importance for none."""
    plain, ws, xs, turned = room(256, _F), room(256, _F), room(256, _F), room(256, _F)
    sum_x, sum_w, above = zeros(544, _F), zeros(544, _F), room(1088, _F)
    ranks, order, cuts = room(256, np.int32), room(256, np.int32), room(16, np.int32)
    terms, scales, tops, found = room(128, _F), room(16, _F), room(16, _F), room(16, _F)
    levels, codes, shifts, starts = room(16, np.int64), zeros(32, np.int64), room(16, np.int64), room(16, np.int64)
    put_starts(starts, 0, 15, 16)
    for n in range(values.size // 256):
        start, top = 56 * n, _F(0)
        clear(out, start, 56)
        for i in range(32):
            codes[i] = 0
        if importance.size:
            weigh(values, 256 * n, importance, _F(2) * sum_of_squares(values, 256 * n) / _F(256), ws)
        else:
            weigh_by_size(values, 256 * n, _F(0), ws)
        copy(values, 256 * n, plain)
        gather(plain, starts, 0, 16, xs)
        gather(ws, starts, 0, 16, turned)
        store(tops, 0, _largest(xs, 16))
        _sort(xs, 16, ranks, order)
        _halves(xs, turned, order, sum_x, sum_w)
        _cut_m(sum_x, sum_w, above, found, cuts)
        for g in range(16):
            scales[g], shifts[g] = _F(0), 0
            if tops[g] < _F(1e-7) or cuts[g] < 0:
                continue
            flip = found[g] < 0
            _fill(order, g, 16, cuts[g] >> 16, cuts[g] >> 8 & 255, flip, levels)
            shifts[g] = cuts[g] & 3 ^ (3 if flip else 0)
            downs = shifts[g] >> 1 | (shifts[g] & 1) << 1
            scales[g] = _points(plain, ws, 16 * g, 2, levels, abs(found[g]), downs, span, near, terms, codes, 2 * g)
            first, second = int(index[codes[2 * g]]), int(index[codes[2 * g + 1]])
            out[start + 2 * g], out[start + 2 * g + 1] = first & 255, second & 255
            out[start + 32 + g] = first >> 8 | second >> 8 << 4
            top = max(top, scales[g])
        if top > 0:
            _finish_m(values, 256 * n, ws, scales, top, shifts, codes, out, start)


@inlined
def _halves(xs: Floats, ws: Floats, order: Ints, sum_x: Floats, sum_w: Floats) -> None:
    """Running sums of 16 sorted values, separately for those of the group's first and second half."""
    for place in range(0, 256, 16):
        for k in range(place, place + 16):
            i = order[k]
            w, x = ws[16 * i + k - place], xs[16 * i + k - place]
            for half in range(2):
                mine = i >> 3 == half
                at = 272 * half + k
                sum_x[at + 16] = sum_x[at] + (w * x if mine else _F(0))
                sum_w[at + 16] = sum_w[at] + (w if mine else _F(0))


@inlined
def _finish_m(
    values: Floats,
    at: int,
    ws: Floats,
    scales: Floats,
    top: np.float32,
    shifts: Ints64,
    codes: Ints64,
    out: Bytes,
    start: int,
) -> None:
    """3-bit scales and shifts of 16 groups, and the d that fits the whole block best."""
    d = top / _F(15)
    inverse = _F(1) / d
    sum_qx, sum_q2 = _F(0), _F(0)
    for g in range(16):
        step = max(0, min(7, nearest_int(_F(0.5) * (inverse * scales[g] - _F(1)))))
        word = step << 3 * (g & 3)
        out[start + 48 + 2 * (g >> 2)] |= word & 255
        out[start + 49 + 2 * (g >> 2)] |= word >> 8
        out[start + 32 + g] |= (shifts[g] & 1) << 7 | (shifts[g] >> 1) << 3
        for half in range(2):
            down = shifts[g] >> 1 - half & 1
            for i in range(16 * g + 8 * half, 16 * g + 8 * half + 8):
                q = _RUNGS[8 * down + (codes[2 * g + half] >> 2 * (i & 7) & 3)] * _F(2 * step + 1)
                sum_qx += ws[i] * q * values[at + i]
                sum_q2 += ws[i] * q * q
    if sum_q2 > 0:
        d = sum_qx / sum_q2
    bits = half_bits(d * _F(1.1125))
    for k in range(4):
        out[start + 49 + 2 * k] |= (bits >> 4 * k & 15) << 4
