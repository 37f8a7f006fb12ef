"""What ggml's codebook types share: rounding, weights and signs of a block, and how scales are stored."""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import Bytes, Floats, Ints64, inlined
from requant.kernels_cpu.room import room
from requant.kernels_cpu.search import gather, put_starts
from requant.kernels_cpu.simd import (
    first_lane,
    greater,
    half_bits,
    largest_lane,
    load,
    load16,
    mask_bits,
    smallest_lane,
    splat16,
    sqrt,
    store,
    value_bits,
    where,
)

_F = np.float32
_ROUNDER: Final = _F(12582912)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits


@inlined
def nearest_int(x: np.float32) -> int:
    """ggml's nearest_int of one number: ties to even; for what does not fit (or is NaN) the same nonsense as there."""
    return (value_bits(x + _ROUNDER) & 0x7FFFFF) - 0x400000


@inlined
def clear(out: Bytes, start: int, count: int) -> None:
    """Zeros; a loop, because numba takes seconds to compile an assignment to a slice."""
    for i in range(start, start + count):
        out[i] = 0


@inlined
def copy(values: Floats, start: int, block: Floats) -> None:
    """256 values."""
    for i in range(0, 256, 8):
        store(block, i, load(values, start + i))


@inlined
def sums_of_squares(values: Floats, first: int, last: int, sums: Floats) -> None:
    """Of sixteen blocks of 256 values from number `first` on, each in order; blocks beyond `last` are it, again."""
    xs, starts = room(256, np.float32), room(16, np.int64)
    put_starts(starts, first, last, 256)
    total = splat16(_F(0))
    for i in range(0, 256, 16):
        gather(values, starts, i, 16, xs)
        for j in range(0, 256, 16):
            x = load16(xs, j)
            total = total + x * x
    store(sums, 0, total)


@inlined
def weigh(values: Floats, start: int, importance: Floats, sigma2: np.float32, ws: Floats) -> None:
    """The weights of 256 values that have an importance."""
    place = start % importance.size
    for i in range(0, 256, 8):
        x = load(values, start + i)
        store(ws, i, load(importance, place + i) * sqrt(x * x + sigma2))


@inlined
def weigh_by_size(values: Floats, start: int, offset: np.float32, ws: Floats) -> None:
    """The weights of 256 values that have no importance: their squares, and `offset` more."""
    for i in range(0, 256, 8):
        x = load(values, start + i)
        store(ws, i, offset + x * x)


@inlined
def square_roots(ws: Floats, roots: Floats) -> None:
    """Of 256 weights."""
    for i in range(0, 256, 8):
        store(roots, i, sqrt(load(ws, i)))


@inlined
def peak_of(xs: Floats, start: int, length: int) -> np.float32:
    """The largest of some values, a multiple of eight."""
    top = load(xs, start)
    for i in range(start + 8, start + length, 8):
        top = greater(load(xs, i), top)
    return largest_lane(top)


@inlined
def split_signs(values: Floats, start: int, xs: Floats, signs: Ints64) -> None:
    """Magnitudes of 256 values, and for every eight a bit for each that is negative."""
    for i in range(32):
        x = load(values, start + 8 * i)
        negative = x < _F(0)
        store(xs, 8 * i, where(negative, _F(0) - x, x))
        signs[i] = mask_bits(negative)


@inlined
def even_signs(ws: Floats, xs: Floats, signs: Ints64) -> None:
    """Make the number of signs in every eight even: the value that matters least changes its sign."""
    for i in range(32):
        number = signs[i]
        parity = number ^ number >> 4
        parity ^= parity >> 2
        if (parity ^ parity >> 1) & 1:
            x = load(xs, 8 * i)
            cost = load(ws, 8 * i) * x * x
            k = first_lane(cost == smallest_lane(cost)) & 7
            xs[8 * i + k] = -xs[8 * i + k]
            number ^= 1 << k
        signs[i] = number & 127


@inlined
def put_scales(scales: Floats, top: np.float32, fudge: np.float32, steps: Ints64, out: Bytes, start: int) -> None:
    """The block's half d, at `start`; `steps` become 4-bit codes of the scales, of which `top` is the largest."""
    d = top / _F(31)
    inverse = _F(1) / d
    for k in range(scales.size):
        steps[k] = max(0, min(15, nearest_int(_F(0.5) * (inverse * scales[k] - _F(1)))))
    bits = half_bits(d * fudge)
    out[start], out[start + 1] = bits & 255, bits >> 8


@inlined
def put_steps(steps: Ints64, out: Bytes, start: int) -> None:
    """4-bit codes, two to a byte."""
    for k in range(steps.size // 2):
        out[start + k] = steps[2 * k] | steps[2 * k + 1] << 4


@inlined
def put_signs_and_steps(signs: Ints64, steps: Ints64, out: Bytes, start: int, stride: int) -> None:
    """Eight words of 32 bits, `stride` bytes apart: seven signs each of four eights, and a 4-bit code."""
    for k in range(8):
        word = steps[k] << 28
        for i in range(4):
            word |= signs[4 * k + i] << 7 * i
        for i in range(4):
            out[start + stride * k + i] = word >> 8 * i & 255
