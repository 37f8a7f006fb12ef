"""IQ2_XXS, IQ2_XS and IQ2_S: eight values as a point of a codebook, three levels to a coordinate. Encoding."""

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
from requant.kernels_cpu.lattice import (
    clear,
    even_signs,
    peak_of,
    put_scales,
    put_signs_and_steps,
    put_steps,
    split_signs,
    square_roots,
    sums_of_squares,
    weigh,
    weigh_by_size,
)
from requant.kernels_cpu.lattice_search import make_search, numerators
from requant.kernels_cpu.room import room, zeros
from requant.kernels_cpu.search import positive_search
from requant.kernels_cpu.simd_transpose import transpose

_F = np.float32

_search_16: Final = make_search(16, 8, 2, numerators(19, 2, 0.1), 19, again="outside")
_positive_scales: Final = positive_search(32, 4)
_search_32: Final = make_search(32, 8, 2, numerators(13, 2, 0.1), 13, again="always")


@kernel(FLOATS, FLOATS, NUMBER, INTS, WORDS, WORDS, OUT_BYTES)
def encode_iq2_s(
    values: Floats, importance: Floats, columns: int, span: Ints, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 82 bytes; an empty importance for none."""
    xs, ws, roots = room(256, _F), room(256, _F), room(256, _F)
    numbers, chosen = zeros(272, np.int32), zeros(272, np.int32)
    work = (room(128, _F), room(576, _F), room(640, _F), numbers, chosen, room(640, np.int32))
    scales, steps, sums = room(16, _F), room(16, np.int64), room(16, _F)
    signs, codes = room(32, np.int64), room(2, np.int64)
    last = values.size // 256 - 1
    for n in range(last + 1):
        if n % 16 == 0:
            sums_of_squares(values, n, last, sums)
        start, top = 82 * n, _F(0)
        clear(out, start, 82)
        sigma2 = _F(2) * sums[n % 16] / _F(256)
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


@kernel(FLOATS, FLOATS, NUMBER, INTS, WORDS, WORDS, OUT_BYTES)
def encode_iq2_xs(
    values: Floats, importance: Floats, columns: int, span: Ints, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 74 bytes."""
    xs, ws, roots = room(256, _F), room(256, _F), room(256, _F)
    numbers, chosen = zeros(272, np.int32), zeros(272, np.int32)
    work = (room(128, _F), room(576, _F), room(640, _F), numbers, chosen, room(640, np.int32))
    scales, steps, sums = room(16, _F), room(16, np.int64), room(16, _F)
    signs, codes = room(32, np.int64), room(2, np.int64)
    last = values.size // 256 - 1
    for n in range(last + 1):
        if n % 16 == 0:
            sums_of_squares(values, n, last, sums)
        start, top = 74 * n, _F(0)
        clear(out, start, 74)
        _prepare(values, 256 * n, importance, sums[n % 16], xs, ws, roots, signs)
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
    values: Floats,
    start: int,
    importance: Floats,
    squares: np.float32,
    xs: Floats,
    ws: Floats,
    roots: Floats,
    signs: Ints64,
) -> None:
    """Weights and magnitudes of 256 values, with an even number of signs in every eight; squares: their sum."""
    weigh(values, start, importance, squares / _F(256), ws)
    square_roots(ws, roots)
    split_signs(values, start, xs, signs)
    even_signs(ws, xs, signs)


@kernel(FLOATS, FLOATS, NUMBER, INTS, WORDS, WORDS, OUT_BYTES)
def encode_iq2_xxs(
    values: Floats, importance: Floats, columns: int, span: Ints, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 66 bytes; where scales are looked for, the groups of two blocks are the lanes."""
    xs, ws, roots = room(512, _F), room(512, _F), room(512, _F)
    turned_xs, turned_ws, levels = room(512, _F), room(512, _F), room(512, np.int32)
    numbers, chosen = zeros(272, np.int32), zeros(272, np.int32)
    work = (room(128, _F), room(576, _F), room(640, _F), numbers, chosen, room(640, np.int32))
    scales, both_scales, sums, steps = room(8, _F), room(16, _F), room(16, _F), room(8, np.int64)
    signs, codes = room(64, np.int64), room(4, np.int64)
    last = values.size // 256 - 1
    for n in range(last + 1):
        start, top, odd = 66 * n, _F(0), n % 2
        clear(out, start, 66)
        if n % 16 == 0:
            sums_of_squares(values, n, last, sums)
        if not odd:
            for part in range(2):
                place, block = 256 * part, min(n + part, last)
                _prepare(
                    values,
                    256 * block,
                    importance,
                    sums[block % 16],
                    xs[place:],
                    ws[place:],
                    roots[place:],
                    signs[32 * part :],
                )
                for i in range(0, 32, 8):
                    transpose(xs, place + i, 32, turned_xs, 16 * i + 8 * part, 16)
                    transpose(ws, place + i, 32, turned_ws, 16 * i + 8 * part, 16)
            _positive_scales(turned_xs, turned_ws, levels, both_scales)
        mine = signs[32 * odd :]
        for k in range(8):
            scales[k] = both_scales[8 * odd + k]
            largest = scales[k] * _F(3)
            if not largest > 0:
                scales[k] = 0
                for i in range(4):
                    mine[4 * k + i] = 0
                continue
            at = 256 * odd + 32 * k
            scale = _search_32(xs, ws, roots, at, largest, scales[k], (span, near), work, codes)
            flip = 127 if scale < 0 else 0
            scales[k] = abs(scale)
            for i in range(4):
                out[start + 2 + 8 * k + i] = index[codes[i]]
                mine[4 * k + i] ^= flip
            top = max(top, scales[k])
        if top == 0:
            clear(out, start, 66)
            continue
        put_scales(scales, top, _F(1), steps, out, start)
        put_signs_and_steps(mine, steps, out, start + 6, 8)
