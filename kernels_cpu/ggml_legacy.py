"""The types of one scale per 32 values, without an importance matrix: find the range, then round.

Byte-equal to quantize_row_q*_ref of ggml/src/ggml-quants.c. When 1 / d overflows (d subnormal), a product is infinite
or NaN and the reference's conversion to an 8-bit integer makes it 0, as x86 converts; so do we, everywhere.

The ranges of sixteen blocks are found together, and their scales are lanes. The few blocks where more matters than the
smallest and largest value (which of two of the same size comes first, or which sign a smallest zero has) are encoded
once more, on their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import FLOATS, OUT_BYTES, Bytes, Floats, Ints, inlined, kernel, spliced
from requant.kernels_cpu.room import room
from requant.kernels_cpu.simd import (
    F32x16,
    I32x16,
    bits_of_halves,
    fabs,
    first_lane,
    greater,
    half_bits,
    largest_lane,
    lesser,
    load16,
    mask_bits,
    number,
    prefetch,
    round_away,
    smallest_lane,
    splat16,
    store,
    store_bytes,
    store_ints,
    to_int,
    where,
)
from requant.kernels_cpu.simd_lookup import lowest_bit
from requant.kernels_cpu.simd_rows import extremes_of_rows

_F = np.float32
#: How many values ahead memory is asked for: what waits for it would fill what a processor holds of later work.
_AHEAD: Final = 2048


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
def _range(values: Floats, at: int) -> Any:
    """The first of the 32 values that are smallest, as zeros keep their sign, and how far the largest is from it.

    That is +0 where all are zeros, of whatever signs, as where both are the first of them.
    """
    left, right = load16(values, at), load16(values, at + 16)
    low = _F(values[at + _index_of(left, right, smallest_lane(lesser(left, right)))])
    return low, largest_lane(greater(left, right)) - low + _F(0)


@spliced
def _byte(x: F32x16) -> I32x16:
    """Towards zero, as x86 converts to an 8-bit integer: what is out of range is 0."""
    return to_int(where(fabs(x) < 128, x, splat16(_F(0))))


@spliced
def put_word(out: Bytes, at: int, word: int) -> None:
    """Store 16 bits."""
    out[at], out[at + 1] = word & 255, word >> 8


@spliced
def put_nibbles(left: I32x16, right: I32x16, out: Bytes, at: int) -> None:
    """The low four bits of 32 codes as 16 bytes."""
    store_bytes(out, at, left & 15 | (right & 15) << 4)


@spliced
def put_high_bits(left: I32x16, right: I32x16, out: Bytes, at: int) -> None:
    """The fifth bits of 32 codes as 4 bytes."""
    bits = mask_bits((left & 16) != 0) | mask_bits((right & 16) != 0) << 16
    for k in range(4):
        out[at + k] = bits >> 8 * k & 255


def _encoding(find: Callable[..., int], find_one: Callable[..., None], put: Callable[..., None]) -> Callable[..., None]:
    """Makes an encoder.

    find: (values, first, halves, numbers) -> int, of sixteen blocks d and the minimum as halves (from 0 and 16 on), and
    1 / d and the minimum (the same); the result has a bit for each block that `find_one`, which puts the same of one
    block in the first places, must look at. put: (values, n, halves, numbers, k, out) -> None, from place k of those.
    """

    @inlined
    def encode(values: Floats, out: Bytes) -> None:
        halves, numbers = room(32, np.int32), room(32, np.float32)
        blocks = values.size // 32
        for first in range(0, blocks - 15, 16):
            doubts = find(values, first, halves, numbers)
            for k in range(16):
                prefetch(values, 32 * (first + k) + _AHEAD)
                prefetch(values, 32 * (first + k) + _AHEAD + 16)
                put(values, first + k, halves, numbers, k, out)
            while doubts:
                n = first + lowest_bit(doubts)
                doubts &= doubts - 1
                find_one(values, n, halves, numbers)
                put(values, n, halves, numbers, 0, out)
        for n in range(blocks // 16 * 16, blocks):
            find_one(values, n, halves, numbers)
            put(values, n, halves, numbers, 0, out)

    return encode


@spliced
def _put_scales(d: F32x16, halves: Ints, numbers: Floats) -> None:
    store_ints(halves, 0, bits_of_halves(d))
    store(numbers, 0, where(d != _F(0), 1 / d, _F(0)))


@spliced
def _put_scale(d: np.float32, halves: Ints, numbers: Floats) -> None:
    halves[0] = half_bits(d)
    numbers[0] = _F(1) / d if d != 0 else _F(0)


def _by_size(top: int, put: Callable[..., None]) -> Callable[..., None]:
    """Makes the encoder of a type whose scale d gives the value of largest size, -top * d, the code 0."""

    @spliced
    def find(values: Floats, first: int, halves: Ints, numbers: Floats) -> int:
        low, high = extremes_of_rows(values, 32 * first)
        both = high + low
        _put_scales((where(both > _F(0), high, low) + _F(0)) / splat16(_F(-top)), halves, numbers)
        return mask_bits((both == _F(0)) & (low != _F(0)))

    @inlined
    def find_one(values: Floats, n: int, halves: Ints, numbers: Floats) -> None:
        _put_scale(_extreme(values, 32 * n) / _F(-top), halves, numbers)

    return _encoding(find, find_one, put)


def _by_range(top: int, put: Callable[..., None]) -> Callable[..., None]:
    """Makes the encoder of a type whose scale d and minimum give the smallest value the code 0, the largest `top`."""

    @spliced
    def find(values: Floats, first: int, halves: Ints, numbers: Floats) -> int:
        low, high = extremes_of_rows(values, 32 * first)
        _put_scales((high - low + _F(0)) / splat16(_F(top)), halves, numbers)
        store_ints(halves, 16, bits_of_halves(low))
        store(numbers, 16, low)
        return mask_bits(low == _F(0))

    @inlined
    def find_one(values: Floats, n: int, halves: Ints, numbers: Floats) -> None:
        low, spread = _range(values, 32 * n)
        _put_scale(spread / _F(top), halves, numbers)
        halves[16], numbers[16] = half_bits(low), low

    return _encoding(find, find_one, put)


@spliced
def _find_sizes(values: Floats, first: int, halves: Ints, numbers: Floats) -> int:
    low, high = extremes_of_rows(values, 32 * first)
    _put_scales(greater(high, _F(0) - low) / splat16(_F(127)), halves, numbers)
    return 0


@inlined
def _find_size(values: Floats, n: int, halves: Ints, numbers: Floats) -> None:
    size = largest_lane(greater(fabs(load16(values, 32 * n)), fabs(load16(values, 32 * n + 16))))
    _put_scale(size / _F(127), halves, numbers)


@spliced
def _codes_by_size(values: Floats, n: int, inverse: np.float32, middle: np.float32, top: int) -> Any:
    left, right = load16(values, 32 * n), load16(values, 32 * n + 16)
    return lesser(_byte(left * inverse + middle), top), lesser(_byte(right * inverse + middle), top)


@spliced
def _codes_by_range(values: Floats, n: int, numbers: Floats, k: int) -> Any:
    inverse, low = numbers[k], numbers[k + 16]
    left, right = load16(values, 32 * n) - low, load16(values, 32 * n + 16) - low
    return _byte(left * inverse + _F(0.5)), _byte(right * inverse + _F(0.5))


@spliced
def _put_q4_0(values: Floats, n: int, halves: Ints, numbers: Floats, k: int, out: Bytes) -> None:
    left, right = _codes_by_size(values, n, numbers[k], _F(8.5), 15)
    put_word(out, 18 * n, number(halves, k))
    put_nibbles(left, right, out, 18 * n + 2)


@spliced
def _put_q5_0(values: Floats, n: int, halves: Ints, numbers: Floats, k: int, out: Bytes) -> None:
    left, right = _codes_by_size(values, n, numbers[k], _F(16.5), 31)
    put_word(out, 22 * n, number(halves, k))
    put_high_bits(left, right, out, 22 * n + 2)
    put_nibbles(left, right, out, 22 * n + 6)


@spliced
def _put_q4_1(values: Floats, n: int, halves: Ints, numbers: Floats, k: int, out: Bytes) -> None:
    left, right = _codes_by_range(values, n, numbers, k)
    put_word(out, 20 * n, number(halves, k))
    put_word(out, 20 * n + 2, number(halves, k + 16))
    put_nibbles(lesser(left, 15), lesser(right, 15), out, 20 * n + 4)


@spliced
def _put_q5_1(values: Floats, n: int, halves: Ints, numbers: Floats, k: int, out: Bytes) -> None:
    left, right = _codes_by_range(values, n, numbers, k)
    put_word(out, 24 * n, number(halves, k))
    put_word(out, 24 * n + 2, number(halves, k + 16))
    put_high_bits(left, right, out, 24 * n + 4)
    put_nibbles(left, right, out, 24 * n + 8)


@spliced
def _put_q8_0(values: Floats, n: int, halves: Ints, numbers: Floats, k: int, out: Bytes) -> None:
    put_word(out, 34 * n, number(halves, k))
    for half in range(2):
        x = load16(values, 32 * n + 16 * half) * numbers[k]
        store_bytes(out, 34 * n + 2 + 16 * half, _byte(round_away(x)))


_encode_q4_0: Final = _by_size(8, _put_q4_0)
_encode_q5_0: Final = _by_size(16, _put_q5_0)
_encode_q4_1: Final = _by_range(15, _put_q4_1)
_encode_q5_1: Final = _by_range(31, _put_q5_1)
_encode_q8_0: Final = _encoding(_find_sizes, _find_size, _put_q8_0)


@kernel(FLOATS, OUT_BYTES)
def encode_q4_0(values: Floats, out: Bytes) -> None:
    """18 bytes: d such that the value of largest size has code 0, which stands for -8 d; 16 of nibbles."""
    _encode_q4_0(values, out)


@kernel(FLOATS, OUT_BYTES)
def encode_q4_1(values: Floats, out: Bytes) -> None:
    """20 bytes: d, the minimum, 16 of nibbles."""
    _encode_q4_1(values, out)


@kernel(FLOATS, OUT_BYTES)
def encode_q5_0(values: Floats, out: Bytes) -> None:
    """22 bytes: d such that the value of largest size has code 0, 32 high bits, 16 of nibbles."""
    _encode_q5_0(values, out)


@kernel(FLOATS, OUT_BYTES)
def encode_q5_1(values: Floats, out: Bytes) -> None:
    """24 bytes: d, the minimum, 32 high bits, 16 of nibbles."""
    _encode_q5_1(values, out)


@kernel(FLOATS, OUT_BYTES)
def encode_q8_0(values: Floats, out: Bytes) -> None:
    """34 bytes: d, 32 signed codes, rounded half away from zero."""
    _encode_q8_0(values, out)
