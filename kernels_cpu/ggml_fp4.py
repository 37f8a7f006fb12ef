"""MXFP4 and NVFP4: 4-bit floats (E2M1) under a scale that is a power of two or an 8-bit float.

Source: ggml/src/ggml-quants.c, ggml-impl.h. ggml's levels are twice the E2M1 values, its scales half of what is stored.
The reference takes the level of least error, the first of several: the lower magnitude at a midpoint, never minus zero.
The differences it compares are exact wherever that matters, so comparing with the midpoints is the same, except
where `_by_errors` repeats what it does: in an NVFP4 group 2**18 times larger than its scale (448 at most) differences
are all alike and the first level wins; in an MXFP4 block close to the largest float the upper levels are infinite.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu._jit import BYTES, FLOATS, OUT_BYTES, OUT_FLOATS, Bytes, Floats, inlined, kernel
from requant.kernels_cpu.simd import (
    F32x8,
    I32x8,
    fabs,
    greater,
    largest_lane,
    lesser,
    load,
    load_bytes,
    splat_int,
    store,
    store_bytes,
    value_bits,
    where,
)
from requant.kernels_cpu.simd_lookup import permute

_F = np.float32

_LEVELS: Final = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], _F)
_MIDDLES: Final = tuple(_F(v) for v in (0.5, 1.5, 2.5, 3.5, 5, 7, 10))
_HUGE: Final = _F(2**18)

#: Half the value of every E8M0 byte, 2**(byte - 128), as ggml's `ggml_e8m0_to_fp32_half`.
_E8M0: Final = np.array([2.0 ** (byte - 128) for byte in range(256)], _F)


def _ue4m3() -> NDArray[np.float32]:
    """Half the value of every unsigned E4M3 byte; the sign bit is ignored, 0x7F counts as zero (but 0xFF does not)."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    value = np.where(exponent == 0, mantissa / 512, (1 + mantissa / 8) * 2.0 ** (exponent - 7)) / 2
    value[0x7F] = 0
    return value.astype(_F)


_UE4M3: Final = _ue4m3()


@inlined
def _code(x: F32x8, d: np.float32) -> I32x8:
    """The level nearest to x / d in every lane."""
    size, code = fabs(x), splat_int(0)
    for i in range(7):
        code = where(size > _MIDDLES[i] * d, i + 1, code)
    return where((x < _F(0)) & (code > 0), code | 8, code)


@inlined
def _exponent(amax: np.float32) -> int:
    """floorf(log2f(amax)) of a positive number: log2f rounds up to a whole number just below a power of two."""
    number = value_bits(amax)
    if number < 0x00800000 or number & 0x7FFFFF > 0x7FFF00:
        return int(np.floor(_F(np.log2(np.float64(amax)))))
    return (number >> 23) - 127


@inlined
def _capped(code: I32x8, top: int) -> I32x8:
    """The code with its size at most `top`, its sign kept."""
    return lesser(code & 7, top) | code & 8


@inlined
def _by_errors(values: Floats, start: int, half: int, d: np.float32, out: Bytes, place: int) -> None:
    """Nibbles of 2 * half values by comparing the errors of all levels one after another."""
    for i in range(half):
        out[place + i] = 0
    for i in range(2 * half):
        best, code = abs(values[start + i]), 0
        for level in range(1, 16):
            error = abs(_LEVELS[level] * d - values[start + i])
            if error < best:
                best, code = error, level
        out[place + i % half] |= code << 4 * (i // half)


@kernel(FLOATS, OUT_BYTES)
def encode_mxfp4(values: Floats, out: Bytes) -> None:
    """Blocks of 32 values to 17 bytes: an exponent, then nibbles.

    Where the largest value is below 2**-125 the reference converts a negative number to uint8, which C leaves
    undefined. We do as x86-64 does: the exponent wraps around, all codes are 0, and so are the decoded values.
    """
    for n in range(values.size // 32):
        start, place = 32 * n, 17 * n
        a, b = load(values, start), load(values, start + 8)
        c, d = load(values, start + 16), load(values, start + 24)
        amax = largest_lane(greater(greater(fabs(a), fabs(b)), greater(fabs(c), fabs(d))))
        exponent = _exponent(amax) + 125 & 255 if amax > 0 else 0
        out[place] = exponent
        scale = _E8M0[exponent]
        if exponent > 252:
            _by_errors(values, start, 16, scale, out, place + 1)
            continue
        # next to 2**128 the logarithm rounds up: 8 and 12 steps are infinite there, so 6 steps (code 5) are nearest
        top = 5 if exponent == 253 else 7
        store_bytes(out, place + 1, _capped(_code(a, scale), top) | _capped(_code(c, scale), top) << 4)
        store_bytes(out, place + 9, _capped(_code(b, scale), top) | _capped(_code(d, scale), top) << 4)


@inlined
def _to_ue4m3(x: np.float32) -> int:
    """The unsigned E4M3 byte of the reference: halves go up, and everything from 248 on becomes 448."""
    if not x > 0:
        return 0
    number = value_bits(min(x, _F(448)))
    exponent = (number >> 23 & 255) - 120
    if exponent <= 0:
        return min(7, int(x * _F(512) + _F(0.5)))
    rounded = (exponent << 3 | (number >> 20 & 7)) + (number >> 19 & 1)
    return 0x7E if rounded >= 15 << 3 else rounded


@kernel(FLOATS, OUT_BYTES)
def encode_nvfp4(values: Floats, out: Bytes) -> None:
    """Blocks of 64 values to 36 bytes: four scales of sixteen values each, then nibbles."""
    for n in range(values.size // 64):
        for k in range(4):
            start, place = 64 * n + 16 * k, 36 * n + 4 + 8 * k
            low, high = load(values, start), load(values, start + 8)
            amax = largest_lane(greater(fabs(low), fabs(high)))
            scale = _to_ue4m3(amax / _F(6))
            out[36 * n + k] = scale
            d = _UE4M3[scale]
            if d == 0:
                store_bytes(out, place, splat_int(0))
            elif amax > _HUGE * d:
                _by_errors(values, start, 8, d, out, place)
            else:
                store_bytes(out, place, _code(low, d) | _code(high, d) << 4)


@inlined
def _spread(blocks: Bytes, start: int, d: np.float32, out: Floats, place: int, half: int) -> None:
    """Eight bytes of nibbles to eight values at `place` and eight at `place + half`."""
    low, high = load(_LEVELS, 0), load(_LEVELS, 8)
    pair = load_bytes(blocks, start)
    first, second = pair & 15, pair >> 4
    store(out, place, where(first < 8, permute(low, first), permute(high, first)) * d)
    store(out, place + half, where(second < 8, permute(low, second), permute(high, second)) * d)


@kernel(BYTES, OUT_FLOATS)
def decode_mxfp4(blocks: Bytes, out: Floats) -> None:
    """Blocks of 17 bytes to 32 values."""
    for n in range(blocks.size // 17):
        d = _E8M0[blocks[17 * n]]
        _spread(blocks, 17 * n + 1, d, out, 32 * n, 16)
        _spread(blocks, 17 * n + 9, d, out, 32 * n + 8, 16)


@kernel(BYTES, OUT_FLOATS)
def decode_nvfp4(blocks: Bytes, out: Floats) -> None:
    """Blocks of 36 bytes to 64 values."""
    for n in range(blocks.size // 36):
        for k in range(4):
            _spread(blocks, 36 * n + 4 + 8 * k, _UE4M3[blocks[36 * n + k]], out, 64 * n + 16 * k, 8)


@kernel(BYTES, FLOATS, OUT_FLOATS)
def decode_nvfp4_times(blocks: Bytes, whole: Floats, out: Floats) -> None:
    """The same times one more scale. Scales are multiplied first, as everything does that has two of them."""
    for n in range(blocks.size // 36):
        for k in range(4):
            scale = _UE4M3[blocks[36 * n + k]] * whole[0]
            _spread(blocks, 36 * n + 4 + 8 * k, scale, out, 64 * n + 16 * k, 8)
