"""Decoding of the classic block types: bit-equal to dequantize_row_* of ggml/src/ggml-quants.c.

Sixteen values at a time, from bytes widened in the lanes; the order of operations is the reference's.
"""

from __future__ import annotations

import numpy as np

from requant.kernels_cpu._jit import BYTES, OUT_FLOATS, Bytes, Floats, inlined, kernel
from requant.kernels_cpu.simd import (
    I32x16,
    half_value,
    lanes16,
    load_bytes16,
    load_chars16,
    splat_int16,
    store,
    to_float,
)

_F = np.float32


@inlined
def half_at(data: Bytes, at: int) -> np.float32:
    """The value of the half stored at a byte."""
    return half_value(int(data[at]) | int(data[at + 1]) << 8)


@inlined
def _bits_at(data: Bytes, at: int) -> I32x16:
    """Sixteen bits as lanes of 0 or 1."""
    return splat_int16(int(data[at]) | int(data[at + 1]) << 8) >> lanes16() & 1


@kernel(BYTES, OUT_FLOATS)
def decode_q4_0(data: Bytes, out: Floats) -> None:
    """18 bytes: d, 16 bytes of nibbles (low ones first); (code - 8) * d."""
    for n in range(out.size // 32):
        d, q = half_at(data, 18 * n), load_bytes16(data, 18 * n + 2)
        store(out, 32 * n, to_float((q & 15) - 8) * d)
        store(out, 32 * n + 16, to_float((q >> 4) - 8) * d)


@kernel(BYTES, OUT_FLOATS)
def decode_q4_1(data: Bytes, out: Floats) -> None:
    """20 bytes: d, m, nibbles; code * d + m."""
    for n in range(out.size // 32):
        d, m, q = half_at(data, 20 * n), half_at(data, 20 * n + 2), load_bytes16(data, 20 * n + 4)
        store(out, 32 * n, to_float(q & 15) * d + m)
        store(out, 32 * n + 16, to_float(q >> 4) * d + m)


@kernel(BYTES, OUT_FLOATS)
def decode_q5_0(data: Bytes, out: Floats) -> None:
    """22 bytes: d, 32 high bits, nibbles; (code - 16) * d."""
    for n in range(out.size // 32):
        d, q = half_at(data, 22 * n), load_bytes16(data, 22 * n + 6)
        store(out, 32 * n, to_float((q & 15 | _bits_at(data, 22 * n + 2) << 4) - 16) * d)
        store(out, 32 * n + 16, to_float((q >> 4 | _bits_at(data, 22 * n + 4) << 4) - 16) * d)


@kernel(BYTES, OUT_FLOATS)
def decode_q5_1(data: Bytes, out: Floats) -> None:
    """24 bytes: d, m, 32 high bits, nibbles; code * d + m."""
    for n in range(out.size // 32):
        d, m, q = half_at(data, 24 * n), half_at(data, 24 * n + 2), load_bytes16(data, 24 * n + 8)
        store(out, 32 * n, to_float(q & 15 | _bits_at(data, 24 * n + 4) << 4) * d + m)
        store(out, 32 * n + 16, to_float(q >> 4 | _bits_at(data, 24 * n + 6) << 4) * d + m)


@kernel(BYTES, OUT_FLOATS)
def decode_q8_0(data: Bytes, out: Floats) -> None:
    """34 bytes: d, 32 signed codes; code * d."""
    for n in range(out.size // 32):
        d = half_at(data, 34 * n)
        store(out, 32 * n, to_float(load_chars16(data, 34 * n + 2)) * d)
        store(out, 32 * n + 16, to_float(load_chars16(data, 34 * n + 18)) * d)


@kernel(BYTES, OUT_FLOATS)
def decode_q2_k(data: Bytes, out: Floats) -> None:
    """84 bytes: 16 of scale and minimum nibbles, 64 of pairs of bits, d, dmin."""
    for n in range(out.size // 256):
        at = 84 * n
        d, dmin = half_at(data, at + 80), half_at(data, at + 82)
        for half in range(2):
            for i in range(2):
                q = load_bytes16(data, at + 16 + 32 * half + 16 * i)
                for j in range(4):
                    scale = int(data[at + 8 * half + 2 * j + i])
                    step, low = d * _F(scale & 15), dmin * _F(scale >> 4)
                    store(out, 256 * n + 128 * half + 32 * j + 16 * i, to_float(q >> 2 * j & 3) * step - low)


@kernel(BYTES, OUT_FLOATS)
def decode_q3_k(data: Bytes, out: Floats) -> None:
    """110 bytes: 32 of high bits, 64 of low pairs, 12 of 6-bit scales, d; a clear high bit takes 4 away."""
    for n in range(out.size // 256):
        at = 110 * n
        d = half_at(data, at + 108)
        for i in range(2):
            high = load_bytes16(data, at + 16 * i)
            for half in range(2):
                q = load_bytes16(data, at + 32 + 32 * half + 16 * i)
                for j in range(4):
                    group = 8 * half + 2 * j + i
                    low = int(data[at + 96 + group % 8]) >> 4 * half & 15
                    scale = low | (int(data[at + 104 + group % 4]) >> 2 * (group // 4) & 3) << 4
                    code = (q >> 2 * j & 3 | (high >> 4 * half + j & 1) << 2) - 4
                    store(out, 256 * n + 16 * group, to_float(code) * (d * _F(scale - 32)))


@inlined
def six_bit_scale(data: Bytes, at: int, k: int) -> int:
    """Scale k of the 12 bytes of packed scales; the minimum of k is that of k + 8."""
    if k < 4:
        return int(data[at + k]) & 63
    if k < 8:
        return int(data[at + k + 4]) & 15 | int(data[at + k - 4]) >> 6 << 4
    if k < 12:
        return int(data[at + k - 4]) & 63
    return int(data[at + k - 4]) >> 4 | int(data[at + k - 8]) >> 6 << 4


@kernel(BYTES, OUT_FLOATS)
def decode_q4_k(data: Bytes, out: Floats) -> None:
    """144 bytes: d, dmin, 12 of 6-bit scales and minima, nibbles; code * scale - minimum."""
    for n in range(out.size // 256):
        at = 144 * n
        d, dmin = half_at(data, at), half_at(data, at + 2)
        for pair in range(4):
            d1 = d * _F(six_bit_scale(data, at + 4, 2 * pair))
            d2 = d * _F(six_bit_scale(data, at + 4, 2 * pair + 1))
            m1 = dmin * _F(six_bit_scale(data, at + 4, 2 * pair + 8))
            m2 = dmin * _F(six_bit_scale(data, at + 4, 2 * pair + 9))
            for i in range(0, 32, 16):
                q = load_bytes16(data, at + 16 + 32 * pair + i)
                store(out, 256 * n + 64 * pair + i, to_float(q & 15) * d1 - m1)
                store(out, 256 * n + 64 * pair + 32 + i, to_float(q >> 4) * d2 - m2)


@kernel(BYTES, OUT_FLOATS)
def decode_q5_k(data: Bytes, out: Floats) -> None:
    """176 bytes: as Q4_K, with 32 bytes of high bits before the nibbles."""
    for n in range(out.size // 256):
        at = 176 * n
        d, dmin = half_at(data, at), half_at(data, at + 2)
        for pair in range(4):
            d1 = d * _F(six_bit_scale(data, at + 4, 2 * pair))
            d2 = d * _F(six_bit_scale(data, at + 4, 2 * pair + 1))
            m1 = dmin * _F(six_bit_scale(data, at + 4, 2 * pair + 8))
            m2 = dmin * _F(six_bit_scale(data, at + 4, 2 * pair + 9))
            for i in range(0, 32, 16):
                q, high = load_bytes16(data, at + 48 + 32 * pair + i), load_bytes16(data, at + 16 + i) >> 2 * pair
                store(out, 256 * n + 64 * pair + i, to_float(q & 15 | (high & 1) << 4) * d1 - m1)
                store(out, 256 * n + 64 * pair + 32 + i, to_float(q >> 4 | (high & 2) << 3) * d2 - m2)


@kernel(BYTES, OUT_FLOATS)
def decode_q6_k(data: Bytes, out: Floats) -> None:
    """210 bytes: 128 of low nibbles, 64 of high pairs, 16 signed scales, d; (code - 32) * (d * scale)."""
    for n in range(out.size // 256):
        at = 210 * n
        d = half_at(data, at + 208)
        for half in range(2):
            for i in range(2):
                left, right = (
                    load_bytes16(data, at + 64 * half + 16 * i),
                    load_bytes16(data, at + 64 * half + 32 + 16 * i),
                )
                high = load_bytes16(data, at + 128 + 32 * half + 16 * i)
                place, scales = 256 * n + 128 * half + 16 * i, at + 192 + 8 * half + i
                s1, s2 = d * _F(np.int8(data[scales])), d * _F(np.int8(data[scales + 2]))
                s3, s4 = d * _F(np.int8(data[scales + 4])), d * _F(np.int8(data[scales + 6]))
                store(out, place, to_float((left & 15 | (high & 3) << 4) - 32) * s1)
                store(out, place + 32, to_float((right & 15 | (high & 12) << 2) - 32) * s2)
                store(out, place + 64, to_float((left >> 4 | high & 48) - 32) * s3)
                store(out, place + 96, to_float((right >> 4 | high >> 2 & 48) - 32) * s4)
