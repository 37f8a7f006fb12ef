"""EXL2, bit for bit as exllamav2's kernels reconstruct weights: every product is rounded to a half."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Halves, Parts, Values
from requant.encodings.exl2 import Exl2
from requant.kernels_cpu._jit import FLOATS, INTS, NUMBER, OUT_BYTES, OUT_FLOATS, OUT_WORDS, WORDS, Floats, kernel
from requant.kernels_cpu.columns import Columns, columns_to_halves
from requant.kernels_cpu.dense import widened
from requant.kernels_cpu.packed_bits import words_of
from requant.kernels_cpu.simd import fabs, greater, lesser, load, number, rint, splat, sqrt, store

_F = np.float32


@kernel(WORDS, INTS, OUT_WORDS)
def _ordered(stored: Halves, order: NDArray[np.int32], out: Halves) -> None:
    """out[o, i] = stored[o, order[i]]."""
    inputs = order.size
    for first in range(0, out.size, inputs):
        for i in range(inputs):
            out[first + i] = stored[first + number(order, i)]


@dataclass(frozen=True, slots=True)
class Stored:
    """A layer as integers, before they are packed.

    codes: [outputs, inputs] in stored order. steps: [groups, outputs], 1 to 16. largest: [groups], scales of step 16.
    order: [inputs], the input that is stored in each row.
    """

    codes: NDArray[np.uint8]
    steps: NDArray[np.uint32]
    largest: NDArray[np.float16]
    order: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Exl2Codec:
    """One layer's widths."""

    encoding: Exl2

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Rows are outputs; the order of the inputs is that of the model again."""
        widened(lambda halves, at: self.decode_halves(parts, halves, start + at), "F16", out)

    def decode_halves(self, parts: Parts, out: Halves, start: int = 0) -> None:
        """The same, not widened; every group begins with a fresh word, so runs of groups of one width do too."""
        stored, scales = np.empty(out.shape, np.uint16), group_scales(parts, start, len(out))
        word = row = first = 0
        for bits, rows, times in self.encoding.groups:
            height, inputs, here = rows * times * bits // 32, rows * times, scales[first : first + times]
            middles = np.full(here.shape, 1 << (bits - 1), np.float32)
            groups = np.arange(inputs, dtype=np.int32) // np.int32(rows)
            columns = Columns(parts["q_weight"][word : word + height], bits, here, middles, groups)
            columns_to_halves(columns, start, "F16", stored, row)
            word, row, first = word + height, row + inputs, first + times
        if out.size:
            order = parts["q_invperm"].astype(np.int32, copy=False)
            _ordered(stored.reshape(-1), order, out.reshape(-1))

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """All rows at once. Inputs are stored by falling weight of their errors, so that the widest groups get those.

        The order is that of the inputs' squares times their importance, where exllamav2 has that of its Hessian's
        diagonal; within a group everything is as `AdaptiveGPTQ` does it without error feedback.
        """
        outputs, inputs = values.shape
        order = input_order(values, importance)
        weights = np.ones(inputs, np.float32) if importance is None else input_weights(importance, inputs)[order]
        stored = Stored(
            np.empty((outputs, inputs), np.uint8),
            np.empty((self.encoding.count, outputs), np.uint32),
            np.empty(self.encoding.count, np.float16),
            order,
        )
        row = number = 0
        for bits, rows, times in self.encoding.groups:
            for _ in range(times):
                group = np.ascontiguousarray(values[:, order[row : row + rows]].T)
                found = quantize_group(group, bits, weights[row : row + rows])
                stored.codes[:, row : row + rows] = found[0].T
                stored.steps[number], stored.largest[number] = found[1:]
                row, number = row + rows, number + 1
        self.pack(stored, out)

    def pack(self, stored: Stored, out: Parts) -> None:
        """Fill all parts; the columns of the padding are zeros."""
        outputs, inputs = stored.codes.shape
        padded = out["q_weight"].shape[1]
        out["q_invperm"][stored.order] = np.arange(inputs, dtype=np.int32)
        if "q_perm" in out:
            out["q_perm"][...] = stored.order
        pairs = []
        row = word = 0
        for bits, rows, times in self.encoding.groups:
            length, height = rows * times, rows * times * bits // 32
            codes = np.full((padded, length), 1 << (bits - 1), np.uint8)
            codes[:outputs] = stored.codes[:, row : row + length]
            out["q_weight"][word : word + height] = words_of(codes, bits).T
            pairs += [number for n in range(times) for number in (bits, word + n * rows * bits // 32)]
            row, word = row + length, word + height
        out["q_groups"].view(np.uint16)[...] = pairs
        nibbles = np.full((self.encoding.count, padded), 15, np.uint32)
        nibbles[:, :outputs] = stored.steps - 1
        shifts = np.arange(0, 32, 4, dtype=np.uint32)
        packed = np.bitwise_or.reduce(nibbles.reshape(self.encoding.count, -1, 8) << shifts, axis=2)
        out["q_scale"].view(np.uint32)[...] = packed
        out["q_scale_max"][...] = stored.largest


def input_order(values: Values, importance: Values | None) -> NDArray[np.intp]:
    """Inputs from the one whose rounding matters most to the one where it matters least."""
    weight = np.einsum("oi,oi->i", values, values, dtype=np.float64)
    if importance is not None:
        weight = weight * input_weights(importance, values.shape[1])
    return np.argsort(-weight, kind="stable")


def input_weights(importance: Values, inputs: int) -> Floats:
    """One weight for each input, 1 on average; all 1 when the importance is nothing but zeros."""
    means = importance.reshape(-1, inputs).mean(axis=0, dtype=np.float64)
    total = means.mean()
    weights: Floats = (means / total if total > 0 else np.ones(inputs)).astype(np.float32)
    return weights


def quantize_group(
    values: Values, bits: int, weights: Floats
) -> tuple[NDArray[np.uint8], NDArray[np.uint32], np.float16]:
    """One group [rows, outputs]: its codes, the step 1 to 16 of each output's scale, and the largest scale.

    Scales are (step / 16)^2 of the largest; a factor for all of them is the best of 97 by the 3.5th power of errors,
    each row's times its weight.
    """
    sizes = np.abs(values).max(axis=0) + _F(1e-12)
    base = sizes / _F(((1 << bits) - 1) / 2)
    most = base.max()
    steps = np.clip(np.rint(_F(16) * np.sqrt(base / most)), 1, 16).astype(np.float32)
    scales = np.square(steps / _F(16)) * most
    found = np.empty(1, np.float32)
    _search(values.reshape(-1), scales, weights, 1 << (bits - 1), found)
    largest = np.float16(most * found[0])
    exact = np.square(steps).astype(np.float16) * (largest * np.float16(1 / 256))
    codes = np.empty(values.size, np.uint8)
    _round(values.reshape(-1), exact.astype(np.float32), 1 << (bits - 1), codes)
    return codes.reshape(values.shape), steps.astype(np.uint32), largest


@kernel(FLOATS, FLOATS, FLOATS, NUMBER, OUT_FLOATS)
def _search(values: Floats, scales: Floats, weights: Floats, middle: int, found: Floats) -> None:
    """The factor 0.70 … 1.20 of all scales with the least weighted sum of |error|^3.5; values: [rows, outputs]."""
    columns = scales.shape[0]
    low, high = _F(-middle), _F(middle - 1)
    lanes = np.empty(8, np.float32)
    best, found[0] = np.inf, _F(1)
    for k in range(97):
        factor = _F(0.70) + _F(0.50) * _F(k) / _F(96)
        total = 0.0
        for row in range(values.shape[0] // columns):
            part = splat(_F(0))
            rest = 0.0
            first = row * columns
            for column in range(0, columns - 7, 8):
                scale = load(scales, column) * factor
                x = load(values, first + column)
                code = greater(lesser(rint(x / scale), high), low)
                error = fabs(code * scale - x)
                part = part + error * error * error * sqrt(error)
            for column in range(columns - columns % 8, columns):
                scale_ = scales[column] * factor
                code_ = max(low, min(high, np.rint(values[first + column] / scale_)))
                error_ = abs(code_ * scale_ - values[first + column])
                rest += error_ * error_ * error_ * np.sqrt(error_)
            store(lanes, 0, part)
            for lane in range(8):
                rest += lanes[lane]
            total += rest * weights[row]
        if total < best:
            best, found[0] = total, factor


@kernel(FLOATS, FLOATS, NUMBER, OUT_BYTES)
def _round(values: Floats, scales: Floats, middle: int, codes: NDArray[np.uint8]) -> None:
    """The nearest code with the scales as they are stored; where a scale is zero, the middle."""
    columns = scales.shape[0]
    low, high = _F(-middle), _F(middle - 1)
    for row in range(values.shape[0] // columns):
        for column in range(columns):
            scale = scales[column]
            code = np.rint(values[row * columns + column] / scale) if scale > 0 else _F(0)
            codes[row * columns + column] = np.uint8(max(low, min(high, code)) + _F(middle))


def group_scales(parts: Parts, start: int, count: int) -> Floats:
    """Scales of some outputs [groups, outputs]: squares of 1 to 16 times 1/256 of the group's own, in halves."""
    words = parts["q_scale"].view(np.uint32)[:, start // 8 : (start + count + 7) // 8]
    nibbles = (words[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(len(words), -1)
    nibbles = nibbles[:, start % 8 : start % 8 + count]
    squares = np.square(nibbles + 1).astype(np.float16)
    largest = parts["q_scale_max"].astype(np.float16, copy=False) * np.float16(1 / 256)
    scales: Floats = (squares * largest[:, None]).astype(np.float32)
    return scales


def exl2_codec(encoding: Exl2) -> Exl2Codec:
    """The codec of one layer's widths."""
    return Exl2Codec(encoding)
