"""Q4_0, Q4_1, Q5_0 and Q5_1 with an importance matrix: sixteen blocks of 32 are the lanes.

Byte-equal to quantize_row_q*_impl of ggml/src/ggml-quants.c, whose weights depend on the mean square of the whole row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from requant.kernels_cpu._jit import FLOATS, NUMBER, OUT_BYTES, Bytes, Floats, inlined, kernel
from requant.kernels_cpu.ggml_importance import put_weights, sums_of_squares
from requant.kernels_cpu.ggml_k import affine_codes, put_half, signed_codes
from requant.kernels_cpu.ggml_legacy import put_high_bits, put_nibbles
from requant.kernels_cpu.room import room
from requant.kernels_cpu.search import SETS, gather, put_starts, signed_search
from requant.kernels_cpu.search_affine import affine_search
from requant.kernels_cpu.simd import load16, store

_F = np.float32


@inlined
def _put_variances(values: Floats, columns: int, row: int, scratch: Floats, out: Floats) -> None:
    """The mean squares of the sixteen rows from `row` on, each summed in order; rows beyond the last are it, again."""
    starts = room(16, np.int64)
    put_starts(starts, row, values.size // columns - 1, columns)
    sums_of_squares(values, starts, columns, scratch, out)
    store(out, 0, load16(out, 0) / _F(columns))


def _encoding(search: Callable[..., None], width: int, put: Callable[..., None]) -> Callable[..., None]:
    """Makes an encoder.

    width: how many rows of lanes `search` leaves in its last argument for each of `SETS` sets of sixteen blocks.
    put: (values, found, lane, number of the block, out).
    """
    rows, blocks, taken, lanes = 16 * width, 16 * SETS, 512 * SETS, 16 * SETS * width

    @inlined
    def encode(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
        if values.size == 0:
            return
        xs, ws, scratch = room(taken, np.float32), room(taken, np.float32), room(taken, np.float32)
        found, mine, starts = room(lanes, np.float32), room(16, np.float32), room(16, np.int64)
        variances, row, last = room(16, np.float32), -16, values.size // 32 - 1
        for first in range(0, last + 1, blocks):
            for part in range(SETS):
                place = 512 * part
                put_starts(starts, first + 16 * part, last, 32)
                if starts[15] // columns >= row + 16:  # sixteen blocks lie in sixteen rows at most
                    row = starts[0] // columns
                    _put_variances(values, columns, row, scratch, variances)
                gather(values, starts, 0, 32, xs[place:])
                for k in range(16):
                    mine[k] = variances[starts[k] // columns - row]
                    starts[k] %= importance.size
                gather(importance, starts, 0, 32, ws[place:])
                put_weights(xs[place:], ws[place:], mine, 32)
            search(xs, ws, scratch, found)
            for k in range(min(blocks, last + 1 - first)):
                put(values, found[rows * (k // 16) :], k % 16, first + k, out)

    return encode


@inlined
def _put_q4_0(values: Floats, found: Floats, k: int, n: int, out: Bytes) -> None:
    put_half(out, 18 * n, found[k])
    left = signed_codes(load16(values, 32 * n), _F(0), found[16 + k], found[32 + k], 8)
    right = signed_codes(load16(values, 32 * n + 16), _F(0), found[16 + k], found[32 + k], 8)
    put_nibbles(left, right, out, 18 * n + 2)


@inlined
def _put_q4_1(values: Floats, found: Floats, k: int, n: int, out: Bytes) -> None:
    put_half(out, 20 * n, found[k])
    put_half(out, 20 * n + 2, -found[16 + k])
    left = affine_codes(load16(values, 32 * n), _F(0), _F(0), found[32 + k], found[48 + k], 15)
    right = affine_codes(load16(values, 32 * n + 16), _F(0), _F(0), found[32 + k], found[48 + k], 15)
    put_nibbles(left, right, out, 20 * n + 4)


@inlined
def _put_q5_0(values: Floats, found: Floats, k: int, n: int, out: Bytes) -> None:
    put_half(out, 22 * n, found[k])
    left = signed_codes(load16(values, 32 * n), _F(0), found[16 + k], found[32 + k], 16)
    right = signed_codes(load16(values, 32 * n + 16), _F(0), found[16 + k], found[32 + k], 16)
    put_high_bits(left, right, out, 22 * n + 2)
    put_nibbles(left, right, out, 22 * n + 6)


@inlined
def _put_q5_1(values: Floats, found: Floats, k: int, n: int, out: Bytes) -> None:
    put_half(out, 24 * n, found[k])
    put_half(out, 24 * n + 2, -found[16 + k])
    left = affine_codes(load16(values, 32 * n), _F(0), _F(0), found[32 + k], found[48 + k], 31)
    right = affine_codes(load16(values, 32 * n + 16), _F(0), _F(0), found[32 + k], found[48 + k], 31)
    put_high_bits(left, right, out, 24 * n + 4)
    put_nibbles(left, right, out, 24 * n + 8)


_encode_q4_0: Final = _encoding(signed_search(32, 8), 3, _put_q4_0)
_encode_q4_1: Final = _encoding(affine_search(32, 15, -0.9, 0.05, 36, False), 4, _put_q4_1)
_encode_q5_0: Final = _encoding(signed_search(32, 16), 3, _put_q5_0)
_encode_q5_1: Final = _encoding(affine_search(32, 31, -0.9, 0.05, 36, False), 4, _put_q5_1)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_q4_0_weighted(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Q4_0; the layout is that of ggml_legacy.py."""
    _encode_q4_0(values, importance, columns, out)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_q4_1_weighted(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Q4_1."""
    _encode_q4_1(values, importance, columns, out)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_q5_0_weighted(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Q5_0."""
    _encode_q5_0(values, importance, columns, out)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_q5_1_weighted(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Q5_1."""
    _encode_q5_1(values, importance, columns, out)
