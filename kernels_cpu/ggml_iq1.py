"""IQ1_S and IQ1_M: eight values as a point of a codebook of -1, 0 and 1, moved by an eighth up or down. Encoding.

The reference sorts a group of 32 or 16 values and tries every way to cut it into three. Lane k does that for group k.
It sorts with qsort, which C lets put equal values in any order; glibc's keeps theirs, and so does this.
IQ1_M follows the reference since it keeps sums for each half of a group (2026): earlier ones (libgguf 0.2.2,
libggml 0.20) round differently, and now and then end with another cut.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import (
    FLOATS,
    INTS64,
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
)
from requant.kernels_cpu.lattice import clear, copy, nearest_int, sum_of_squares, weigh, weigh_by_size
from requant.kernels_cpu.lattice_search import make_nearest_point
from requant.kernels_cpu.room import room, zeros
from requant.kernels_cpu.simd import (
    F32x8,
    fabs,
    greater,
    half_bits,
    load,
    load_ints,
    splat,
    splat_int,
    store,
    store_ints,
    where,
)
from requant.kernels_cpu.simd_transpose import transpose

_F = np.float32
_UP: Final = (_F(-0.875), _F(0.125), _F(1.125))  # -1, 0, 1 moved up,
_DOWN: Final = (_F(-1.125), _F(-0.125), _F(0.875))  # and down
#: Both, as tables of eight: up from 0 on, down from 8 on.
_RUNGS: Final = np.array([*_UP, 0, *_UP, 0, *_DOWN, 0, *_DOWN, 0], _F)

_nearest_point: Final = make_nearest_point(8, 2)


@inlined
def _rank(xs: Floats, length: int, ranks: Ints) -> None:
    """The place of every value in each lane's ascending order; equal values keep theirs."""
    for i in range(length):
        x, rank = load(xs, 8 * i), splat_int(0)
        for j in range(i):
            before = load(xs, 8 * j) <= x
            rank = rank + where(before, splat_int(1), 0)
            store_ints(ranks, 8 * j, load_ints(ranks, 8 * j) + where(before, splat_int(0), 1))
        store_ints(ranks, 8 * i, rank)


@inlined
def _sort(xs: Floats, ws: Floats, length: int, ranks: Ints, order: Ints) -> None:
    """order[8 * place + lane]: which value comes there; `ws` and `xs` become sorted weights and weighted values."""
    _rank(xs, length, ranks)
    for i in range(length):
        for k in range(8):
            order[8 * ranks[8 * i + k] + k] = i


@inlined
def _largest(xs: Floats, length: int) -> F32x8:
    top = splat(_F(0))
    for i in range(length):
        top = greater(fabs(load(xs, 8 * i)), top)
    return top


@inlined
def _cut_s(sum_x: Floats, sum_w: Floats, scales: Floats, cuts: Ints) -> None:
    """The best of all cuts of 32 sorted values and two shifts, from their running sums.

    cuts: values below, values below the middle's end, 0 for up or 1 for down: 8 lanes each; -1 for none.
    """
    best, scale, cut = splat(_F(-3.4028234663852886e38)), splat(_F(0)), splat_int(-1)
    all_x, all_w = load(sum_x, 256), load(sum_w, 256)
    for i in range(33):
        low_x, low_w = load(sum_x, 8 * i), load(sum_w, 8 * i)
        for j in range(i, 33):
            middle_x, middle_w = load(sum_x, 8 * j) - low_x, load(sum_w, 8 * j) - low_w
            high_x, high_w = all_x - load(sum_x, 8 * j), all_w - load(sum_w, 8 * j)
            for down in range(2):
                q = _DOWN if down else _UP
                sum_qx = low_x * q[0] + middle_x * q[1] + high_x * q[2]
                sum_q2 = low_w * q[0] * q[0] + middle_w * q[1] * q[1] + high_w * q[2] * q[2]
                better = (sum_q2 > _F(0)) & (sum_qx * sum_qx > best * sum_q2)
                found = sum_qx / sum_q2
                scale, best = where(better, found, scale), where(better, found * sum_qx, best)
                cut = where(better, splat_int(i << 16 | j << 8 | down), cut)
    store(scales, 0, scale)
    store_ints(cuts, 0, cut)


@inlined
def _fill(order: Ints, k: int, length: int, low: int, high: int, flip: bool, levels: Ints64) -> None:
    """Levels 0, 1, 2 of the values of lane k, cut after `low` and `high` of them; the other way round if `flip`."""
    for place in range(length):
        level = 0 if place < low else 1 if place < high else 2
        levels[order[8 * place + k]] = 2 - level if flip else level


@inlined
def _points(
    xs: Floats,
    ws: Floats,
    at: int,
    count: int,
    levels: Ints64,
    scale: np.float32,
    downs: int,
    span: Ints64,
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
        if not span[2 * u + 1] & 1:
            in_grid = False
            rungs = load(_RUNGS, 8 * (downs >> p & 1)) * scale
            code = _nearest_point(xs, ws, at + 8 * p, rungs, u, span, near, terms)
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


@inlined
def _turn(rows: Floats, start: int, length: int, turned: Floats) -> None:
    """Eight groups of `length` values, transposed."""
    for i in range(0, length, 8):
        transpose(rows, start + i, length, turned, 8 * i, 8)


@kernel(FLOATS, FLOATS, NUMBER, INTS64, WORDS, WORDS, OUT_BYTES)
def encode_iq1_s(
    values: Floats, importance: Floats, columns: int, span: Ints64, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 50 bytes."""
    plain, ws, xs, turned = room(256, _F), room(256, _F), room(256, _F), room(256, _F)
    sum_x, sum_w = zeros(264, _F), zeros(264, _F)
    ranks, order, cuts = room(256, np.int32), room(256, np.int32), room(8, np.int32)
    terms, scales, tops = room(64, _F), room(8, _F), room(8, _F)
    levels, codes, downs = room(32, np.int64), room(4, np.int64), room(8, np.int64)
    for n in range(values.size // 256):
        start, top = 50 * n, _F(0)
        clear(out, start, 50)
        weigh(values, 256 * n, importance, _F(2) * sum_of_squares(values, 256 * n) / _F(256), ws)
        copy(values, 256 * n, plain)
        _turn(values, 256 * n, 32, xs)
        _turn(ws, 0, 32, turned)
        store(tops, 0, _largest(xs, 32))
        _sort(xs, turned, 32, ranks, order)
        for place in range(32):
            for k in range(8):
                i = 8 * order[8 * place + k] + k
                sum_x[8 * place + 8 + k] = sum_x[8 * place + k] + turned[i] * xs[i]
                sum_w[8 * place + 8 + k] = sum_w[8 * place + k] + turned[i]
        _cut_s(sum_x, sum_w, scales, cuts)
        for k in range(8):
            downs[k] = 0
            if tops[k] < _F(1e-12) or cuts[k] < 0:
                scales[k] = 0
                continue
            flip = scales[k] < 0
            _fill(order, k, 32, cuts[k] >> 16, cuts[k] >> 8 & 255, flip, levels)
            downs[k] = cuts[k] & 1 ^ (1 if flip else 0)
            scale = _points(plain, ws, 32 * k, 4, levels, abs(scales[k]), 15 * downs[k], span, near, terms, codes, 0)
            high = 0
            for i in range(4):
                point = int(index[codes[i]])
                out[start + 2 + 4 * k + i] = point & 255
                high |= point >> 8 << 3 * i
            out[start + 34 + 2 * k], out[start + 35 + 2 * k] = high & 255, high >> 8
            scales[k] = scale
            top = max(top, scale)
        if top > 0:
            inverse = _F(1) / (top / _F(15))
            d = half_bits(top / _F(15) * _F(1.125))
            out[start], out[start + 1] = d & 255, d >> 8
            for k in range(8):
                step = max(0, min(7, nearest_int(_F(0.5) * (inverse * scales[k] - _F(1)))))
                out[start + 35 + 2 * k] |= (step | 8 * downs[k]) << 4


@inlined
def _cut_m(sum_x: Floats, sum_w: Floats, scales: Floats, cuts: Ints) -> None:
    """The best of all cuts of 16 sorted values and of a shift for each half, from the halves' running sums.

    sum_x, sum_w: [half, value, lane]. cuts as above, with two bits for the shifts, the first half's the higher one.
    """
    best, scale, cut = splat(_F(-3.4028234663852886e38)), splat(_F(0)), splat_int(-1)
    up, down = _UP[2], _DOWN[2]
    first_up, first_down = load(sum_x, 128) * up, load(sum_x, 128) * down
    second_up, second_down = load(sum_x, 264) * up, load(sum_x, 264) * down
    first_up2, first_down2 = load(sum_w, 128) * up * up, load(sum_w, 128) * down * down
    second_up2, second_down2 = load(sum_w, 264) * up * up, load(sum_w, 264) * down * down
    for i in range(17):
        x0, x1, w0, w1 = load(sum_x, 8 * i), load(sum_x, 136 + 8 * i), load(sum_w, 8 * i), load(sum_w, 136 + 8 * i)
        low_up0, low_down0 = first_up2 + w0 * _F(0.75), first_down2 + w0 * _F(1.25)
        low_up1, low_down1 = second_up2 + w1 * _F(0.75), second_down2 + w1 * _F(1.25)
        for j in range(i, 17):
            w0, w1 = load(sum_w, 8 * j), load(sum_w, 136 + 8 * j)
            both0, both1 = x0 + load(sum_x, 8 * j), x1 + load(sum_x, 136 + 8 * j)
            up0, down0, up1, down1 = first_up - both0, first_down - both0, second_up - both1, second_down - both1
            up20, down20 = low_up0 + w0 * _F(-1.25), low_down0 + w0 * _F(-0.75)
            up21, down21 = low_up1 + w1 * _F(-1.25), low_down1 + w1 * _F(-0.75)
            for shifts in range(4):
                sum_qx = (down0 if shifts & 2 else up0) + (down1 if shifts & 1 else up1)
                sum_q2 = (down20 if shifts & 2 else up20) + (down21 if shifts & 1 else up21)
                better = (sum_q2 > _F(0)) & (sum_qx * sum_qx > best * sum_q2)
                found = sum_qx / sum_q2
                scale, best = where(better, found, scale), where(better, found * sum_qx, best)
                cut = where(better, splat_int(i << 16 | j << 8 | shifts), cut)
    store(scales, 0, scale)
    store_ints(cuts, 0, cut)


@kernel(FLOATS, FLOATS, NUMBER, INTS64, WORDS, WORDS, OUT_BYTES)
def encode_iq1_m(
    values: Floats, importance: Floats, columns: int, span: Ints64, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 56 bytes; an empty importance for none."""
    plain, ws, xs, turned = room(256, _F), room(256, _F), room(128, _F), room(128, _F)
    sum_x, sum_w = zeros(272, _F), zeros(272, _F)
    ranks, order, cuts = room(128, np.int32), room(128, np.int32), room(8, np.int32)
    terms, scales, tops, found = room(64, _F), room(16, _F), room(8, _F), room(8, _F)
    levels, codes, shifts = room(16, np.int64), zeros(32, np.int64), room(16, np.int64)
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
        for half in range(2):
            _turn(values, 256 * n + 128 * half, 16, xs)
            _turn(ws, 128 * half, 16, turned)
            store(tops, 0, _largest(xs, 16))
            _sort(xs, turned, 16, ranks, order)
            _halves(xs, turned, order, sum_x, sum_w)
            _cut_m(sum_x, sum_w, found, cuts)
            for k in range(8):
                g = 8 * half + k
                scales[g], shifts[g] = _F(0), 0
                if tops[k] < _F(1e-7) or cuts[k] < 0:
                    continue
                flip = found[k] < 0
                _fill(order, k, 16, cuts[k] >> 16, cuts[k] >> 8 & 255, flip, levels)
                shifts[g] = cuts[k] & 3 ^ (3 if flip else 0)
                downs = shifts[g] >> 1 | (shifts[g] & 1) << 1
                scales[g] = _points(plain, ws, 16 * g, 2, levels, abs(found[k]), downs, span, near, terms, codes, 2 * g)
                first, second = int(index[codes[2 * g]]), int(index[codes[2 * g + 1]])
                out[start + 2 * g], out[start + 2 * g + 1] = first & 255, second & 255
                out[start + 32 + g] = first >> 8 | second >> 8 << 4
                top = max(top, scales[g])
        if top > 0:
            _finish_m(values, 256 * n, ws, scales, top, shifts, codes, out, start)


@inlined
def _halves(xs: Floats, ws: Floats, order: Ints, sum_x: Floats, sum_w: Floats) -> None:
    """Running sums of 16 sorted values, separately for those of the group's first and second half."""
    for place in range(16):
        for k in range(8):
            i, at = order[8 * place + k], 8 * place + k
            w, x = ws[8 * i + k], xs[8 * i + k]
            for half in range(2):
                mine = i >> 3 == half
                sum_x[136 * half + at + 8] = sum_x[136 * half + at] + (w * x if mine else _F(0))
                sum_w[136 * half + at + 8] = sum_w[136 * half + at] + (w if mine else _F(0))


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
