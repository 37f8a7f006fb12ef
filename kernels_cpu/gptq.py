"""GPTQ: columns of packed codes to rows, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Correction, Halves, Parts, Values
from requant.encodings.gptq import OLD_THREE_BITS, Gptq, Order, Zeros
from requant.kernels_cpu.columns import Columns, columns_to_halves
from requant.kernels_cpu.corrected import corrected_groups
from requant.kernels_cpu.dense import widened
from requant.kernels_cpu.groups import dequantize, regrouped, round_to_groups, scales_of, stored_scales
from requant.kernels_cpu.packed_bits import codes_of, stream_rows, streams_of, words_of

#: What "less one" takes off whole words: a one in each code. GPTQModel and AutoGPTQ agree wherever no zero is 0.
_ONES: Final = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}


@dataclass(frozen=True, slots=True)
class GptqCodec:
    """One encoding of the family. `parts` are whole tensors; runs begin at multiples of 32 rows."""

    encoding: Gptq

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """F16((code - zero) * scale), or in the dtype of the scales: what GPTQModel's torch kernel computes."""
        if self.encoding.scale == "F32":
            dequantize(self._padded(parts, len(out), start, out.shape[1]), self.encoding.group, "F32", out)
        else:
            widened(lambda halves, at: self.decode_halves(parts, halves, start + at), self.encoding.scale, out)

    def decode_halves(self, parts: Parts, out: Halves, start: int = 0) -> None:
        """The same, not widened."""
        how, (rows, inputs) = self.encoding, out.shape
        scales, zeros = self._numbers(parts, rows, start)
        if how.order is Order.ACT:
            groups = np.ascontiguousarray(parts["g_idx"], np.int32)
        else:
            groups = np.arange(inputs, dtype=np.int32) // np.int32(inputs if how.group < 0 else how.group)
        columns = Columns(parts["qweight"], how.bits, scales, zeros, groups, how.planar)
        columns_to_halves(columns, start, how.scale, out)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Round to nearest, with the clip that makes the squared error of each group least.

        No zero is 0 where one is taken off it: readers do not agree on what that is.
        """
        how = self.encoding
        codes = round_to_groups(values, importance, how.group, how.bits, how.symmetric, how.scale, self._lowest)
        self.pack(codes, out, start)

    def encode_corrected(self, values: Values, out: Parts, start: int, correction: Correction) -> None:
        """GPTQ's own way: columns after one make up for its error."""
        how = self.encoding
        codes = corrected_groups(values, correction, how.group, how.bits, how.symmetric, how.scale, self._lowest)
        self.pack(codes, out, start)

    @property
    def _lowest(self) -> int:
        return 0 if self.encoding.zeros is Zeros.V2 else 1

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The integers of some rows."""
        scales = parts["scales"]
        columns = _columns(parts, self.encoding)
        codes = self._padded(parts, rows, start, columns)
        codes.codes = codes.codes[:, :columns]
        if codes.groups is None and self.encoding.group > 0 and columns % self.encoding.group:
            codes.groups = (np.arange(columns, dtype=np.int32) // self.encoding.group).astype(np.int32)
        assert codes.scales.shape[1] == scales.shape[0]
        return codes

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """Store integers; groups of the source may be multiples of ours, and its zeros others."""
        how, rows, columns = self.encoding, *codes.codes.shape
        groups = out["scales"].shape[0]
        numbers, scales, zeros, _ = regrouped(codes, how.bits, how.symmetric, how.group, groups)
        out["qweight"][:, start : start + rows] = words_of(numbers, how.bits, how.planar).T
        out["scales"][:, start : start + rows] = stored_scales(scales, how.scale).T
        words = words_of(self._stored_zeros(zeros.T.astype(np.uint8)), how.bits, how.planar)
        first = start * how.bits // 32
        self._shift(words, first, -1)
        out["qzeros"][:, first : first + words.shape[1]] = words
        if start == 0 and how.order is not Order.MISSING:
            out["g_idx"][:] = self._g_idx(codes, columns)

    def _padded(self, parts: Parts, rows: int, start: int, columns: int) -> Codes:
        """The integers of some rows, with whatever fills the last word of each row of codes."""
        how = self.encoding
        codes = codes_of(streams_of(parts["qweight"], start, rows), how.bits, columns, how.planar)
        groups: NDArray[np.int32] | None = None
        if how.order is Order.ACT:
            groups = np.ascontiguousarray(parts["g_idx"]).astype(np.int32)
        scales, zeros = (np.ascontiguousarray(x.T) for x in self._numbers(parts, rows, start))
        return Codes(codes, scales, zeros, groups)

    def _numbers(self, parts: Parts, rows: int, start: int) -> tuple[Values, Values]:
        """Scales and zeros of some rows, as they lie: float32 [groups, rows]."""
        return scales_of(parts["scales"][:, start : start + rows], self.encoding.scale), self._zeros(parts, rows, start)

    def _zeros(self, parts: Parts, rows: int, start: int) -> NDArray[np.float32]:
        how = self.encoding
        first, last = start * how.bits // 32, -(-(start + rows) * how.bits // 32)
        words: NDArray[Any] = parts["qzeros"][:, first:last].copy()
        self._shift(words, first, 1)
        zeros: NDArray[Any] = codes_of(stream_rows(words), how.bits, rows, how.planar)[:, :rows]
        if self._by_code:
            zeros = zeros + np.uint8(1) & np.uint8((1 << how.bits) - 1)
        return zeros.astype(np.float32)

    def _stored_zeros(self, zeros: NDArray[np.uint8]) -> NDArray[np.uint8]:
        less: NDArray[Any] = zeros - np.uint8(1) & np.uint8((1 << self.encoding.bits) - 1)
        return less if self._by_code else zeros

    @property
    def _by_code(self) -> bool:
        """Whether one is taken off each code by itself."""
        return self.encoding.zeros is Zeros.V1 and self.encoding.bits not in _ONES

    def _shift(self, words: NDArray[Any], first: int, sign: int) -> None:
        """Take off words of zeros what their writer took off (sign -1), or give it back; they begin at word `first`."""
        how = self.encoding
        if how.zeros is Zeros.V1 and how.bits in _ONES:
            words.view(np.uint32)[...] += np.uint32(sign * _ONES[how.bits] & 0xFFFFFFFF)
        elif how.zeros is Zeros.V1_OLD:
            place = (first + np.arange(words.shape[1])) % 3
            taken = np.array([sign * word & 0xFFFFFFFF for word in OLD_THREE_BITS], np.uint32)
            words.view(np.uint32)[...] += taken[place]

    def _g_idx(self, codes: Codes, columns: int) -> NDArray[np.int32]:
        how = self.encoding
        if how.order is Order.UNSET:
            return np.zeros(columns, np.int32)
        if how.order is Order.ACT and codes.groups is not None:
            return codes.groups
        return (np.arange(columns) // (columns if how.group < 0 else how.group)).astype(np.int32)


def gptq_codec(encoding: Gptq) -> GptqCodec:
    """The codec of one GPTQ encoding."""
    return GptqCodec(encoding)


def _columns(parts: Parts, encoding: Gptq) -> int:
    """Inputs of the tensor, as far as its parts tell."""
    if "g_idx" in parts:
        return len(parts["g_idx"])
    return int(parts["qweight"].shape[0]) * 32 // encoding.bits
