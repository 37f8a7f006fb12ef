"""IQ1_S and IQ1_M: eight values as a point of a codebook of -1, 0 and 1, moved by an eighth up or down. Encoding.

The reference sorts a group of 32 or 16 values and tries every way to cut it into three. Lane k does that for group k of
one or two blocks (ggml_iq1_cuts.py), and each eight then goes to the nearest point.
IQ1_M follows the reference since it keeps sums for each half of a group (2026): earlier ones (libgguf 0.2.2,
libggml 0.20) round differently, and now and then end with another cut.
"""

from __future__ import annotations

from typing import Final

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
)
from requant.kernels_cpu.ggml_iq1_cuts import DOWN, UP, cut_m, cut_s, put_halves, sort_groups
from requant.kernels_cpu.ggml_shells import count_of, first_of, is_point
from requant.kernels_cpu.lattice import clear, copy, nearest_int, sums_of_squares, weigh, weigh_by_size
from requant.kernels_cpu.lattice_points import make_nearest_point
from requant.kernels_cpu.room import room, zeros
from requant.kernels_cpu.search import gather, put_starts
from requant.kernels_cpu.simd import (
    F32x16,
    fabs,
    greater,
    half_bits,
    load,
    load16,
    prefetch,
    splat16,
    store,
)

_F = np.float32
#: What levels stand for, each twice: moved up from 0 on, down from 8 on.
_RUNGS: Final = np.array([*((*UP, 0) * 2), *((*DOWN, 0) * 2)], _F)

_nearest_point: Final = make_nearest_point(8, 2, 16)


@inlined
def _largest(xs: Floats, length: int) -> F32x16:
    top = splat16(_F(0))
    for i in range(length):
        top = greater(fabs(load16(xs, 16 * i)), top)
    return top


@inlined
def _fill(order: Ints, k: int, length: int, low: int, high: int, flip: bool, levels: Ints64) -> None:
    """Levels 0, 1, 2 of the values of lane k, cut after `low` and `high` of them; the other way round if `flip`."""
    for place in range(length):
        level = 0 if place < low else 1 if place < high else 2
        levels[order[length * k + place]] = 2 - level if flip else level


@inlined
def _put_codes(levels: Ints64, count: int, span: Ints, near: Words, numbers: Ints64, codes: Ints64, first: int) -> None:
    """The numbers and codes of `count` eights of levels, from `first` on; their neighbours will be read soon."""
    for p in range(count):
        u, code = 0, 0
        for i in range(7, -1, -1):
            u, code = u * 3 + levels[8 * p + i], code << 2 | levels[8 * p + i]
        numbers[first + p], codes[first + p] = u, code
        place = first_of(span, u)
        prefetch(near, place)
        prefetch(near, place + 32)


@inlined
def _points(
    xs: Floats,
    ws: Floats,
    at: int,
    count: int,
    scale: np.float32,
    downs: int,
    span: Ints,
    near: Words,
    terms: Floats,
    numbers: Ints64,
    codes: Ints64,
    first: int,
) -> np.float32:
    """The points of `count` eights, eight i moved down if bit i of `downs` is set; the scale that fits them.

    xs, ws: from `at` on; numbers, codes: from `first` on; codes become points.
    """
    in_grid = True
    for p in range(count):
        u = numbers[first + p]
        if not is_point(span, u):
            in_grid = False
            rungs = load(_RUNGS, 8 * (downs >> p & 1)) * scale
            codes[first + p] = _nearest_point(
                xs, ws, at + 8 * p, rungs, near, first_of(span, u), count_of(span, u), terms
            )
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
    sums = room(16, _F)
    levels, downs, numbers, codes = room(32, np.int64), room(16, np.int64), room(64, np.int64), room(64, np.int64)
    last = values.size // 256 - 1
    for n in range(last + 1):
        start, top, first = 50 * n, _F(0), 8 * (n % 2)
        clear(out, start, 50)
        if n % 16 == 0:
            sums_of_squares(values, n, last, sums)
        if first == 0:
            for part in range(2):
                block = min(n + part, last)
                place = 256 * block
                weigh(values, place, importance, _F(2) * sums[block % 16] / _F(256), ws[256 * part :])
                copy(values, place, plain[256 * part :])
            put_starts(starts, 0, 15, 32)
            gather(plain, starts, 0, 32, xs)
            gather(ws, starts, 0, 32, turned)
            store(tops, 0, _largest(xs, 32))
            sort_groups(xs, 32, ranks, order)
            for place in range(32):
                for k in range(16):
                    i, at = 16 * order[32 * k + place] + k, 16 * place + k
                    sum_x[at + 16] = sum_x[at] + turned[i] * xs[i]
                    sum_w[at + 16] = sum_w[at] + turned[i]
            cut_s(sum_x, sum_w, above, scales, cuts)
        for k in range(first, first + 8):
            downs[k] = 0
            if tops[k] < _F(1e-12) or cuts[k] < 0:
                cuts[k] = -1
                continue
            flip = scales[k] < 0
            _fill(order, k, 32, cuts[k] >> 16, cuts[k] >> 8 & 255, flip, levels)
            downs[k] = cuts[k] & 1 ^ (1 if flip else 0)
            _put_codes(levels, 4, span, near, numbers, codes, 4 * k)
        for k in range(first, first + 8):
            if cuts[k] < 0:
                scales[k] = 0
                continue
            size, all_down = abs(scales[k]), 15 * downs[k]
            scale = _points(plain, ws, 32 * k, 4, size, all_down, span, near, terms, numbers, codes, 4 * k)
            high, place = 0, k - first
            for i in range(4):
                point = int(index[codes[4 * k + i]])
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


@kernel(FLOATS, FLOATS, NUMBER, INTS, WORDS, WORDS, OUT_BYTES)
def encode_iq1_m(
    values: Floats, importance: Floats, columns: int, span: Ints, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 56 bytes; an empty importance for none."""
    plain, ws, xs = room(256, _F), room(256, _F), room(256, _F)
    sum_x, sum_w, above = zeros(544, _F), zeros(544, _F), room(1088, _F)
    ranks, order, cuts = room(256, np.int32), room(256, np.int32), room(16, np.int32)
    terms, scales, tops, found = room(128, _F), room(16, _F), room(16, _F), room(16, _F)
    levels, codes, shifts, starts = room(16, np.int64), zeros(32, np.int64), room(16, np.int64), room(16, np.int64)
    sums, numbers = room(16, _F), room(32, np.int64)
    put_starts(starts, 0, 15, 16)
    for n in range(values.size // 256):
        start, top = 56 * n, _F(0)
        clear(out, start, 56)
        for i in range(32):
            codes[i] = 0
        if importance.size:
            if n % 16 == 0:
                sums_of_squares(values, n, values.size // 256 - 1, sums)
            weigh(values, 256 * n, importance, _F(2) * sums[n % 16] / _F(256), ws)
        else:
            weigh_by_size(values, 256 * n, _F(0), ws)
        copy(values, 256 * n, plain)
        gather(plain, starts, 0, 16, xs)
        store(tops, 0, _largest(xs, 16))
        sort_groups(xs, 16, ranks, order)
        put_halves(plain, ws, order, starts, sum_x, sum_w)
        cut_m(sum_x, sum_w, above, found, cuts)
        for g in range(16):
            scales[g], shifts[g] = _F(0), 0
            if tops[g] < _F(1e-7) or cuts[g] < 0:
                cuts[g] = -1
                continue
            flip = found[g] < 0
            _fill(order, g, 16, cuts[g] >> 16, cuts[g] >> 8 & 255, flip, levels)
            shifts[g] = cuts[g] & 3 ^ (3 if flip else 0)
            _put_codes(levels, 2, span, near, numbers, codes, 2 * g)
        for g in range(16):
            if cuts[g] < 0:
                continue
            size, downs = abs(found[g]), shifts[g] >> 1 | (shifts[g] & 1) << 1
            scales[g] = _points(plain, ws, 16 * g, 2, size, downs, span, near, terms, numbers, codes, 2 * g)
            first, second = int(index[codes[2 * g]]), int(index[codes[2 * g + 1]])
            out[start + 2 * g], out[start + 2 * g + 1] = first & 255, second & 255
            out[start + 32 + g] = first >> 8 | second >> 8 << 4
            top = max(top, scales[g])
        if top > 0:
            _finish_m(values, 256 * n, ws, scales, top, shifts, codes, out, start)


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
