"""The types of one scale per 32 values, without an importance matrix: find the range, then round.

Byte-equal to quantize_row_q*_ref of ggml/src/ggml-quants.c. When 1 / d overflows (d subnormal), a product is infinite
or NaN and the reference's conversion to an 8-bit integer makes it 0, as x86 converts; so do we, everywhere.
"""

from __future__ import annotations

import numpy as np

from requant.kernels_cpu._jit import FLOATS, OUT_BYTES, Bytes, Floats, inlined, kernel
from requant.kernels_cpu.ggml_k import put_half
from requant.kernels_cpu.simd import (
    F32x16,
    I32x16,
    fabs,
    first_lane,
    greater,
    largest_lane,
    lesser,
    load16,
    mask_bits,
    round_away,
    smallest_lane,
    splat16,
    store_bytes,
    to_int,
    where,
)

_F = np.float32


@inlined
def _index_of(left: F32x16, right: F32x16, value: np.float32) -> int:
    """Where a value is first found among 32."""
    index = first_lane(left == value)
    return index if index < 16 else 16 + first_lane(right == value)


@inlined
def _extreme(values: Floats, at: int) -> np.float32:
    """The first of the 32 values whose size is largest."""
    left, right = fabs(load16(values, at)), fabs(load16(values, at + 16))
    size = largest_lane(greater(left, right))
    return values[at + _index_of(left, right, size)] if size > 0 else _F(0)


@inlined
def _lowest(values: Floats, at: int) -> np.float32:
    """The first of the 32 values that are smallest: zeros keep their sign."""
    left, right = load16(values, at), load16(values, at + 16)
    return _F(values[at + _index_of(left, right, smallest_lane(lesser(left, right)))])


@inlined
def _range(left: F32x16, right: F32x16, low: np.float32) -> np.float32:
    """Largest minus smallest; +0 where all are zeros, of whatever signs, as where both are the first of them."""
    return largest_lane(greater(left, right)) - low + _F(0)


@inlined
def _inverse(d: np.float32) -> np.float32:
    return _F(1) / d if d != 0 else _F(0)


@inlined
def _byte(x: F32x16) -> I32x16:
    """Towards zero, as x86 converts to an 8-bit integer: what is out of range is 0."""
    return to_int(where(fabs(x) < 128, x, splat16(_F(0))))


@inlined
def put_nibbles(left: I32x16, right: I32x16, out: Bytes, at: int) -> None:
    """The low four bits of 32 codes as 16 bytes."""
    store_bytes(out, at, left & 15 | (right & 15) << 4)


@inlined
def put_high_bits(left: I32x16, right: I32x16, out: Bytes, at: int) -> None:
    """The fifth bits of 32 codes as 4 bytes."""
    bits = mask_bits((left & 16) != 0) | mask_bits((right & 16) != 0) << 16
    for k in range(4):
        out[at + k] = bits >> 8 * k & 255


@kernel(FLOATS, OUT_BYTES)
def encode_q4_0(values: Floats, out: Bytes) -> None:
    """18 bytes: d such that the value of largest size has code 0, which stands for -8 d; 16 of nibbles."""
    for n in range(values.size // 32):
        d = _extreme(values, 32 * n) / _F(-8)
        put_half(out, 18 * n, d)
        inverse = _inverse(d)
        left = _byte(load16(values, 32 * n) * inverse + _F(8.5))
        right = _byte(load16(values, 32 * n + 16) * inverse + _F(8.5))
        put_nibbles(lesser(left, 15), lesser(right, 15), out, 18 * n + 2)


@kernel(FLOATS, OUT_BYTES)
def encode_q4_1(values: Floats, out: Bytes) -> None:
    """20 bytes: d, the minimum, 16 of nibbles."""
    for n in range(values.size // 32):
        x, y = load16(values, 32 * n), load16(values, 32 * n + 16)
        low = _lowest(values, 32 * n)
        d = _range(x, y, low) / _F(15)
        put_half(out, 20 * n, d)
        put_half(out, 20 * n + 2, low)
        inverse = _inverse(d)
        left, right = _byte((x - low) * inverse + _F(0.5)), _byte((y - low) * inverse + _F(0.5))
        put_nibbles(lesser(left, 15), lesser(right, 15), out, 20 * n + 4)


@kernel(FLOATS, OUT_BYTES)
def encode_q5_0(values: Floats, out: Bytes) -> None:
    """22 bytes: d such that the value of largest size has code 0, 32 high bits, 16 of nibbles."""
    for n in range(values.size // 32):
        d = _extreme(values, 32 * n) / _F(-16)
        put_half(out, 22 * n, d)
        inverse = _inverse(d)
        left = lesser(_byte(load16(values, 32 * n) * inverse + _F(16.5)), 31)
        right = lesser(_byte(load16(values, 32 * n + 16) * inverse + _F(16.5)), 31)
        put_high_bits(left, right, out, 22 * n + 2)
        put_nibbles(left, right, out, 22 * n + 6)


@kernel(FLOATS, OUT_BYTES)
def encode_q5_1(values: Floats, out: Bytes) -> None:
    """24 bytes: d, the minimum, 32 high bits, 16 of nibbles."""
    for n in range(values.size // 32):
        x, y = load16(values, 32 * n), load16(values, 32 * n + 16)
        low = _lowest(values, 32 * n)
        d = _range(x, y, low) / _F(31)
        put_half(out, 24 * n, d)
        put_half(out, 24 * n + 2, low)
        inverse = _inverse(d)
        left, right = _byte((x - low) * inverse + _F(0.5)), _byte((y - low) * inverse + _F(0.5))
        put_high_bits(left, right, out, 24 * n + 4)
        put_nibbles(left, right, out, 24 * n + 8)


@kernel(FLOATS, OUT_BYTES)
def encode_q8_0(values: Floats, out: Bytes) -> None:
    """34 bytes: d, 32 signed codes, rounded half away from zero."""
    for n in range(values.size // 32):
        x, y = load16(values, 32 * n), load16(values, 32 * n + 16)
        d = largest_lane(greater(fabs(x), fabs(y))) / _F(127)
        put_half(out, 34 * n, d)
        inverse = _inverse(d)
        store_bytes(out, 34 * n + 2, _byte(round_away(x * inverse)))
        store_bytes(out, 34 * n + 18, _byte(round_away(y * inverse)))
