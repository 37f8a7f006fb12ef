"""IQ3_XXS and IQ3_S: four values as a point of a codebook, eight levels to a coordinate. Encoding."""

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

_F = np.float32

_search_s: Final = make_search(32, 4, 3, numerators(19, 7, 0.2), 19, again="all")
_search_xxs: Final = make_search(32, 4, 3, numerators(31, 7, 0.2), 31, again="outside")


@inlined
def _weights(values: Floats, n: int, importance: Floats, sums: Floats, ws: Floats, roots: Floats) -> None:
    """Of block n; the sums of sixteen blocks are made anew with the first of them."""
    start = 256 * n
    if importance.size:
        if n % 16 == 0:
            sums_of_squares(values, n, values.size // 256 - 1, sums)
        weigh(values, start, importance, _F(2) * sums[n % 16] / _F(256), ws)
    else:
        weigh_by_size(values, start, _F(0), ws)
    square_roots(ws, roots)


@kernel(FLOATS, FLOATS, NUMBER, INTS, WORDS, WORDS, OUT_BYTES)
def encode_iq3_s(
    values: Floats, importance: Floats, columns: int, span: Ints, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 110 bytes; an empty importance for none.

    The reference forgets to move on in the indices and signs of a block after 32 values that are all zero: those that
    follow land 8 and 4 bytes too early, and their values decode wrong. So they do here: the bytes are the reference's.
    """
    xs, ws, roots = room(256, _F), room(256, _F), room(256, _F)
    numbers, chosen = zeros(272, np.int32), zeros(272, np.int32)
    work = (room(128, _F), room(576, _F), room(640, _F), numbers, chosen, room(640, np.int32))
    scales, steps, sums = room(8, _F), room(8, np.int64), room(16, _F)
    signs, codes = room(32, np.int64), room(8, np.int64)
    for n in range(values.size // 256):
        start = 110 * n
        clear(out, start, 110)
        _weights(values, n, importance, sums, ws, roots)
        split_signs(values, 256 * n, xs, signs)
        place, top = 0, _F(0)
        for k in range(8):
            peak = peak_of(xs, 32 * k, 32)
            scales[k] = 0
            if peak == 0:
                continue
            scale = _search_s(xs, ws, roots, 32 * k, peak, peak / _F(15), (span, near), work, codes)
            flip = 255 if scale < 0 else 0
            scales[k] = abs(scale)
            for i in range(8):
                point = int(index[codes[i]])
                out[start + 2 + 8 * place + i] = point & 255
                out[start + 66 + k] |= point >> 8 << i
            for i in range(4):
                out[start + 74 + 4 * place + i] = signs[4 * k + i] ^ flip
            place += 1
            top = max(top, scales[k])
        if top > 0:
            put_scales(scales, top, _F(1.033), steps, out, start)
            put_steps(steps, out, start + 106)


@kernel(FLOATS, FLOATS, NUMBER, INTS, WORDS, WORDS, OUT_BYTES)
def encode_iq3_xxs(
    values: Floats, importance: Floats, columns: int, span: Ints, near: Words, index: Words, out: Bytes
) -> None:
    """Blocks of 256 values to 98 bytes; an empty importance for none."""
    xs, ws, roots = room(256, _F), room(256, _F), room(256, _F)
    numbers, chosen = zeros(272, np.int32), zeros(272, np.int32)
    work = (room(128, _F), room(576, _F), room(640, _F), numbers, chosen, room(640, np.int32))
    scales, steps, sums = room(8, _F), room(8, np.int64), room(16, _F)
    signs, codes = room(32, np.int64), room(8, np.int64)
    for n in range(values.size // 256):
        start = 98 * n
        clear(out, start, 98)
        _weights(values, n, importance, sums, ws, roots)
        split_signs(values, 256 * n, xs, signs)
        even_signs(ws, xs, signs)
        top = _F(0)
        for k in range(8):
            peak = peak_of(xs, 32 * k, 32)
            scales[k] = 0
            if peak < _F(1e-8):
                for i in range(4):
                    signs[4 * k + i] = 0
                continue
            scale = _search_xxs(xs, ws, roots, 32 * k, peak, peak / _F(15), (span, near), work, codes)
            if scale < 0:
                for i in range(4):
                    signs[4 * k + i] ^= 127
            scales[k] = abs(scale)
            for i in range(8):
                out[start + 2 + 8 * k + i] = index[codes[i]]
            top = max(top, scales[k])
        if top == 0:
            clear(out, start, 98)
            continue
        put_scales(scales, top, _F(1.0125), steps, out, start)
        put_signs_and_steps(signs, steps, out, start + 66, 4)
