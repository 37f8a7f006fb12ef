"""Codes packed along the inputs, as GPTQ and EXL2 store them, to rows of outputs in 16-bit floats.

A stored row of words holds one place of every output, so that sixteen outputs are sixteen lanes: the shift, the scale
and the zero of an input are the same number or neighbours in memory for all of them, whatever the width of a code and
whatever group its input belongs to. Only finished values are transposed, in tiles of 32 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Halves, Values
from requant.encodings.gptq import PLANES
from requant.kernels_cpu._jit import FLOATS, INTS, NUMBER, OUT_WORDS, WORDS32, Floats, Ints, Words32, inlined, kernel
from requant.kernels_cpu.casts import bfloat_bits
from requant.kernels_cpu.groups import ROUNDING
from requant.kernels_cpu.simd import (
    F32x16,
    load16,
    load_ints16,
    number,
    prefetch,
    splat_int16,
    store_halves,
    store_ints,
    store_words,
    to_float,
)
from requant.kernels_cpu.simd_transpose import transpose_words

#: Outputs that are done together, and those whose scales lie together.
LANES: Final = 16
OUTPUTS: Final = 128


@cache
def pieces_of(bits: int, planar: bool = False) -> NDArray[np.int32]:
    """Where the 32 codes of a block lie in its `bits` words: int32 [32, pieces, 4].

    Each piece is (word, shift, mask, place): a code is all its (word >> shift & mask) << place together.
    A code that crosses from one word to the next has two pieces, one that is stored plane by plane one in each plane.
    """
    codes: list[list[tuple[int, int, int, int]]] = [[] for _ in range(32)]
    first = 0
    for width, place in PLANES[bits] if planar else ((bits, 0),):
        for k, pieces in enumerate(codes):
            word, shift = divmod(first + k * width, 32)
            here = min(width, 32 - shift)
            pieces.append((word, shift, (1 << here) - 1, place))
            if here < width:
                pieces.append((word + 1, 0, (1 << (width - here)) - 1, place + here))
        first += 32 * width
    most = max(map(len, codes))  # the first is repeated where there are fewer: it changes nothing
    return np.array([pieces + [pieces[0]] * (most - len(pieces)) for pieces in codes], np.int32)


@inlined
def _put(tile: Halves, at: int, x: F32x16, rounding: int) -> None:
    """Sixteen values, rounded."""
    if rounding == 1:
        store_halves(tile, at, x)
    else:
        store_words(tile, at, bfloat_bits(x))


@kernel(WORDS32, INTS, FLOATS, FLOATS, INTS, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, OUT_WORDS)
def scale_columns(
    words: Words32,
    pieces: Ints,
    scales: Floats,
    zeros: Floats,
    groups: Ints,
    start: int,
    stride: int,
    bits: int,
    rounding: int,
    first: int,
    columns: int,
    out: Halves,
) -> None:
    """(code - zero) * scale, rounded; at least sixteen outputs, of which the last may be done twice.

    words: rows of `stride` outputs, of which those from `start` on are wanted. scales, zeros: [groups, outputs].
    groups: where the group of each input begins there. out: [outputs, columns], of which the columns from `first` on
    are filled.
    """
    outputs, inputs = out.size // columns, groups.size
    each, mask = pieces.size // 128, (1 << bits) - 1
    tile, turned = np.empty(512, np.uint16), np.empty(512, np.uint16)
    for near in range(0, outputs, 16):
        o = min(near, outputs - 16)
        for block in range((inputs + 31) // 32):
            at, k, inside = block * bits * stride + start + o, 32 * block, min(32, inputs - 32 * block)
            if each == 1 and inside == 32:  # codes never cross words: each word is shifted until it is empty
                slot = 0
                for _word in range(bits):
                    prefetch(words, at + bits * stride)  # the next block's; it may lie past the end
                    code = load_ints16(words, at)
                    for _code in range(32 // bits):
                        place = number(groups, k) + o
                        x = (to_float(code & mask) - load16(zeros, place)) * load16(scales, place)
                        _put(tile, slot, x, rounding)
                        code, k, slot = code >> bits, k + 1, slot + 16
                    at += stride
            else:
                for i in range(inside):
                    code = splat_int16(0)
                    for n in range(4 * each * i, 4 * each * (i + 1), 4):
                        piece = load_ints16(words, at + number(pieces, n) * stride) >> number(pieces, n + 1)
                        code = code | (piece & number(pieces, n + 2)) << number(pieces, n + 3)
                    place = number(groups, k + i) + o
                    x = (to_float(code) - load16(zeros, place)) * load16(scales, place)
                    _put(tile, 16 * i, x, rounding)
            target = o * columns + first + 32 * block
            for i in range(0, inside - 7, 8):
                transpose_words(tile, 16 * i, turned, i, 32)
            if inside == 32:  # whole lines: rows of which many compete for one place in the cache are left at once
                for lane in range(16):
                    store_ints(out, target + lane * columns, load_ints16(turned, 32 * lane))
                continue
            for i in range(inside - inside % 8):
                for lane in range(16):
                    out[target + lane * columns + i] = turned[32 * lane + i]
            for i in range(inside - inside % 8, inside):
                for lane in range(16):
                    out[target + lane * columns + i] = tile[16 * i + lane]


@dataclass(frozen=True, slots=True)
class Columns:
    """Packed inputs of a layer, or of those inputs that have codes of one width.

    words: int32 or uint32 [words, outputs]. scales, zeros: float32 [groups, outputs], only of the outputs that are
    wanted. groups: int32 [inputs], the group of each.
    """

    words: NDArray[Any]
    bits: int
    scales: Values
    zeros: Values
    groups: NDArray[np.int32]
    planar: bool = False


def columns_to_halves(columns: Columns, start: int, rounding: str, out: Halves, first: int = 0) -> None:
    """The outputs from `start` on, as columns of `out` from `first` on: (code - zero) * scale.

    rounding: dtype of `out`, F16 or BF16.
    """
    count, inputs = len(out), len(columns.groups)
    if not (count and inputs):
        return
    if count < LANES:  # too few for the kernel: do more, and throw them away
        some = np.zeros((len(columns.words), LANES), np.uint32)
        some[:, :count] = columns.words[:, start : start + count].view(np.uint32)
        scales, zeros = (np.pad(x, ((0, 0), (0, LANES - count))) for x in (columns.scales, columns.zeros))
        more = np.empty((LANES, inputs), np.uint16)
        columns_to_halves(replace(columns, words=some, scales=scales, zeros=zeros), 0, rounding, more)
        out[:, first : first + inputs] = more[:count]
        return
    words = columns.words.reshape(-1).view(np.uint32)
    pieces = pieces_of(columns.bits, columns.planar).reshape(-1)
    width, rounded = columns.words.shape[1], ROUNDING[rounding]
    for at in range(0, count, OUTPUTS):  # whose scales stay in the nearest cache
        last = min(count, max(at + OUTPUTS, LANES))
        here = slice(last - LANES if last - at < LANES else at, last)
        stride = last - here.start + LANES  # no power of two, which would crowd groups into few places of the cache
        scales, zeros = (_spaced(x[:, here], stride) for x in (columns.scales, columns.zeros))
        numbers = (start + here.start, width, columns.bits, rounded, first, out.shape[1])
        groups = columns.groups * np.int32(stride)
        scale_columns(words, pieces, scales, zeros, groups, *numbers, out[here].reshape(-1))


def _spaced(rows: Values, stride: int) -> Floats:
    """Rows that begin every `stride` numbers, one after another."""
    room = np.empty((len(rows), stride), np.float32)
    room[:, : rows.shape[1]] = rows
    return room.reshape(-1)
