"""Decoding of ggml's IQ1, IQ2 and IQ3 types: grid points, signs and scales to eight values at a time.

Source: the dequantize_row_* functions of ggml/src/ggml-quants.c. Every kernel takes the packed grid of its type
(`ggml_grids.Grid.packed`) between blocks and values; each step is a product in the reference's order.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import BYTES, OUT_FLOATS, WORDS64, Bytes, Floats, Words64, inlined, kernel
from requant.kernels_cpu.simd import half_value, splat, store, to_float, where
from requant.kernels_cpu.simd_lookup import bytes_of, mask_of

_F = np.float32

#: What turns levels 0, 1, 2 into -1, 0, 1 moved by an eighth up or down. A table: the bit is not to be guessed.
_SHIFTS: Final = np.array([-0.875, -1.125], _F)

#: Seven signs and an eighth that makes their number even.
_EVEN_SIGNS: Final = np.array([s | (s.bit_count() & 1) << 7 for s in range(128)], np.uint8)


@inlined
def _half(blocks: Bytes, place: int) -> np.float32:
    return half_value(int(blocks[place]) | int(blocks[place + 1]) << 8)


@inlined
def _word(blocks: Bytes, place: int) -> int:
    return int(blocks[place]) | int(blocks[place + 1]) << 8


@inlined
def _put(point: np.uint64, signs: int, step: np.float32, out: Floats, place: int) -> None:
    """Eight magnitudes times `step`, negative where a sign is set."""
    sign = where(mask_of(signs), splat(_F(-1)), _F(1))
    store(out, place, to_float(bytes_of(point)) * step * sign)


@kernel(BYTES, WORDS64, OUT_FLOATS)
def decode_iq2_xxs(blocks: Bytes, grid: Words64, out: Floats) -> None:
    """Blocks of 66 bytes to 256 values: d, then for 32 values four indices and 28 bits of signs under a scale."""
    for n in range(blocks.size // 66):
        d = _half(blocks, 66 * n)
        for k in range(8):
            place = 66 * n + 2 + 8 * k
            tail = _word(blocks, place + 4) | _word(blocks, place + 6) << 16
            step = d * (_F(0.5) + _F(tail >> 28)) * _F(0.25)
            for i in range(4):
                signs = _EVEN_SIGNS[tail >> 7 * i & 127]
                _put(grid[blocks[place + i]], signs, step, out, 256 * n + 32 * k + 8 * i)


@inlined
def _two_steps(d: np.float32, scales: int, i: int) -> np.float32:
    """The scale of group i of four: two share a nibble."""
    return d * (_F(0.5) + _F(scales >> 4 * (i // 2) & 15)) * _F(0.25)


@kernel(BYTES, WORDS64, OUT_FLOATS)
def decode_iq2_xs(blocks: Bytes, grid: Words64, out: Floats) -> None:
    """Blocks of 74 bytes to 256 values: d, 32 words of a 9-bit index and 7 signs, 16 scales."""
    for n in range(blocks.size // 74):
        d = _half(blocks, 74 * n)
        for k in range(8):
            scales = int(blocks[74 * n + 66 + k])
            for i in range(4):
                word = _word(blocks, 74 * n + 2 + 8 * k + 2 * i)
                step = _two_steps(d, scales, i)
                _put(grid[word & 511], _EVEN_SIGNS[word >> 9], step, out, 256 * n + 32 * k + 8 * i)


@kernel(BYTES, WORDS64, OUT_FLOATS)
def decode_iq2_s(blocks: Bytes, grid: Words64, out: Floats) -> None:
    """Blocks of 82 bytes to 256 values: d, low bytes of 32 indices, 32 bytes of signs, high bits, 16 scales."""
    for n in range(blocks.size // 82):
        start = 82 * n
        d = _half(blocks, start)
        for k in range(8):
            high, scales = int(blocks[start + 66 + k]), int(blocks[start + 74 + k])
            for i in range(4):
                index = int(blocks[start + 2 + 4 * k + i]) | high << 8 - 2 * i & 0x300
                signs = blocks[start + 34 + 4 * k + i]
                _put(grid[index], signs, _two_steps(d, scales, i), out, 256 * n + 32 * k + 8 * i)


@kernel(BYTES, WORDS64, OUT_FLOATS)
def decode_iq3_xxs(blocks: Bytes, grid: Words64, out: Floats) -> None:
    """Blocks of 98 bytes to 256 values: d, 64 indices, then for 32 values 28 bits of signs under a scale."""
    for n in range(blocks.size // 98):
        d = _half(blocks, 98 * n)
        for k in range(8):
            place = 98 * n + 66 + 4 * k
            tail = _word(blocks, place) | _word(blocks, place + 2) << 16
            step = d * (_F(0.5) + _F(tail >> 28)) * _F(0.5)
            for i in range(4):
                place = 98 * n + 2 + 8 * k + 2 * i
                pair = grid[blocks[place]] | grid[blocks[place + 1]] << np.uint64(32)
                _put(pair, _EVEN_SIGNS[tail >> 7 * i & 127], step, out, 256 * n + 32 * k + 8 * i)


@kernel(BYTES, WORDS64, OUT_FLOATS)
def decode_iq3_s(blocks: Bytes, grid: Words64, out: Floats) -> None:
    """Blocks of 110 bytes to 256 values: d, low bytes of 64 indices, high bits, 32 bytes of signs, 8 scales."""
    for n in range(blocks.size // 110):
        start = 110 * n
        d = _half(blocks, start)
        for k in range(8):
            high = int(blocks[start + 66 + k])
            step = d * _F(1 + 2 * (int(blocks[start + 106 + k // 2]) >> 4 * (k % 2) & 15))
            for i in range(4):
                place = start + 2 + 8 * k + 2 * i
                first = int(blocks[place]) | high << 8 - 2 * i & 256
                second = int(blocks[place + 1]) | high << 7 - 2 * i & 256
                pair = grid[first] | grid[second] << np.uint64(32)
                _put(pair, blocks[start + 74 + 4 * k + i], step, out, 256 * n + 32 * k + 8 * i)


@inlined
def _shift(point: np.uint64, down: int, step: np.float32, out: Floats, place: int) -> None:
    """Eight levels moved up (0) or down (1), times `step`; the sums are exact."""
    store(out, place, (to_float(bytes_of(point)) + _SHIFTS[down]) * step)


@kernel(BYTES, WORDS64, OUT_FLOATS)
def decode_iq1_s(blocks: Bytes, grid: Words64, out: Floats) -> None:
    """Blocks of 50 bytes to 256 values: d, low bytes of 32 indices, then for 32 values high bits, scale and shift."""
    for n in range(blocks.size // 50):
        d = _half(blocks, 50 * n)
        for k in range(8):
            high = _word(blocks, 50 * n + 34 + 2 * k)
            step = d * _F(2 * (high >> 12 & 7) + 1)
            for i in range(4):
                index = int(blocks[50 * n + 2 + 4 * k + i]) | (high >> 3 * i & 7) << 8
                _shift(grid[index], high >> 15 & 1, step, out, 256 * n + 32 * k + 8 * i)


@kernel(BYTES, WORDS64, OUT_FLOATS)
def decode_iq1_m(blocks: Bytes, grid: Words64, out: Floats) -> None:
    """Blocks of 56 bytes to 256 values: low bytes of 32 indices, nibbles of high bits and shift, 16 scales with d.

    d is spread over the top nibbles of the four words of 3-bit scales.
    """
    for n in range(blocks.size // 56):
        start, bits = 56 * n, 0
        for k in range(4):
            bits |= (_word(blocks, start + 48 + 2 * k) >> 12) << 4 * k
        d = half_value(bits)
        for k in range(4):
            scales = _word(blocks, start + 48 + 2 * k)
            for i in range(4):
                place, target = start + 8 * k + 2 * i, 256 * n + 64 * k + 16 * i
                high = int(blocks[start + 32 + 4 * k + i])
                step = d * _F(scales >> 3 * i << 1 & 14 | 1)
                first = int(blocks[place]) | high << 8 & 0x700
                second = int(blocks[place + 1]) | high << 4 & 0x700
                _shift(grid[first], high >> 3 & 1, step, out, target)
                _shift(grid[second], high >> 7 & 1, step, out, target + 8)
