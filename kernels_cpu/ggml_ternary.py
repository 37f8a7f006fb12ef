"""TQ1_0, TQ2_0, Q1_0 and Q2_0: one or two bits, and trits, under the largest (or mean) magnitude.

Source: ggml/src/ggml-quants.c. No search: every value is rounded on its own, halves away from zero.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import BYTES, FLOATS, OUT_BYTES, OUT_FLOATS, Bytes, Floats, inlined, kernel
from requant.kernels_cpu.room import room, zeros
from requant.kernels_cpu.simd import (
    F32x8,
    I32x8,
    fabs,
    greater,
    half_bits,
    half_value,
    largest_lane,
    load,
    load_bytes,
    mask_bits,
    splat,
    splat_int,
    store,
    store_bytes,
    to_float,
    where,
)
from requant.kernels_cpu.simd_lookup import mask_of

_F = np.float32
_LARGEST: Final = _F(np.finfo(_F).max)

#: The bits of a byte moved to the even bits of a word.
_SPREAD: Final = np.array([sum((byte >> k & 1) << 2 * k for k in range(8)) for byte in range(256)], np.uint16)
_EVEN: Final = np.arange(0, 16, 2).astype(np.uint8)


@inlined
def _largest(values: Floats, start: int, count: int) -> np.float32:
    size = splat(_F(0))
    for i in range(start, start + count, 8):
        size = greater(fabs(load(values, i)), size)
    return largest_lane(size)


@inlined
def _put_half(value: np.float32, out: Bytes, place: int) -> None:
    d = half_bits(value)
    out[place], out[place + 1] = d & 255, d >> 8


@inlined
def _half(blocks: Bytes, place: int) -> np.float32:
    return half_value(int(blocks[place]) | int(blocks[place + 1]) << 8)


@inlined
def _inverse(d: np.float32) -> np.float32:
    """1 / d; 0 where there is none, or where it overflows: the reference rounds infinity to a zero trit."""
    inverse = _F(1) / d
    return inverse if d > 0 and inverse <= _LARGEST else _F(0)


@inlined
def _trit(x: F32x8) -> I32x8:
    """x in -1..1 to 0, 1 or 2."""
    return where(x < _F(0.5), where(x > _F(-0.5), splat_int(1), 0), 2)


@inlined
def _trits(values: Floats, start: int, step: int, count: int, inverse: np.float32) -> I32x8:
    """`count` trits of each lane as one number in base 3, `step` values apart, the first one leading."""
    number = splat_int(0)
    for i in range(count):
        number = number * 3 + _trit(load(values, start + step * i) * inverse)
    return number


@inlined
def _five(number: I32x8) -> I32x8:
    """Five trits as a byte: ceil(256 / 243 * number), so that multiplying by 3 brings out one after another.

    In integers number + (13 * number + 242) // 243, which needs no division: 270 / 65536 is close enough to 1 / 243.
    """
    return number + ((number * 13 + 242) * 270 >> 16)


@kernel(FLOATS, OUT_BYTES)
def encode_tq1_0(values: Floats, out: Bytes) -> None:
    """Blocks of 256 values to 54 bytes: 32 bytes of 5 trits, 16 of 5, 4 of 4, then d."""
    four, tail = room(32, _F), room(8, np.uint8)
    for n in range(values.size // 256):
        start, place = 256 * n, 54 * n
        d = _largest(values, start, 256)
        inverse = _inverse(d)
        for i in range(0, 32, 8):
            store_bytes(out, place + i, _five(_trits(values, start + i, 32, 5, inverse)))
        for i in range(0, 16, 8):
            store_bytes(out, place + 32 + i, _five(_trits(values, start + 160 + i, 16, 5, inverse)))
        for i in range(4):
            for k in range(4):
                four[8 * i + k] = values[start + 240 + 4 * i + k]
                four[8 * i + 4 + k] = 0
        store_bytes(tail, 0, _five(_trits(four, 0, 8, 4, inverse) * 3))
        for i in range(4):
            out[place + 48 + i] = tail[i]
        _put_half(d, out, place + 52)


@kernel(FLOATS, OUT_BYTES)
def encode_tq2_0(values: Floats, out: Bytes) -> None:
    """Blocks of 256 values to 66 bytes: 64 bytes of four trits, two bits each, then d."""
    for n in range(values.size // 256):
        start, place = 256 * n, 66 * n
        d = _largest(values, start, 256)
        inverse = _inverse(d)
        for half in range(2):
            for i in range(0, 32, 8):
                code = splat_int(0)
                for k in range(4):
                    code = code | _trit(load(values, start + 128 * half + 32 * k + i) * inverse) << 2 * k
                store_bytes(out, place + 32 * half + i, code)
        _put_half(d, out, place + 64)


@kernel(FLOATS, OUT_BYTES)
def encode_q1_0(values: Floats, out: Bytes) -> None:
    """Blocks of 128 values to 18 bytes: d, the mean magnitude, then one bit per value, set unless it is negative."""
    for n in range(values.size // 128):
        start, place = 128 * n, 18 * n
        total = _F(0)
        for i in range(128):
            total += abs(values[start + i])
        _put_half(total / _F(128), out, place)
        for i in range(16):
            out[place + 2 + i] = mask_bits(load(values, start + 8 * i) >= _F(0))


@kernel(FLOATS, OUT_BYTES)
def encode_q2_0(values: Floats, out: Bytes) -> None:
    """Blocks of 64 values to 18 bytes: d, then two bits per value, 0..2 for -d, 0 and d.

    3 (twice d) is never written. Where 1 / d overflows, all codes are 0, as the reference has it on x86-64.
    """
    for n in range(values.size // 64):
        start, place = 64 * n, 18 * n
        d = _largest(values, start, 64)
        inverse = _inverse(d)
        _put_half(d, out, place)
        lost = 0 if inverse > 0 or d == 0 else 255
        for i in range(8):
            x = load(values, start + 8 * i) * inverse
            up, down = mask_bits(x >= _F(0.5)), mask_bits(x <= _F(-0.5))
            word = _SPREAD[up] << 1 | _SPREAD[~(up | down | lost) & 255]
            out[place + 2 + 2 * i], out[place + 3 + 2 * i] = word & 255, word >> 8


_POWERS: Final = (1, 3, 9, 27, 81)


@inlined
def _show_trit(codes: I32x8, power: int, d: np.float32, out: Floats, place: int) -> None:
    store(out, place, to_float(((codes * power & 255) * 3 >> 8) - 1) * d)


@kernel(BYTES, OUT_FLOATS)
def decode_tq1_0(blocks: Bytes, out: Floats) -> None:
    """Blocks of 54 bytes to 256 values."""
    work, tail = room(8, _F), zeros(8, np.uint8)
    for n in range(blocks.size // 54):
        place, start = 256 * n, 54 * n
        d = _half(blocks, start + 52)
        for k in range(5):
            for i in range(0, 32, 8):
                _show_trit(load_bytes(blocks, start + i), _POWERS[k], d, out, place + 32 * k + i)
            for i in range(0, 16, 8):
                _show_trit(load_bytes(blocks, start + 32 + i), _POWERS[k], d, out, place + 160 + 16 * k + i)
        for i in range(4):
            tail[i] = blocks[start + 48 + i]
        for k in range(4):
            _show_trit(load_bytes(tail, 0), _POWERS[k], d, work, 0)
            for i in range(4):
                out[place + 240 + 4 * k + i] = work[i]


@kernel(BYTES, OUT_FLOATS)
def decode_tq2_0(blocks: Bytes, out: Floats) -> None:
    """Blocks of 66 bytes to 256 values."""
    for n in range(blocks.size // 66):
        d = _half(blocks, 66 * n + 64)
        for i in range(0, 64, 8):
            codes = load_bytes(blocks, 66 * n + i)
            place = 256 * n + 128 * (i // 32) + i % 32
            for k in range(4):
                store(out, place + 32 * k, to_float((codes >> 2 * k & 3) - 1) * d)


@kernel(BYTES, OUT_FLOATS)
def decode_q1_0(blocks: Bytes, out: Floats) -> None:
    """Blocks of 18 bytes to 128 values."""
    for n in range(blocks.size // 18):
        d = _half(blocks, 18 * n)
        for i in range(16):
            store(out, 128 * n + 8 * i, where(mask_of(blocks[18 * n + 2 + i]), splat(d), splat(-d)))


@kernel(BYTES, OUT_FLOATS)
def decode_q2_0(blocks: Bytes, out: Floats) -> None:
    """Blocks of 18 bytes to 64 values; code 3 is twice d."""
    shifts = load_bytes(_EVEN, 0)
    for n in range(blocks.size // 18):
        d = _half(blocks, 18 * n)
        for i in range(8):
            word = int(blocks[18 * n + 2 + 2 * i]) | int(blocks[18 * n + 3 + 2 * i]) << 8
            store(out, 64 * n + 8 * i, to_float((splat_int(word) >> shifts & 3) - 1) * d)
