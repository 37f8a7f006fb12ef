"""compressed-tensors' packed integers and ModelOpt's pairs of rows: words to rows of codes, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Correction, Halves, Parts, Values
from requant.encodings.compressed import Packed, RowPairs
from requant.encodings.gptq import Order
from requant.errors import UnsupportedError
from requant.kernels_cpu.corrected import corrected_groups
from requant.kernels_cpu.dense import narrowed
from requant.kernels_cpu.groups import dequantize, regrouped, round_to_groups
from requant.kernels_cpu.nibbles import nibbles_to_halves
from requant.kernels_cpu.packed_bits import codes_of, stream_rows, words_of
from requant.kernels_cpu.scaled_codec import store_scales, widened

_FOUR_BITS: Final = np.arange(16, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class PackedCodec:
    """`pack-quantized`. Codes and zeros are stored with half their range added, which is what `Codes` holds."""

    encoding: Packed

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """(code - zero) * scale in the dtype of the scales, as compressed-tensors computes it."""
        codes = self._padded(parts, len(out), start, out.shape[1])
        dequantize(codes, self.encoding.group or -1, self.encoding.values.label, out)

    def decode_halves(self, parts: Parts, out: Halves, start: int = 0) -> None:
        """The same as F16 or BF16."""
        how, (rows, columns) = self.encoding, out.shape
        size = how.group if how.group > 0 else columns
        if how.bits != 4 or how.order is Order.ACT or columns % size or size % 32:
            narrowed(lambda values: self.decode(parts, values, start), how.values.label, out)
            return
        codes = _flat(parts["packed"])[start : start + rows].view(np.uint8)
        scales, zeros = self._numbers(parts, rows, start)
        nibbles_to_halves(codes, _FOUR_BITS, scales, zeros, size, how.values.label, out)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Round to nearest, with the clip that makes the squared error of each group least."""
        how = self.encoding
        if how.group == 0 or how.rows > 1 or how.order is Order.ACT:
            raise UnsupportedError(f"{how.label} is read, not written", hint="choose W4A16 or W8A16")
        codes = round_to_groups(values, importance, how.group, how.bits, how.symmetric, how.scale)
        self.pack(codes, out, start)

    def encode_corrected(self, values: Values, out: Parts, start: int, correction: Correction) -> None:
        """GPTQ's way: columns after one make up for its error."""
        how = self.encoding
        codes = corrected_groups(values, correction, how.group, how.bits, how.symmetric, how.scale)
        self.pack(codes, out, start)

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The integers of some rows."""
        columns = int(parts["shape"][-1])
        codes = self._padded(parts, rows, start, columns)
        codes.codes = codes.codes[:, :columns]
        return codes

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """Store integers; groups of the source may be multiples of ours, and its zeros others."""
        how, (rows, columns) = self.encoding, codes.codes.shape
        if not how.stream:
            raise UnsupportedError(f"{how.label} is read, not written", hint="choose W4A16 or W8A16")
        groups = out["scales"].shape[-1]
        numbers, scales, zeros, _ = regrouped(codes, how.bits, how.symmetric, how.group, groups)
        _flat(out["packed"])[start : start + rows] = words_of(numbers, how.bits)
        store_scales(scales, how.scale, out["scales"].reshape(-1, groups)[start : start + rows])
        if not how.symmetric:
            self._store_zeros(zeros, out, start)
        if start == 0:
            out["shape"][...] = *out["packed"].shape[:-1], columns
            if how.order is not Order.MISSING:
                out["g_idx"][...] = self._g_idx(codes, columns)

    def _store_zeros(self, zeros: Values, out: Parts, start: int) -> None:
        """The zeros of some rows; runs hold whole words, or whole matrices of a stack."""
        height, bits = out["packed"].shape[-2], self.encoding.bits
        stored = out["zeros"].reshape(-1, out["zeros"].shape[-1])
        tall = height if len(zeros) > height else len(zeros)
        for at in range(0, len(zeros), tall):
            words = words_of(np.ascontiguousarray(zeros[at : at + tall].T.astype(np.uint8)), bits).T
            matrix, row = divmod(start + at, height)
            first = matrix * self.encoding.words(height) + row * bits // 32
            stored[first : first + len(words)] = words

    def _padded(self, parts: Parts, rows: int, start: int, columns: int) -> Codes:
        """The integers of some rows, with whatever fills the last word of each row of codes."""
        how = self.encoding
        codes = self._codes(_flat(parts["packed"])[start : start + rows], columns)
        groups: NDArray[np.int32] | None = None
        if how.order is Order.ACT:
            groups = np.ascontiguousarray(parts["g_idx"]).astype(np.int32)
        return Codes(codes, *self._numbers(parts, rows, start), groups)

    def _numbers(self, parts: Parts, rows: int, start: int) -> tuple[Values, Values]:
        """Scales and zeros of some rows."""
        how, half = self.encoding, np.float32(1 << (self.encoding.bits - 1))
        places = self._grid_rows(parts["packed"].shape[-2], rows, start)
        scales = widened(np.ascontiguousarray(_flat(parts["scales"])[places]), how.scale)
        if how.symmetric:
            return scales, np.full(scales.shape, half, np.float32)
        if how.plain_zeros:
            return scales, _flat(parts["zeros"])[places].view(np.int8).astype(np.float32) + half
        return scales, self._packed_zeros(parts, rows, start)

    def _grid_rows(self, height: int, rows: int, start: int) -> NDArray[np.intp] | slice:
        """The row of scales for each of some rows of matrices of this height."""
        together, number = self.encoding.rows, np.arange(start, start + rows)
        if self.encoding.group == 0:
            return number // height
        if together == 1:
            return slice(start, start + rows)
        return number // height * -(-height // together) + number % height // together

    def _packed_zeros(self, parts: Parts, rows: int, start: int) -> Values:
        """Zeros, whose words lie along the rows of each matrix."""
        height, groups = parts["packed"].shape[-2], parts["zeros"].shape[-1]
        words = parts["zeros"].reshape(-1, self.encoding.words(height), groups)
        first, last = start // height, -(-(start + rows) // height)
        zeros = np.empty(((last - first) * height, groups), np.float32)
        for n in range(first, last):
            codes = self._codes(np.ascontiguousarray(words[n].T), height)
            zeros[(n - first) * height : (n - first + 1) * height] = codes[:, :height].T
        return np.ascontiguousarray(zeros[start - first * height :][:rows])

    def _codes(self, words: NDArray[Any], count: int) -> NDArray[np.uint8]:
        """At least `count` codes of each row of words."""
        bits = self.encoding.bits
        if self.encoding.stream:
            return codes_of(stream_rows(words), bits, count)
        each = 32 // bits
        codes = np.empty((*words.shape, each), np.uint8)
        for place in range(each):
            codes[..., place] = words.view(np.uint32) >> np.uint32(bits * place) & np.uint32((1 << bits) - 1)
        return codes.reshape(len(words), -1)

    def _g_idx(self, codes: Codes, columns: int) -> NDArray[np.int32]:
        how = self.encoding
        if how.order is Order.UNSET:
            return np.full(columns, -1, np.int32)
        if how.order is Order.ACT and codes.groups is not None:
            return codes.groups
        return (np.arange(columns) // (columns if how.group < 0 else how.group)).astype(np.int32)


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """Rows of all matrices of a stack, one after another."""
    return np.ascontiguousarray(array).reshape(-1, array.shape[-1])


@dataclass(frozen=True, slots=True)
class RowPairsCodec:
    """ModelOpt's int4."""

    encoding: RowPairs

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """code * scale."""
        dequantize(self.unpack(parts, len(out), start), self.encoding.group, "F32", out)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Round to nearest, with the clip that makes the squared error of each group least."""
        how = self.encoding
        self.pack(round_to_groups(values, importance, how.group, 4, True, how.scale), out, start)

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The integers of some rows; runs begin at even rows."""
        pairs: NDArray[np.uint8] = parts["data"].view(np.uint8)[start // 2 : (start + rows + 1) // 2]
        codes = np.empty((2 * len(pairs), pairs.shape[1]), np.uint8)
        codes[0::2], codes[1::2] = pairs & 15 ^ 8, pairs >> 4 ^ 8
        scales = widened(np.ascontiguousarray(parts["scales"][start : start + rows]), self.encoding.scale)
        return Codes(codes[:rows], scales, np.full(scales.shape, 8, np.float32))

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """The inverse."""
        rows = len(codes.codes)
        numbers, scales, _, _ = regrouped(codes, 4, True, self.encoding.group, out["scales"].shape[1])
        out["data"][start // 2 : (start + rows) // 2] = numbers[0::2] ^ 8 | (numbers[1::2] ^ 8) << 4
        store_scales(scales, self.encoding.scale, out["scales"][start : start + rows])


def packed_codec(encoding: Packed) -> PackedCodec:
    """The codec of packed integers."""
    return PackedCodec(encoding)


def row_pairs_codec(encoding: RowPairs) -> RowPairsCodec:
    """The codec of pairs of rows."""
    return RowPairsCodec(encoding)
