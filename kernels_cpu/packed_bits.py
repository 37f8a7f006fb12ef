"""Codes of 1 to 8 bits, lowest bit first, to bytes and back; and the transposes that packed matrices need.

A *stream* is a row of codes without gaps: code n lies in the bits [n * width, (n + 1) * width) of its words. Streams
are rows of 64-bit words with one spare word at the end, codes rows of bytes, eight to a word: eight codes of any width
are spread over the bytes of a word by three shifts of halves, quarters and eighths.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.encodings.gptq import PLANES
from requant.kernels_cpu._jit import (
    NUMBER,
    OUT_WORDS32,
    OUT_WORDS64,
    WORDS32,
    WORDS64,
    Words32,
    Words64,
    inlined,
    kernel,
)

Codes8 = NDArray[np.uint8]

_U = np.uint64


@inlined
def spread_eight(x: np.uint64, width: int) -> Any:
    """Eight codes in the low bits to eight bytes."""
    one, two, four = _U(width), _U(2 * width), _U(4 * width)
    x = (x & ((_U(1) << four) - _U(1))) | (x >> four & ((_U(1) << four) - _U(1))) << _U(32)
    halves = ((_U(1) << two) - _U(1)) * _U(0x0000000100000001)
    x = (x & halves) | (x >> two & halves) << _U(16)
    quarters = ((_U(1) << one) - _U(1)) * _U(0x0001000100010001)
    return (x & quarters) | (x >> one & quarters) << _U(8)


@inlined
def gather_eight(x: np.uint64, width: int) -> Any:
    """Eight bytes to eight codes in the low bits; what does not fit a code is cut off."""
    one, two, four = _U(width), _U(2 * width), _U(4 * width)
    quarters = ((_U(1) << one) - _U(1)) * _U(0x0001000100010001)
    x = (x & quarters) | (x >> _U(8) & quarters) << one
    halves = ((_U(1) << two) - _U(1)) * _U(0x0000000100000001)
    x = (x & halves) | (x >> _U(16) & halves) << two
    low = (_U(1) << four) - _U(1)
    return (x & low) | (x >> _U(32) & low) << four


@kernel(WORDS64, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, OUT_WORDS64)
def spread(
    streams: Words64, stride: int, bits: int, width: int, first: int, place: int, blocks: int, out: Words64
) -> None:
    """One plane of all streams: `width` bits of every code, put at bit `place` of its byte, over what is there.

    stride: words of a stream. bits: of a code; 32 codes are `bits` * 32 bits, of which the plane begins at `first`.
    blocks: of 32 codes in a stream.
    """
    for row in range(out.size // (4 * blocks)):
        for block in range(blocks):
            for octet in range(4):
                bit = 32 * bits * block + first + 8 * width * octet
                at, shift = row * stride + (bit >> 6), _U(bit & 63)
                x = streams[at] >> shift | streams[at + 1] << _U(1) << (_U(63) - shift)
                out[4 * (row * blocks + block) + octet] |= spread_eight(x, width) << _U(place)


@kernel(WORDS64, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, OUT_WORDS64)
def gather(
    codes: Words64, stride: int, bits: int, width: int, first: int, place: int, blocks: int, out: Words64
) -> None:
    """The inverse of `spread`: adds the plane to streams that are zero where it lies."""
    for row in range(codes.size // (4 * blocks)):
        for block in range(blocks):
            for octet in range(4):
                bit = 32 * bits * block + first + 8 * width * octet
                at, shift = row * stride + (bit >> 6), _U(bit & 63)
                x = gather_eight(codes[4 * (row * blocks + block) + octet] >> _U(place), width)
                out[at] |= x << shift
                out[at + 1] |= x >> _U(1) >> (_U(63) - shift)


@kernel(WORDS32, NUMBER, NUMBER, NUMBER, NUMBER, OUT_WORDS32)
def transpose_words(words: Words32, rows: int, columns: int, start: int, stride: int, out: Words32) -> None:
    """Columns from `start` on of a matrix [rows, columns] as rows of `stride` words; as many as `out` has room for."""
    count = out.size // stride
    for tall in range(0, rows, 16):
        for wide in range(0, count, 16):
            for row in range(tall, min(tall + 16, rows)):
                for column in range(wide, min(wide + 16, count)):
                    out[column * stride + row] = words[row * columns + start + column]


def streams_of(words: NDArray[Any], start: int, count: int) -> Words64:
    """The columns [start, start + count) of int32 words as streams."""
    rows, columns = words.shape
    streams = np.zeros((count, 2 * (rows // 2 + 2)), np.uint32)
    transpose_words(words.reshape(-1).view(np.uint32), rows, columns, start, streams.shape[1], streams.reshape(-1))
    return streams.view(np.uint64)


def stream_rows(words: NDArray[Any]) -> Words64:
    """Rows of int32 words as streams."""
    rows, columns = words.shape
    streams = np.zeros((rows, 2 * (columns // 2 + 2)), np.uint32)
    streams[:, :columns] = words.view(np.uint32)
    return streams.view(np.uint64)


def codes_of(streams: Words64, bits: int, count: int, planar: bool = False) -> Codes8:
    """The first `count` codes of each stream: uint8 [streams, count rounded up to 32].

    Beyond `count` lies whatever the words hold. planar: 32 codes are stored plane by plane (`PLANES`).
    """
    blocks = -(-count // 32)
    if bits == 8 and 4 * blocks < streams.shape[1]:
        return streams.view(np.uint8)[:, : 32 * blocks]
    padded = -(-32 * blocks * bits // 64) + 1
    if streams.shape[1] < padded:
        streams = np.pad(streams, ((0, 0), (0, padded - streams.shape[1])))
    codes = np.zeros((len(streams), 32 * blocks), np.uint8)
    first = 0
    for width, place in PLANES[bits] if planar else ((bits, 0),):
        out = codes.reshape(-1).view(np.uint64)
        spread(streams.reshape(-1), streams.shape[1], bits, width, first, place, blocks, out)
        first += 32 * width
    return codes


def words_of(codes: Codes8, bits: int, planar: bool = False) -> NDArray[np.int32]:
    """Codes [streams, count] as int32 words [streams, ceil(count * bits / 32)]; the inverse of `codes_of`."""
    rows, count = codes.shape
    blocks = -(-count // 32)
    if count != 32 * blocks or not codes.flags.c_contiguous:
        padded = np.zeros((rows, 32 * blocks), np.uint8)
        padded[:, :count] = codes
        codes = padded
    streams = np.zeros((rows, 32 * blocks * bits // 64 + 2), np.uint64)
    first = 0
    for width, place in PLANES[bits] if planar else ((bits, 0),):
        gather(
            codes.reshape(-1).view(np.uint64),
            streams.shape[1],
            bits,
            width,
            first,
            place,
            blocks,
            streams.reshape(-1),
        )
        first += 32 * width
    return streams.view(np.int32)[:, : -(-count * bits // 32)]
