"""IQ2_XXS, IQ2_XS and IQ2_S: eight values as a point of a codebook, three levels to a coordinate. Encoding."""

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
from requant.kernels_cpu.lattice import (
    clear,
    even_signs,
    nearest_ints,
    peak_of,
    put_scales,
    put_signs_and_steps,
    put_steps,
    split_signs,
    square_roots,
    sum_of_squares,
    weigh,
    weigh_by_size,
)
from requant.kernels_cpu.lattice_search import make_search, numerators
from requant.kernels_cpu.room import room, zeros
from requant.kernels_cpu.simd import (
    F32x8,
    I32x8,
    any_lane,
    greater,
    lesser,
    load,
    load_ints,
    splat,
    store,
    store_ints,
    to_float,
    where,
)
from requant.kernels_cpu.simd_transpose import transpose

_F = np.float32

_search_16: Final = make_search(16, 8, 2, numerators(19, 2, 0.1), 19, again="outside")
_search_32: Final = make_search(32, 8, 2, numerators(13, 2, 0.1), 13, again="always")


@kernel(FLOATS, FLOATS, NUMBER, INTS64, WORDS, WORDS, OUT_BYTES)
def encode_iq2_s(
    values: Floats, importance: Floats, columns: int, span: Ints64, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 82 bytes; an empty importance for none."""
    xs, ws, roots = room(256, _F), room(256, _F), room(256, _F)
    work = (room(128, _F), room(64, _F), zeros(256, np.int32), zeros(256, np.int32))
    scales, steps = room(16, _F), room(16, np.int64)
    signs, codes = room(32, np.int64), room(2, np.int64)
    for n in range(values.size // 256):
        start, top = 82 * n, _F(0)
        clear(out, start, 82)
        sigma2 = _F(2) * sum_of_squares(values, 256 * n) / _F(256)
        if importance.size:
            weigh(values, 256 * n, importance, sigma2, ws)
        else:
            weigh_by_size(values, 256 * n, _F(0.25) * sigma2, ws)
        square_roots(ws, roots)
        split_signs(values, 256 * n, xs, signs)
        for k in range(16):
            peak = peak_of(xs, 16 * k, 16)
            scales[k] = 0
            if peak < _F(1e-8):
                continue
            scale = _search_16(xs, ws, roots, 16 * k, peak, peak / _F(5), (span, near), work, codes)
            flip = 255 if scale < 0 else 0
            scales[k] = abs(scale)
            for i in range(2):
                point, place = int(index[codes[i]]), 2 * k + i
                out[start + 2 + place] = point & 255
                out[start + 34 + place] = signs[place] ^ flip
                out[start + 66 + (place >> 2)] |= point >> 8 << 2 * (place & 3)
            top = max(top, scales[k])
        if top > 0:
            put_scales(scales, top, _F(0.9875), steps, out, start)
            put_steps(steps, out, start + 74)


@kernel(FLOATS, FLOATS, NUMBER, INTS64, WORDS, WORDS, OUT_BYTES)
def encode_iq2_xs(
    values: Floats, importance: Floats, columns: int, span: Ints64, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 74 bytes."""
    xs, ws, roots = room(256, _F), room(256, _F), room(256, _F)
    work = (room(128, _F), room(64, _F), zeros(256, np.int32), zeros(256, np.int32))
    scales, steps = room(16, _F), room(16, np.int64)
    signs, codes = room(32, np.int64), room(2, np.int64)
    for n in range(values.size // 256):
        start, top = 74 * n, _F(0)
        clear(out, start, 74)
        _prepare(values, 256 * n, importance, xs, ws, roots, signs)
        for k in range(16):
            peak = peak_of(xs, 16 * k, 16)
            scales[k] = 0
            if peak < _F(1e-15):
                continue
            scale = _search_16(xs, ws, roots, 16 * k, peak, peak / _F(5), (span, near), work, codes)
            flip = 127 if scale < 0 else 0
            scales[k] = abs(scale)
            for i in range(2):
                word = int(index[codes[i]]) | (signs[2 * k + i] ^ flip) << 9
                place = start + 2 + 4 * k + 2 * i
                out[place], out[place + 1] = word & 255, word >> 8
            top = max(top, scales[k])
        if top > 0:
            put_scales(scales, top, _F(1), steps, out, start)
            put_steps(steps, out, start + 66)
        else:
            clear(out, start, 74)


@inlined
def _prepare(
    values: Floats, start: int, importance: Floats, xs: Floats, ws: Floats, roots: Floats, signs: Ints64
) -> None:
    """Weights and magnitudes of 256 values, with an even number of signs in every eight."""
    weigh(values, start, importance, sum_of_squares(values, start) / _F(256), ws)
    square_roots(ws, roots)
    split_signs(values, start, xs, signs)
    even_signs(ws, xs, signs)


@inlined
def _positive_codes(x: F32x8) -> I32x8:
    return lesser(nearest_ints(x), 4)


@inlined
def _positive_scales(xs: Floats, ws: Floats, codes: Ints) -> F32x8:
    """The scales of eight groups of 32 values, transposed: ggml's make_qp_quants with codes 0 to 4.

    It keeps codes in bytes, and a value that has changed its sign is negative: its code wraps around to 256 less.
    """
    top = splat(_F(0))
    for i in range(32):
        top = greater(load(xs, 8 * i), top)
    best, inverse = splat(_F(0)), _F(4) / top
    scale = _F(1) / inverse
    for i in range(32):
        x = load(xs, 8 * i)
        error = x - scale * to_float(nearest_ints(inverse * x) & 255)
        best = best + load(ws, 8 * i) * error * error
    for step in range(-4, 5):
        if step != 0:
            trial = splat(_F(0.1) * _F(step) + _F(4)) / top
            scale, total = _F(1) / trial, splat(_F(0))
            for i in range(32):
                x = load(xs, 8 * i)
                error = x - scale * to_float(_positive_codes(trial * x))
                total = total + load(ws, 8 * i) * error * error
            better = total < best
            best, inverse = where(better, total, best), where(better, trial, inverse)
    sum_lx, sum_l2 = splat(_F(0)), splat(_F(0))
    for i in range(32):
        x, w = load(xs, 8 * i), load(ws, 8 * i)
        code = _positive_codes(inverse * x)
        store_ints(codes, 8 * i, code & 255)
        sum_lx, sum_l2 = sum_lx + w * x * to_float(code), sum_l2 + w * to_float(code) * to_float(code)
    for _ in range(5):
        before = sum_l2
        changed = before != before
        for i in range(32):
            x, w, code = load(xs, 8 * i), load(ws, 8 * i), load_ints(codes, 8 * i)
            slx = sum_lx - w * x * to_float(code)
            sl2 = sum_l2 - w * to_float(code) * to_float(code)
            new = _positive_codes(x * sl2 / slx)
            new_lx = slx + w * x * to_float(new)
            new_l2 = sl2 + w * to_float(new) * to_float(new)
            better = new_lx * new_lx * sum_l2 > sum_lx * sum_lx * new_l2
            better = better & (slx > _F(0)) & (sl2 > _F(0)) & (new != code)
            store_ints(codes, 8 * i, where(better, new & 255, code))
            sum_lx, sum_l2 = where(better, new_lx, sum_lx), where(better, new_l2, sum_l2)
            changed = changed | better
        if not any_lane(changed):
            break
    return where((sum_l2 > _F(0)) & (top >= _F(1e-15)), sum_lx / sum_l2, _F(0))


@kernel(FLOATS, FLOATS, NUMBER, INTS64, WORDS, WORDS, OUT_BYTES)
def encode_iq2_xxs(
    values: Floats, importance: Floats, columns: int, span: Ints64, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 66 bytes."""
    xs, ws, roots = room(256, _F), room(256, _F), room(256, _F)
    turned_xs, turned_ws, levels = room(256, _F), room(256, _F), room(256, np.int32)
    work = (room(128, _F), room(64, _F), zeros(256, np.int32), zeros(256, np.int32))
    scales, steps = room(8, _F), room(8, np.int64)
    signs, codes = room(32, np.int64), room(4, np.int64)
    for n in range(values.size // 256):
        start, top = 66 * n, _F(0)
        clear(out, start, 66)
        _prepare(values, 256 * n, importance, xs, ws, roots, signs)
        for i in range(0, 32, 8):
            transpose(xs, i, 32, turned_xs, 8 * i, 8)
            transpose(ws, i, 32, turned_ws, 8 * i, 8)
        store(scales, 0, _positive_scales(turned_xs, turned_ws, levels))
        for k in range(8):
            largest = scales[k] * _F(3)
            if not largest > 0:
                scales[k] = 0
                for i in range(4):
                    signs[4 * k + i] = 0
                continue
            scale = _search_32(xs, ws, roots, 32 * k, largest, scales[k], (span, near), work, codes)
            flip = 127 if scale < 0 else 0
            scales[k] = abs(scale)
            for i in range(4):
                out[start + 2 + 8 * k + i] = index[codes[i]]
                signs[4 * k + i] ^= flip
            top = max(top, scales[k])
        if top == 0:
            clear(out, start, 66)
            continue
        put_scales(scales, top, _F(1), steps, out, start)
        put_signs_and_steps(signs, steps, out, start + 6, 8)
