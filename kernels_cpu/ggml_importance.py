"""The k-quants with an importance matrix: sixteen super-blocks at a time.

Byte-equal to quantize_row_q*_K_impl of ggml/src/ggml-quants.c. Groups are the lanes of the first search; then the
scales of sixteen super-blocks are the lanes of the second, which finds the super-block's own scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from requant.kernels_cpu._jit import FLOATS, NUMBER, OUT_BYTES, Bytes, Floats, Ints, Ints64, inlined, kernel
from requant.kernels_cpu.ggml_decode import six_bit_scale
from requant.kernels_cpu.ggml_k import (
    put_five_bits,
    put_half,
    put_nibbles,
    put_q3_scales,
    put_q6_k,
    put_six_bits,
    put_three_bits,
    put_two_bits,
    signed_codes,
)
from requant.kernels_cpu.room import room
from requant.kernels_cpu.search import SETS, gather, positive_search, put_starts, signed_search
from requant.kernels_cpu.search_affine import affine_search
from requant.kernels_cpu.simd import load16, splat16, sqrt, store, store_bytes
from requant.kernels_cpu.simd_transpose import transpose_rows

_F = np.float32


@inlined
def sums_of_squares(values: Floats, starts: Ints64, length: int, scratch: Floats, out: Floats) -> None:
    """Of the sixteen runs of `length` values (a multiple of 8) from `starts` on, each sum in order."""
    total = splat16(_F(0))
    for at in range(0, length, 8):
        transpose_rows(values, starts, 0, at, scratch, 0)
        transpose_rows(values, starts, 8, at, scratch, 8)
        for i in range(8):
            x = load16(scratch, 16 * i)
            total = total + x * x
    store(out, 0, total)


@inlined
def put_weights(xs: Floats, ws: Floats, variances: Floats, length: int) -> None:
    """Make weights of the importances in `ws`: times the root of the variance plus the value's square."""
    variance = load16(variances, 0)
    for i in range(0, 16 * length, 16):
        x = load16(xs, i)
        store(ws, i, load16(ws, i) * sqrt(variance + x * x))


@inlined
def put_sums(ws: Floats, length: int, out: Floats) -> None:
    """The sum of each lane's weights, in order."""
    total = splat16(_F(0))
    for i in range(0, 16 * length, 16):
        total = total + load16(ws, i)
    store(out, 0, total)


def _encoding(
    groups: int, factor: int, search: Callable[..., None], width: int, finish: Callable[..., None]
) -> Callable[..., None]:
    """Makes an encoder of super-blocks of `groups` groups, whose variance is `factor` times the mean square.

    width: how many rows of lanes `search` leaves in its last argument for each of `SETS` sets of sixteen groups.
    finish: (values, first, last, found, sums, out) stores the sixteen super-blocks from `first` on; group g of
    super-block b is lane groups * b + g of found and sums.
    """
    length, together = 256 // groups, 16 // groups
    size, most, all_groups = 16 * length, 16 * groups * width, 16 * groups
    taken = SETS * size

    @inlined
    def encode(values: Floats, importance: Floats, out: Bytes) -> None:
        xs, ws = room(taken, np.float32), room(taken, np.float32)
        scratch, starts = room(taken, np.float32), room(16, np.int64)
        squares, variances = room(16, np.float32), room(16, np.float32)
        found, sums = room(most, np.float32), room(all_groups, np.float32)
        last = values.size // 256 - 1
        for first in range(0, last + 1, 16):
            put_starts(starts, first, last, 256)
            sums_of_squares(values, starts, 256, scratch, squares)
            for part in range(groups):
                place = part % SETS * size
                for b in range(together):
                    block = part * together + b
                    for g in range(groups):
                        starts[b * groups + g] = 256 * min(first + block, last) + length * g
                        variances[b * groups + g] = _F(factor) * squares[block] / _F(256)
                gather(values, starts, 0, length, xs[place:])
                for k in range(16):
                    starts[k] %= importance.size
                gather(importance, starts, 0, length, ws[place:])
                put_weights(xs[place:], ws[place:], variances, length)
                put_sums(ws[place:], length, sums[16 * part : 16 * part + 16])
                if part % SETS == SETS - 1:
                    search(xs, ws, scratch, found[16 * width * (part + 1 - SETS) :])
            finish(values, first, last, found, sums, out)

    return encode


@inlined
def _regroup(found: Floats, row: int, width: int, groups: int, out: Floats) -> None:
    """Row `row` of what a search found, so that super-blocks become the lanes: group g of b at `out[16 * g + b]`."""
    together = 16 // groups
    for b in range(16):
        for g in range(groups):
            out[16 * g + b] = found[16 * (width * (b // together) + row) + b % together * groups + g]


def _finishing_affine(groups: int, top: int, put: Callable[..., None]) -> Callable[..., None]:
    second, lanes = positive_search(groups, top), 16 * groups

    @inlined
    def finish(values: Floats, first: int, last: int, found: Floats, sums: Floats, out: Bytes) -> None:
        xs, ws = room(lanes, np.float32), room(lanes, np.float32)
        scales, minima = room(lanes, np.int32), room(lanes, np.int32)
        ds, dmins = room(16, np.float32), room(16, np.float32)
        _regroup(sums, 0, 1, groups, ws)
        _regroup(found, 0, 4, groups, xs)
        second(xs, ws, scales, ds)
        _regroup(found, 1, 4, groups, xs)
        second(xs, ws, minima, dmins)
        for b in range(min(16, last + 1 - first)):
            part, lane = b * groups // 16, b * groups % 16
            put(
                values, first + b, found[64 * part : 64 * part + 64], lane, ds[b], dmins[b], scales[b:], minima[b:], out
            )

    return finish


def _putting_affine(size: int, clamp: bool, put_codes: Callable[..., None]) -> Callable[..., None]:
    """Makes what stores a super-block of Q4_K or Q5_K; its scales and minima are 16 apart."""

    @inlined
    def put(
        values: Floats,
        n: int,
        found: Floats,
        lane: int,
        d: np.float32,
        dmin: np.float32,
        scales: Ints,
        minima: Ints,
        out: Bytes,
    ) -> None:
        six, low_six = room(8, np.int32), room(8, np.int32)
        steps, lows = room(8, np.float32), room(8, np.float32)
        for j in range(8):
            six[j], low_six[j] = scales[16 * j], minima[16 * j]
            if clamp:
                six[j], low_six[j] = min(six[j], 63), min(low_six[j], 63)
        place = n * size
        d, dmin = put_half(out, place, d), put_half(out, place + 2, dmin)
        put_six_bits(six, low_six, out, place + 4)
        for j in range(8):  # from the stored bytes: a code that wrapped has spoilt its neighbour
            steps[j] = d * _F(six_bit_scale(out, place + 4, j))
            lows[j] = dmin * _F(six_bit_scale(out, place + 4, j + 8))
        put_codes(values, 256 * n, found, lane, steps, lows, out, place + 16)

    return put


@inlined
def _put_q2_k(
    values: Floats,
    n: int,
    found: Floats,
    lane: int,
    d: np.float32,
    dmin: np.float32,
    scales: Ints,
    minima: Ints,
    out: Bytes,
) -> None:
    for g in range(16):
        out[84 * n + g] = scales[16 * g] | minima[16 * g] << 4
    d, dmin = put_half(out, 84 * n + 80, d), put_half(out, 84 * n + 82, dmin)
    put_two_bits(values, n, found, d, dmin, out)


_second_q3: Final = signed_search(16, 32, sets=1, unbounded=True)


@inlined
def _finish_q3_k(values: Floats, first: int, last: int, found: Floats, sums: Floats, out: Bytes) -> None:
    xs, ws, wxs = room(256, np.float32), room(256, np.float32), room(256, np.float32)
    best, scales, codes = room(48, np.float32), room(16, np.int32), room(256, np.uint8)
    signed = room(256, np.uint8)
    _regroup(sums, 0, 1, 16, ws)
    _regroup(found, 0, 3, 16, xs)
    _second_q3(xs, ws, wxs, best)
    for b in range(min(16, last + 1 - first)):
        n, mine = first + b, found[48 * b : 48 * b + 48]
        for g in range(16):
            wxs[g] = xs[16 * g + b]
        store_bytes(signed, 0, signed_codes(load16(wxs, 0), _F(0), best[16 + b], best[32 + b], 32))
        for g in range(16):
            scales[g] = signed[g]
        put_q3_scales(scales, out, 110 * n + 96)
        d = put_half(out, 110 * n + 108, best[b])
        for g in range(16):
            x = load16(values, 256 * n + 16 * g)
            store_bytes(codes, 16 * g, signed_codes(x, d * _F(scales[g] - 32), mine[16 + g], mine[32 + g], 4))
        put_three_bits(codes, 0, mine, out, 110 * n)


_encode_q2: Final = _encoding(
    16, 1, affine_search(16, 3, -0.9, 0.05, 36, False), 4, _finishing_affine(16, 15, _put_q2_k)
)
_encode_q3: Final = _encoding(16, 2, signed_search(16, 4), 3, _finish_q3_k)
_encode_q4: Final = _encoding(
    8,
    2,
    affine_search(32, 15, -0.9, 0.05, 36, False),
    4,
    _finishing_affine(8, 63, _putting_affine(144, False, put_nibbles)),
)
_encode_q5: Final = _encoding(
    8,
    2,
    affine_search(32, 31, -0.9, 0.05, 36, False),
    4,
    _finishing_affine(8, 63, _putting_affine(176, True, put_five_bits)),
)
_search_q6: Final = signed_search(16, 32)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_q2_k_weighted(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Q2_K; the layout is that of ggml_k.py."""
    _encode_q2(values, importance, out)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_q3_k_weighted(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Q3_K."""
    _encode_q3(values, importance, out)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_q4_k_weighted(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Q4_K."""
    _encode_q4(values, importance, out)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_q5_k_weighted(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Q5_K."""
    _encode_q5(values, importance, out)


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def encode_q6_k_weighted(values: Floats, importance: Floats, columns: int, out: Bytes) -> None:
    """Q6_K, whose weights are the importances themselves."""
    xs, ws, wxs = room(1024, np.float32), room(1024, np.float32), room(1024, np.float32)
    found, scales, starts = room(192, np.float32), room(16, np.int32), room(16, np.int64)
    last = values.size // 16 - 1
    for n in range(values.size // 256):
        if n % SETS == 0:
            for part in range(SETS):
                put_starts(starts, 16 * (n + part), last, 16)
                gather(values, starts, 0, 16, xs[256 * part :])
                for k in range(16):
                    starts[k] %= importance.size
                gather(importance, starts, 0, 16, ws[256 * part :])
            _search_q6(xs, ws, wxs, found)
        put_q6_k(values, n, found[48 * (n % SETS) :], out, scales)
