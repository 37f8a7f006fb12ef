"""Small floats and integers times scales, to float32 and back; layouts: `requant.encodings.scaled`.

Elements are expanded sixteen at a time: an 8-bit float is a float32 whose exponent is off by a constant. Codes of four
and six bits are looked up, two or four at once. Scales come as float32, one row of groups for each row of values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from requant.kernels_cpu._jit import (
    BYTES,
    FLOATS,
    NUMBER,
    OUT_BYTES,
    OUT_FLOATS,
    Bytes,
    Floats,
    inlined,
    kernel,
)
from requant.kernels_cpu.dense import E2M1, small_float_table
from requant.kernels_cpu.simd import (
    F32x16,
    I32x16,
    bits_float,
    fabs,
    float_bits,
    greater,
    largest_lane,
    load16,
    load_bytes16,
    splat16,
    splat_int16,
    store,
    store_bytes,
    to_float,
    where,
)

_F = np.float32
#: The values of E2M3 by code; bit 5 is the sign.
_E2M3_SIZES: Final = [m / 8 for m in range(8)] + [(1 + m / 8) * 2**e for e in range(3) for m in range(8)]
E2M3: Final = np.array([*_E2M3_SIZES, *(-size for size in _E2M3_SIZES)], _F)
#: The values of MXINT4 by code.
_QUARTERS: Final = np.array([*(m / 4 for m in range(8)), *(-m / 4 for m in range(8))], _F)
#: For each byte, the two E2M1 values in it as one 64-bit number, the low nibble first in memory.
_PAIRS: Final = np.stack([E2M1[np.arange(256) & 15], E2M1[np.arange(256) >> 4]], -1).reshape(-1).view(np.uint64)
#: The values of 8-bit codes, for what is left over at the end of a group.
_E4M3: Final = small_float_table("F8_E4M3")
_E5M2: Final = small_float_table("F8_E5M2")
_INT8: Final = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)


@inlined
def _e4m3(code: I32x16) -> F32x16:
    """E4M3 without infinities; 0x7F is NaN."""
    size = code & 127
    normal = bits_float((size << 20) + 0x3C000000)
    value = where(size < 8, to_float(size) * _F(2.0**-9), normal)
    value = where(size == 127, splat16(_F(np.nan)), value)
    return bits_float(float_bits(value) | (code & 128) << 24)


@inlined
def _e5m2(code: I32x16) -> F32x16:
    """E5M2: the upper half of an IEEE half."""
    size = code & 127
    normal = bits_float((size << 21) + 0x38000000)
    value = where(size < 4, to_float(size) * _F(2.0**-16), normal)
    value = where(size >= 124, bits_float((size << 21 & 0x7FFFFF) | 0x7F800000), value)
    return bits_float(float_bits(value) | (code & 128) << 24)


@inlined
def _int8(code: I32x16) -> F32x16:
    """Bytes with a sign."""
    return to_float((code ^ 128) - 128)


def _decoder(values: Callable[[I32x16], F32x16], table: Floats) -> Callable[..., None]:
    """A piece for elements of one kind; `table` has the same values, for what is left over in a group."""

    def decode(codes: Bytes, scales: Floats, zeros: Floats, columns: int, group: int, out: Floats) -> None:
        groups = (columns + group - 1) // group
        for row in range(out.size // columns):
            for k in range(groups):
                scale, zero = scales[row * groups + k], zeros[row * groups + k]
                first, last = row * columns + k * group, row * columns + min((k + 1) * group, columns)
                for i in range(first, last - 15, 16):
                    store(out, i, (values(load_bytes16(codes, i)) - zero) * scale)
                for i in range(last - (last - first) % 16, last):
                    out[i] = (table[codes[i]] - zero) * scale

    return inlined(decode)


_from_e4m3: Final = _decoder(_e4m3, _E4M3)
_from_e5m2: Final = _decoder(_e5m2, _E5M2)
_from_int8: Final = _decoder(_int8, _INT8)


@kernel(BYTES, FLOATS, FLOATS, NUMBER, NUMBER, OUT_FLOATS)
def decode_e4m3(codes: Bytes, scales: Floats, zeros: Floats, columns: int, group: int, out: Floats) -> None:
    """(E4M3 - zero) * scale."""
    _from_e4m3(codes, scales, zeros, columns, group, out)


@kernel(BYTES, FLOATS, FLOATS, NUMBER, NUMBER, OUT_FLOATS)
def decode_e5m2(codes: Bytes, scales: Floats, zeros: Floats, columns: int, group: int, out: Floats) -> None:
    """(E5M2 - zero) * scale."""
    _from_e5m2(codes, scales, zeros, columns, group, out)


@kernel(BYTES, FLOATS, FLOATS, NUMBER, NUMBER, OUT_FLOATS)
def decode_int8(codes: Bytes, scales: Floats, zeros: Floats, columns: int, group: int, out: Floats) -> None:
    """(int8 - zero) * scale."""
    _from_int8(codes, scales, zeros, columns, group, out)


@kernel(BYTES, FLOATS, FLOATS, FLOATS, NUMBER, NUMBER, OUT_FLOATS)
def decode_table(
    codes: Bytes, table: Floats, scales: Floats, zeros: Floats, columns: int, group: int, out: Floats
) -> None:
    """(table[code] - zero) * scale."""
    groups = (columns + group - 1) // group
    for row in range(out.size // columns):
        for k in range(groups):
            scale, zero = scales[row * groups + k], zeros[row * groups + k]
            for i in range(row * columns + k * group, row * columns + min((k + 1) * group, columns)):
                out[i] = (table[codes[i]] - zero) * scale


@kernel(BYTES, FLOATS, NUMBER, OUT_FLOATS)
def decode_e2m1(codes: Bytes, scales: Floats, group: int, out: Floats) -> None:
    """E2M1 * scale, two codes in a byte, the first in the low bits; groups are whole numbers of 16 values."""
    pairs = np.empty(256, np.uint64)
    for code in range(256):
        pairs[code] = _PAIRS[code]
    spread = np.empty(group // 2, np.uint64)
    values = spread.view(np.float32)
    half = group // 2
    for k in range(scales.size):
        for i in range(half):
            spread[i] = pairs[codes[k * half + i]]
        for i in range(0, group, 16):
            store(out, k * group + i, load16(values, i) * scales[k])


@kernel(BYTES, FLOATS, NUMBER, OUT_FLOATS)
def decode_quarters(codes: Bytes, scales: Floats, group: int, out: Floats) -> None:
    """MXINT4: a sign (bit 3) and quarters, times scale; two codes in a byte, the first in the low bits."""
    for k in range(scales.size):
        for i in range(group // 2):
            at, byte = k * group + 2 * i, codes[k * group // 2 + i]
            out[at] = _QUARTERS[byte & 15] * scales[k]
            out[at + 1] = _QUARTERS[byte >> 4] * scales[k]


@kernel(BYTES, FLOATS, NUMBER, OUT_FLOATS)
def decode_e2m3(codes: Bytes, scales: Floats, group: int, out: Floats) -> None:
    """E2M3 * scale, four codes in three bytes, the first in the lowest bits."""
    for k in range(scales.size):
        for i in range(group // 4):
            at, place = (k * group // 4 + i) * 3, k * group + 4 * i
            word = np.uint32(codes[at]) | np.uint32(codes[at + 1]) << 8 | np.uint32(codes[at + 2]) << 16
            for j in range(4):
                out[place + j] = E2M3[word >> np.uint32(6 * j) & np.uint32(63)] * scales[k]


@kernel(FLOATS, FLOATS, NUMBER, NUMBER, OUT_FLOATS)
def divide_groups(values: Floats, scales: Floats, columns: int, group: int, out: Floats) -> None:
    """value / scale, one row of groups of scales for each row of values; 0 where the scale is 0."""
    groups = (columns + group - 1) // group
    for row in range(values.size // columns):
        for k in range(groups):
            scale = scales[row * groups + k]
            for i in range(row * columns + k * group, row * columns + min((k + 1) * group, columns)):
                out[i] = values[i] / scale if scale != 0 else _F(0)


@kernel(FLOATS, NUMBER, NUMBER, OUT_FLOATS)
def largest_sizes(values: Floats, columns: int, group: int, out: Floats) -> None:
    """The largest size in each group of each row."""
    groups = (columns + group - 1) // group
    for row in range(values.size // columns):
        for k in range(groups):
            first, last = row * columns + k * group, row * columns + min((k + 1) * group, columns)
            most = splat16(_F(0))
            for i in range(first, last - 15, 16):
                most = greater(most, fabs(load16(values, i)))
            size = largest_lane(most)
            for i in range(last - (last - first) % 16, last):
                size = max(size, abs(values[i]))
            out[row * groups + k] = size


@inlined
def _e2m1_code(x: F32x16) -> I32x16:
    """The code of the nearest E2M1 value, ties to the even code; what rounds to zero is plus zero."""
    size = fabs(x)
    code = splat_int16(0)
    code = where(size > _F(0.25), code + 1, code)
    code = where(size >= _F(0.75), code + 1, code)
    code = where(size > _F(1.25), code + 1, code)
    code = where(size >= _F(1.75), code + 1, code)
    code = where(size > _F(2.5), code + 1, code)
    code = where(size >= _F(3.5), code + 1, code)
    code = where(size > _F(5), code + 1, code)
    return where((x < _F(0)) & (code > 0), code | 8, code)


@inlined
def _e2m1_size(code: I32x16) -> F32x16:
    """The value of a code, without its sign."""
    size = code & 7
    return where(size < 2, to_float(size) * _F(0.5), bits_float((size << 22) + 0x3F000000))


@inlined
def _e2m1_error(values: Floats, weights: Floats, at: int, place: int, group: int, scale: np.float32) -> Any:
    """What rounding a group under this scale costs."""
    total = splat16(_F(0))
    for i in range(0, group, 16):
        x = load16(values, at + i)
        miss = fabs(x) - _e2m1_size(_e2m1_code(x / scale)) * scale
        total = total + load16(weights, place + i) * miss * miss
    lanes = np.empty(16, np.float32)
    store(lanes, 0, total)
    cost = _F(0)
    for i in range(16):
        cost += lanes[i]
    return cost


@kernel(FLOATS, FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, OUT_BYTES, OUT_BYTES)
def encode_e2m1(
    values: Floats,
    weights: Floats,
    table: Floats,
    columns: int,
    repeat: int,
    group: int,
    below: int,
    above: int,
    neutral: int,
    scales: Bytes,
    codes: Bytes,
) -> None:
    """Groups of values to codes under the scale of least weighted squared error.

    weights: of one row (`repeat` is 1) or of every row. table: the scale of each byte, ascending. Tried are `below`
    bytes under and `above` bytes over the first one that reaches the largest value. neutral: the byte of a group of
    zeros.
    """
    lanes = np.empty(16, np.uint8)
    for k in range(scales.size):
        at = k * group
        place = at % columns if repeat == 1 else at
        most = splat16(_F(0))
        for i in range(0, group, 16):
            most = greater(most, fabs(load16(values, at + i)))
        ideal = largest_lane(most) / _F(6)
        best = neutral
        if ideal > 0:
            first = min(int(np.searchsorted(table, ideal)), table.size - 1)
            lowest, least = max(first - below, 0), _F(np.inf)
            for byte in range(lowest, min(first + above, table.size - 1) + 1):
                if table[byte] > 0:
                    cost = _e2m1_error(values, weights, at, place, group, table[byte])
                    if cost < least:
                        least, best = cost, byte
        scales[k] = best
        for i in range(0, group, 16):
            store_bytes(lanes, 0, _e2m1_code(load16(values, at + i) / table[best]))
            for j in range(8):
                codes[(at + i) // 2 + j] = lanes[2 * j] | lanes[2 * j + 1] << 4
