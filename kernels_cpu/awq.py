"""AWQ: the layouts of its kernels to rows of codes, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codec, Codes, Correction, Parts, Values
from requant.encodings.awq import Awq, Kind, Marlin
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
from requant.kernels_cpu.corrected import corrected_groups
from requant.kernels_cpu.groups import dequantize, regrouped, round_to_groups, scales_of, stored_scales
from requant.kernels_cpu.packed_bits import Codes8, codes_of, gather_eight, spread_eight, stream_rows, words_of

_U = np.uint64
#: Where input k of 32 lies among the codes of gemv_fast: places 0, 1, 2, … hold inputs 0, 8, 16, 24, 1, 9, …
_FAST_ORDER: Final = np.argsort([2 * (p // 8) + 8 * (p % 4) + p % 8 // 4 for p in range(32)])


@dataclass(frozen=True, slots=True)
class AwqCodec:
    """What the layouts share: arithmetic. `parts` are whole tensors but for gemv."""

    encoding: Awq

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """f16((code - zero) * scale), as AutoAWQ; f16(code * scale + offset) where there are offsets.

        With scales in BF16 that is bf16(...), as GPTQModel.
        """
        dequantize(self.unpack(parts, len(out), start), self.encoding.group, self.encoding.scale, out)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Round to nearest, with the clip that makes the squared error of each group least."""
        how = self.encoding
        self.pack(round_to_groups(values, importance, how.group, 4, how.symmetric, how.scale), out, start)

    def encode_corrected(self, values: Values, out: Parts, start: int, correction: Correction) -> None:
        """GPTQ's way: columns after one make up for its error."""
        how = self.encoding
        self.pack(corrected_groups(values, correction, how.group, 4, how.symmetric, how.scale), out, start)

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The integers of some rows."""
        match self.encoding.kind:
            case Kind.GEMM:
                zeros = _nibble_columns(parts["qzeros"], start, rows).astype(np.float32)
                scales = scales_of(parts["scales"][:, start : start + rows].T, self.encoding.scale)
                return Codes(_nibble_columns(parts["qweight"], start, rows), scales, zeros)
            case Kind.GEMV:
                columns = 8 * parts["qweight"].shape[1]
                groups = self.encoding.groups(columns)
                rows_of = slice(start, start + rows)
                zeros = codes_of(stream_rows(parts["qzeros"][rows_of]), 4, groups)[:, :groups].astype(np.float32)
                scales = np.ascontiguousarray(parts["scales"][rows_of, :groups], np.float32)
                codes = codes_of(stream_rows(parts["qweight"][rows_of]), 4, columns)
                return Codes(codes[:, :columns], scales, zeros)
        return self._unpack_fast(parts, rows, start)

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """Store integers."""
        how, (rows, columns) = self.encoding, codes.codes.shape
        numbers, scales, zeros, offsets = regrouped(codes, 4, how.symmetric, how.group, how.groups(columns))
        match how.kind:
            case Kind.GEMM:
                out["qweight"][:, start // 8 : (start + rows) // 8] = _nibble_words(numbers)
                out["qzeros"][:, start // 8 : (start + rows) // 8] = _nibble_words(zeros.astype(np.uint8))
                out["scales"][:, start : start + rows] = stored_scales(scales, how.scale).T
            case Kind.GEMV:
                padded = np.zeros((rows, out["scales"].shape[1]), np.uint8)
                padded[:, : zeros.shape[1]] = zeros
                out["qweight"][start : start + rows] = words_of(numbers, 4)
                out["qzeros"][start : start + rows] = words_of(padded, 4)
                out["scales"][start : start + rows] = 0
                out["scales"][start : start + rows, : scales.shape[1]] = scales
            case _:
                self._pack_fast(numbers, scales, -zeros * scales if offsets is None else offsets, out, start)

    def _unpack_fast(self, parts: Parts, rows: int, start: int) -> Codes:
        """Four outputs of 64 inputs make 256 nibbles in a row."""
        words = np.ascontiguousarray(parts["qweight"][start // 4 : (start + rows) // 4])
        columns = words.shape[1]
        nibbles = codes_of(stream_rows(words.view(np.int32)), 4, 4 * columns)
        blocks = nibbles.reshape(rows // 4, columns // 64, 4, 2, 32)[..., _FAST_ORDER]
        codes = np.ascontiguousarray(blocks.transpose(0, 2, 1, 3, 4)).reshape(rows, columns)
        groups = self.encoding.groups(columns)
        scales, offsets = (
            np.ascontiguousarray(parts[name][:groups, start : start + rows].T, np.float32)
            for name in ("scales", "qzeros")
        )
        return Codes(codes, scales, np.empty((rows, 0), np.float32), offsets=offsets)

    def _pack_fast(self, codes: Codes8, scales: Values, offsets: Values, out: Parts, start: int) -> None:
        rows, columns = codes.shape
        blocks = codes.reshape(rows // 4, 4, columns // 64, 2, 32).transpose(0, 2, 1, 3, 4)
        nibbles = np.empty(blocks.shape, np.uint8)
        nibbles[..., _FAST_ORDER] = blocks
        words = words_of(nibbles.reshape(rows // 4, 4 * columns), 4)
        out["qweight"][start // 4 : (start + rows) // 4] = np.ascontiguousarray(words).view(np.int16)
        for name, numbers in (("scales", scales), ("qzeros", offsets)):
            out[name][:, start : start + rows] = 0
            out[name][: numbers.shape[1], start : start + rows] = numbers.T


@dataclass(frozen=True, slots=True)
class MarlinCodec:
    """Tiles of 16 inputs by 64 outputs, in the order in which a GPU's tensor cores take them."""

    encoding: Marlin

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """f16((code - 8) * scale)."""
        dequantize(self.unpack(parts, len(out), start), self.encoding.group, "F16", out)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Round to nearest, with the clip that makes the squared error of each group least."""
        self.pack(round_to_groups(values, importance, self.encoding.group, 4, True, "F16"), out, start)

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The integers of some rows: whole tiles."""
        words = parts["qweight"][:, 2 * start : 2 * (start + rows)]
        tall, tiles = len(words), rows // 64
        stored = codes_of(stream_rows(np.ascontiguousarray(words)), 4, 1024 * tiles).reshape(tall, tiles, 1024)
        natural = stored[:, :, np.argsort(tile_order())].reshape(tall, tiles, 4, 16, 16)
        codes = np.ascontiguousarray(natural.transpose(1, 2, 4, 0, 3)).reshape(rows, 16 * tall)
        scales = self._scales(parts["scales"][:, start : start + rows], np.argsort(self._scale_order()))
        return Codes(codes, np.ascontiguousarray(scales.T, np.float32), np.full(scales.T.shape, 8, np.float32))

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """Store integers."""
        rows, columns = codes.codes.shape
        numbers, scales, _, _ = regrouped(codes, 4, True, self.encoding.group, out["scales"].shape[0])
        tiles = numbers.reshape(rows // 64, 4, 16, columns // 16, 16).transpose(3, 0, 1, 4, 2)
        stored = np.ascontiguousarray(tiles).reshape(columns // 16, rows // 64, 1024)[:, :, tile_order()]
        words = words_of(np.ascontiguousarray(stored).reshape(columns // 16, 16 * rows), 4)
        out["qweight"][:, 2 * start : 2 * (start + rows)] = words
        out["scales"][:, start : start + rows] = self._scales(scales.T, self._scale_order())

    def _scale_order(self) -> NDArray[np.intp]:
        """Which scale of a run lies at each place."""
        if self.encoding.group < 0:
            return np.array([2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)])
        return np.array([i + 8 * j for i in range(8) for j in range(8)])

    @staticmethod
    def _scales(scales: NDArray[Any], order: NDArray[np.intp]) -> NDArray[Any]:
        """Scales [groups, outputs] with every run of outputs in the given order."""
        return np.ascontiguousarray(scales).reshape(len(scales), -1, len(order))[:, :, order].reshape(scales.shape)


@cache
def tile_order() -> NDArray[np.intp]:
    """Which of a tile's codes (output block of 16, input, output) lies at each of the 1024 places.

    Source: `_get_perms` of AutoGPTQ's Marlin layer.
    """
    order = []
    for lane in range(32):
        first = [16 * (2 * (lane % 4) + row) + lane // 4 + 8 * block for block in (0, 1) for row in (0, 1, 8, 9)]
        order += [place + 256 * block for block in range(4) for place in first]
    return np.array(order).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].ravel()


def awq_codec(encoding: Awq) -> Codec:
    """The codec of one AWQ encoding."""
    return AwqCodec(encoding)


def marlin_codec(encoding: Marlin) -> Codec:
    """The codec of Marlin's tiles."""
    return MarlinCodec(encoding)


@inlined
def _turned(x: Words64) -> None:
    """Eight words as a matrix of 8 by 8 bytes, transposed."""
    for k in range(4):
        t = (x[k] >> _U(32) ^ x[k + 4]) & _U(0x00000000FFFFFFFF)
        x[k + 4] ^= t
        x[k] ^= t << _U(32)
    for j in range(4):
        k = j + (j & 2)
        t = (x[k] >> _U(16) ^ x[k + 2]) & _U(0x0000FFFF0000FFFF)
        x[k + 2] ^= t
        x[k] ^= t << _U(16)
    for k in range(0, 8, 2):
        t = (x[k] >> _U(8) ^ x[k + 1]) & _U(0x00FF00FF00FF00FF)
        x[k + 1] ^= t
        x[k] ^= t << _U(8)


@inlined
def _output(nibble: int) -> int:
    """Which of eight outputs a nibble of a word holds: 0, 2, 4, 6, 1, 3, 5, 7."""
    return 2 * nibble if nibble < 4 else 2 * nibble - 7


@kernel(WORDS32, NUMBER, NUMBER, NUMBER, NUMBER, OUT_WORDS64)
def unweave(words: Words32, rows: int, columns: int, first: int, count: int, codes: Words64) -> None:
    """Columns [first, first + count) of words [rows, columns]: `codes` is eight rows of bytes for each."""
    x = np.empty(8, np.uint64)
    stride = (rows + 7) // 8
    for octet in range(stride):
        for column in range(count):
            for k in range(8):
                row = 8 * octet + k
                word = _U(words[row * columns + first + column]) if row < rows else _U(0)
                x[k] = spread_eight(word, 4)
            _turned(x)
            for k in range(8):
                codes[(8 * column + _output(k)) * stride + octet] = x[k]


@kernel(WORDS64, NUMBER, NUMBER, OUT_WORDS32)
def weave(codes: Words64, rows: int, count: int, words: Words32) -> None:
    """The inverse of `unweave`: words [rows, count]."""
    x = np.empty(8, np.uint64)
    stride = (rows + 7) // 8
    for octet in range(stride):
        for column in range(count):
            for k in range(8):
                x[k] = codes[(8 * column + _output(k)) * stride + octet]
            _turned(x)
            for k in range(min(8, rows - 8 * octet)):
                words[(8 * octet + k) * count + column] = np.uint32(gather_eight(x[k], 4))


def _nibble_columns(words: NDArray[Any], start: int, count: int) -> Codes8:
    """Outputs [start, start + count) of words [n, outputs / 8] as rows of n codes."""
    rows, columns = words.shape
    codes = np.empty((count, -(-rows // 8)), np.uint64)
    unweave(words.reshape(-1).view(np.uint32), rows, columns, start // 8, count // 8, codes.reshape(-1))
    return codes.view(np.uint8)[:, :rows]


def _nibble_words(codes: Codes8) -> NDArray[np.int32]:
    """Rows of n codes as words [n, rows / 8]."""
    count, rows = codes.shape
    padded = np.zeros((count, -(-rows // 8)), np.uint64)
    padded.view(np.uint8)[:, :rows] = codes
    words = np.empty((rows, count // 8), np.uint32)
    weave(padded.reshape(-1), rows, count // 8, words.reshape(-1))
    return words.view(np.int32)
