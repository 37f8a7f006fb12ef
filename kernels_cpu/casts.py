"""Casts between float32 and the other floating-point types, at the memory's speed.

Every kernel here takes at least sixteen values: the last sixteen are done again when their number is no multiple of it.
All round to nearest, ties to even.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np

from requant.kernels_cpu._jit import (
    BYTES,
    DOUBLES,
    FLOATS,
    NUMBER,
    OUT_BYTES,
    OUT_DOUBLES,
    OUT_FLOATS,
    OUT_WORDS,
    WORDS,
    Bytes,
    Doubles,
    Floats,
    Words,
    kernel,
    spliced,
)
from requant.kernels_cpu.simd import (
    F32x8,
    F32x16,
    I32x8,
    I32x16,
    bits_float,
    fabs,
    float_bits,
    lesser,
    load16,
    load_doubles16,
    load_halves16,
    load_words16,
    splat_int16,
    store,
    store_bytes,
    store_doubles,
    store_halves,
    store_words,
    value_bits,
    where,
)

_F = np.float32


@kernel(WORDS, OUT_FLOATS)
def widen_f16(halves: Words, out: Floats) -> None:
    """IEEE halves, given as their bits."""
    for i in range(0, out.size, 16):
        at = min(i, out.size - 16)
        store(out, at, load_halves16(halves, at))


@kernel(FLOATS, OUT_WORDS)
def narrow_f16(values: Floats, out: Words) -> None:
    """To IEEE halves; beyond 65519.996 to infinity (`checks.beyond` finds such values)."""
    for i in range(0, values.size, 16):
        at = min(i, values.size - 16)
        store_halves(out, at, load16(values, at))


@kernel(WORDS, OUT_FLOATS)
def widen_bf16(words: Words, out: Floats) -> None:
    """bfloat16, given as bits."""
    for i in range(0, out.size, 16):
        at = min(i, out.size - 16)
        store(out, at, bits_float(load_words16(words, at) << 16))


@overload
def bfloat_bits(x: F32x8) -> I32x8: ...
@overload
def bfloat_bits(x: F32x16) -> I32x16: ...
@spliced
def bfloat_bits(x: Any) -> Any:
    """The bfloat16 nearest to each lane, ties to even, as its bits; not for NaN, which could become infinite."""
    bits = float_bits(x)
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16


@kernel(FLOATS, OUT_WORDS)
def narrow_bf16(values: Floats, out: Words) -> None:
    """To bfloat16; a NaN keeps its upper bits and becomes quiet, as in ggml."""
    for i in range(0, values.size, 16):
        at = min(i, values.size - 16)
        x = load16(values, at)
        store_words(out, at, where(x != x, float_bits(x) >> 16 | 64, bfloat_bits(x)))


@kernel(DOUBLES, OUT_FLOATS)
def narrow_f64(values: Doubles, out: Floats) -> None:
    """float64 to float32."""
    for i in range(0, out.size, 16):
        at = min(i, out.size - 16)
        store(out, at, load_doubles16(values, at))


@kernel(FLOATS, OUT_DOUBLES)
def widen_f64(values: Floats, out: Doubles) -> None:
    """float32 to float64."""
    for i in range(0, values.size, 16):
        at = min(i, values.size - 16)
        store_doubles(out, at, load16(values, at))


@kernel(BYTES, FLOATS, OUT_FLOATS)
def look_up(codes: Bytes, table: Floats, out: Floats) -> None:
    """table: the value of each of 256 codes."""
    for i in range(out.size):
        out[i] = table[codes[i]]


@kernel(FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, OUT_BYTES)
def narrow_f8(values: Floats, limits: Floats, mantissa: int, bias: int, nan: int, out: Bytes) -> None:
    """To an 8-bit float with a sign, clamped to the largest value.

    limits: [largest value, smallest normal value, the value whose last bit is worth the smallest subnormal one].
    nan: the code of NaN, to which its sign is added; 0x80 stands for a type without negative zero.
    """
    largest, normal, magic = limits[0], limits[1], limits[2]
    shift = 23 - mantissa
    for i in range(0, values.size, 16):
        at = min(i, values.size - 16)
        x = load16(values, at)
        size, sign = lesser(fabs(x), largest), float_bits(x) >> 24 & 128
        bits = float_bits(size)
        rounded = bits + ((1 << (shift - 1)) - 1) + (bits >> shift & 1) >> shift
        small = float_bits(size + magic) - value_bits(magic)
        code = where(size < normal, small, rounded - (127 - bias << mantissa))
        if nan == 128:
            sign = where(code == 0, splat_int16(0), sign)
        store_bytes(out, at, where(x != x, sign | nan, code | sign))
