"""IQ4_NL and IQ4_XS: sixteen unevenly spaced levels, sixteen sub-blocks at a time.

A sub-block is 32 values and one scale. IQ4_NL is one sub-block in 18 bytes (d as half, 16 bytes of nibbles); IQ4_XS is
eight in 136 bytes (d, two high bits of the eight 6-bit scales, their low nibbles, 128 bytes of nibbles). The search of
the reference tries 16 scales; lane k does for sub-block k what it does, in its order. Sixteen lie transposed: value i
of lane k at `xs[16 * i + k]`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu._jit import BYTES, FLOATS, NUMBER, OUT_BYTES, OUT_FLOATS, Bytes, Floats, inlined, kernel
from requant.kernels_cpu.lattice import nearest_int
from requant.kernels_cpu.room import room
from requant.kernels_cpu.simd import (
    F32x8,
    F32x16,
    I32x16,
    fabs,
    half_bits,
    half_value,
    load,
    load16,
    load_bytes,
    splat16,
    splat_int16,
    sqrt,
    store,
    store_bytes,
    where,
)
from requant.kernels_cpu.simd_lookup import permute
from requant.kernels_cpu.simd_transpose import transpose

_F = np.float32
_SMALLEST: Final = _F(1e-15)

#: The levels (ggml-common.h, kvalues_iq4nl) and the midpoints between them. The reference finds the nearest level by
#: comparing differences; near every midpoint these are exact, so comparing with the midpoint is the same.
LEVELS: Final = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], _F)
_MIDDLES: Final = ((LEVELS[:-1] + LEVELS[1:]) / 2).astype(_F)


@inlined
def _level(x: F32x16) -> F32x16:
    """The level nearest to x, the upper one of two; the highest for NaN."""
    below, above = splat16(LEVELS[7]), splat16(LEVELS[15])
    for i in range(6, -1, -1):
        below = where(x < _MIDDLES[i], LEVELS[i], below)
    for i in range(14, 7, -1):
        above = where(x < _MIDDLES[i], LEVELS[i], above)
    return where(x < _MIDDLES[7], below, above)


@inlined
def _code(x: F32x16) -> I32x16:
    """The index of that level."""
    code = splat_int16(15)
    for i in range(14, -1, -1):
        code = where(x < _MIDDLES[i], i, code)
    return code


@inlined
def _weigh(xs: Floats, ws: Floats, sigma2: F32x16) -> None:
    """Turn the importances in `ws` into weights."""
    for i in range(32):
        x = load16(xs, 16 * i)
        store(ws, 16 * i, load16(ws, 16 * i) * sqrt(sigma2 + x * x))


@inlined
def _search(xs: Floats, ws: Floats) -> F32x16:
    """The best of 16 scales of each lane's 32 values, weighted by `ws`; 0 for a lane that is all but zero."""
    amax, peak = splat16(_F(0)), splat16(_F(0))
    for i in range(32):
        x = load16(xs, 16 * i)
        above = fabs(x) > amax
        amax, peak = where(above, fabs(x), amax), where(above, x, peak)
    scale, best = splat16(_F(0)), splat16(_F(0))
    for candidate in range(-8, 8):
        if candidate == -8:
            inverse = _F(1) / ((splat16(_F(0)) - peak) / LEVELS[0])
        else:
            inverse = splat16(_F(candidate) + LEVELS[0]) / peak
        sum_qx, sum_q2 = splat16(_F(0)), splat16(_F(0))
        for i in range(32):
            x = load16(xs, 16 * i)
            q = _level(inverse * x)
            wq = load16(ws, 16 * i) * q
            sum_qx, sum_q2 = sum_qx + wq * x, sum_q2 + wq * q
        found = sum_qx / sum_q2
        if candidate == -8:
            scale = where(sum_q2 > _F(0), found, _F(0))
            best = scale * sum_qx
        else:
            better = (sum_q2 > _F(0)) & (sum_qx * sum_qx > best * sum_q2)
            scale, best = where(better, found, scale), where(better, found * sum_qx, best)
    return where(amax < _SMALLEST, _F(0), scale)


@inlined
def _pack(codes: Bytes, k: int, out: Bytes, start: int) -> None:
    """Nibbles of lane k: value i low, value i + 16 high."""
    for i in range(16):
        out[start + i] = codes[16 * i + k] | codes[16 * (i + 16) + k] << 4


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_iq4_nl(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Blocks of 32 values to 18 bytes; an empty importance for none."""
    xs, ws, rows, codes = room(512, _F), room(512, _F), room(256, _F), room(512, np.uint8)
    found = room(16, _F)
    blocks = values.size // 32
    for first in range(0, blocks, 16):
        count = min(16, blocks - first)
        for side in range(2):
            _gather(values, 32 * (first + 8 * side), 32 * (count - 8 * side), side, rows, xs)
        if importance.size:
            for side in range(2):
                for k in range(min(8, count - 8 * side)):
                    start = 32 * (first + 8 * side + k) % importance.size
                    for i in range(32):
                        rows[32 * k + i] = importance[start + i]
                _gather(rows, 0, 256, side, rows, ws)
            sigma2 = splat16(_F(0))
            for i in range(32):
                sigma2 = sigma2 + load16(xs, 16 * i) * load16(xs, 16 * i)
            _weigh(xs, ws, sigma2 * _F(2.0 / 32))
        else:
            _square(xs, ws)
        scale = _search(xs, ws)
        inverse = where(scale == _F(0), _F(0), _F(1) / scale)
        for i in range(32):
            store_bytes(codes, 16 * i, _code(inverse * load16(xs, 16 * i)))
        store(found, 0, scale)
        for k in range(count):
            start, d = 18 * (first + k), half_bits(found[k])
            out[start], out[start + 1] = d & 255, d >> 8
            _pack(codes, k, out, start + 2)


@inlined
def _square(xs: Floats, ws: Floats) -> None:
    """The weights where there is no importance."""
    for i in range(32):
        store(ws, 16 * i, load16(xs, 16 * i) * load16(xs, 16 * i))


@inlined
def _gather(values: Floats, start: int, count: int, side: int, rows: Floats, xs: Floats) -> None:
    """Lay 256 values transposed into eight lanes, the first or the last; where there are fewer, zeros follow."""
    if count < 256:
        for i in range(256):
            rows[i] = values[start + i] if i < count else _F(0)
        for i in range(0, 32, 8):
            transpose(rows, i, 32, xs, 16 * i + 8 * side, 16)
    else:
        for i in range(0, 32, 8):
            transpose(values, start + i, 32, xs, 16 * i + 8 * side, 16)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_iq4_xs(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Blocks of 256 values to 136 bytes; an empty importance for none."""
    xs, ws, codes, rows = room(512, _F), room(512, _F), room(512, np.uint8), room(256, _F)
    sigmas, scales, rounded, steps = room(16, _F), room(16, _F), room(16, _F), room(16, np.int64)
    ds, blocks = room(2, _F), values.size // 256
    for first in range(0, blocks, 2):
        count = min(2, blocks - first)
        for side in range(2):
            n = min(first + side, blocks - 1)
            _gather(values, 256 * n, 256, side, rows, xs)
            if importance.size:
                _gather(importance, 256 * n % importance.size, 256, side, rows, ws)
                total = _F(0)
                for i in range(256):
                    total += values[256 * n + i] * values[256 * n + i]
                for k in range(8):
                    sigmas[8 * side + k] = total * _F(2.0 / 256)
        if importance.size:
            _weigh(xs, ws, load16(sigmas, 0))
        else:
            _square(xs, ws)
        store(scales, 0, _search(xs, ws))
        for side in range(2):
            ds[side] = _round_scales(scales, 8 * side, steps, rounded)
        step = load16(rounded, 0)
        inverses = where(step == _F(0), _F(0), _F(1) / step)
        for i in range(32):
            store_bytes(codes, 16 * i, _code(inverses * load16(xs, 16 * i)))
        for side in range(count):
            _store_xs(ds[side], steps[8 * side :], codes, 8 * side, out, 136 * (first + side))


@inlined
def _round_scales(found: Floats, first: int, steps: NDArray[np.int64], rounded: Floats) -> np.float32:
    """The scales of a super-block in steps, and rounded to them; the step."""
    peak = _F(0)
    for k in range(first, first + 8):
        if abs(found[k]) > abs(peak):
            peak = found[k]
    d = -peak / _F(32)
    inverse = _F(1) / d if d != 0 else _F(0)
    for k in range(first, first + 8):
        steps[k] = max(-32, min(31, nearest_int(inverse * found[k])))
        rounded[k] = d * _F(steps[k])
    return d


@inlined
def _store_xs(d: np.float32, steps: NDArray[np.int64], codes: Bytes, first: int, out: Bytes, start: int) -> None:
    high = 0
    for k in range(8):
        high |= (steps[k] + 32 >> 4) << 2 * k
    bits = half_bits(d)
    out[start], out[start + 1], out[start + 2], out[start + 3] = bits & 255, bits >> 8, high & 255, high >> 8
    for k in range(4):
        out[start + 4 + k] = (steps[2 * k] + 32 & 15) | (steps[2 * k + 1] + 32 & 15) << 4
    for k in range(8):
        _pack(codes, first + k, out, start + 8 + 16 * k)


@inlined
def _spread(blocks: Bytes, start: int, step: np.float32, low: F32x8, high: F32x8, out: Floats, place: int) -> None:
    """Sixteen bytes of nibbles to 32 multiples of `step`."""
    for i in (0, 8):
        pair = load_bytes(blocks, start + i)
        for half in range(2):
            code = pair & 15 if half == 0 else pair >> 4
            level = where(code < 8, permute(low, code), permute(high, code))
            store(out, place + 16 * half + i, level * step)


@kernel(BYTES, OUT_FLOATS)
def decode_iq4_nl(blocks: Bytes, out: Floats) -> None:
    """Blocks of 18 bytes to 32 values."""
    low, high = load(LEVELS, 0), load(LEVELS, 8)
    for n in range(blocks.size // 18):
        d = half_value(int(blocks[18 * n]) | int(blocks[18 * n + 1]) << 8)
        _spread(blocks, 18 * n + 2, d, low, high, out, 32 * n)


@kernel(BYTES, OUT_FLOATS)
def decode_iq4_xs(blocks: Bytes, out: Floats) -> None:
    """Blocks of 136 bytes to 256 values."""
    low, high = load(LEVELS, 0), load(LEVELS, 8)
    for n in range(blocks.size // 136):
        start = 136 * n
        d = half_value(int(blocks[start]) | int(blocks[start + 1]) << 8)
        tops = blocks[start + 2] | blocks[start + 3] << 8
        for k in range(8):
            step = (blocks[start + 4 + k // 2] >> 4 * (k % 2) & 15) | (tops >> 2 * k & 3) << 4
            _spread(blocks, start + 8 + 16 * k, d * _F(step - 32), low, high, out, 256 * n + 32 * k)
