"""HQQ as its torch code computes it: code - zero, then times scale, each rounded to the dtype of the scales."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Parts, Values
from requant.dtypes import DTYPES
from requant.encodings.hqq import Hqq
from requant.errors import UnsupportedError
from requant.kernels_cpu._jit import (
    BYTES,
    FLOATS,
    INTS,
    NUMBER,
    OUT_BYTES,
    OUT_FLOATS,
    Bytes,
    Floats,
    Ints,
    inlined,
    kernel,
)
from requant.kernels_cpu.dense import dense_codec
from requant.kernels_cpu.groups import ROUNDING, rounded
from requant.kernels_cpu.simd import F32x16, load16, load_bytes16, splat16, store, to_float


@kernel(BYTES, NUMBER, NUMBER, NUMBER, NUMBER, OUT_BYTES)
def byte_fields(stored: Bytes, rows: int, columns: int, width: int, first: int, out: Bytes) -> None:
    """The codes from number `first` on: row r is in field r // rows, the highest first, of stored row r % rows."""
    done, mask = 0, np.uint8((1 << width) - 1)
    while done < out.size:
        row, column = (first + done) // columns, (first + done) % columns
        count = min(out.size - done, columns - column)
        shift, at = np.uint8(8 - width - width * (row // rows)), row % rows * columns + column
        for i in range(count):
            out[done + i] = stored[at + i] >> shift & mask
        done += count


@kernel(INTS, NUMBER, NUMBER, NUMBER, NUMBER, OUT_BYTES)
def word_fields(stored: Ints, rows: int, columns: int, width: int, first: int, out: Bytes) -> None:
    """As `byte_fields`; the fields fill 30 bits."""
    done, mask = 0, np.int32((1 << width) - 1)
    while done < out.size:
        row, column = (first + done) // columns, (first + done) % columns
        count = min(out.size - done, columns - column)
        shift, at = np.int32(30 - width - width * (row // rows)), row % rows * columns + column
        for i in range(count):
            out[done + i] = stored[at + i] >> shift & mask
        done += count


@inlined
def _value(code: F32x16, zero: F32x16, scale: F32x16, rounding: int) -> F32x16:
    return rounded(rounded(code - zero, rounding) * scale, rounding)


@kernel(BYTES, FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, OUT_FLOATS)
def scale_by_row(
    codes: Bytes, scales: Floats, zeros: Floats, columns: int, first: int, rounding: int, out: Floats
) -> None:
    """Row r of the layout has one scale; `codes` and `out` begin at number `first` of it."""
    lanes, last = np.empty(16, np.float32), np.zeros(16, np.uint8)
    done = 0
    while done < out.size:
        row, column = (first + done) // columns, (first + done) % columns
        stop = done + min(out.size - done, columns - column)
        zero, scale = splat16(zeros[row]), splat16(scales[row])
        while done + 16 <= stop:
            store(out, done, _value(to_float(load_bytes16(codes, done)), zero, scale, rounding))
            done += 16
        if done < stop:
            for i in range(stop - done):
                last[i] = codes[done + i]
            store(lanes, 0, _value(to_float(load_bytes16(last, 0)), zero, scale, rounding))
            for i in range(stop - done):
                out[done + i] = lanes[i]
            done = stop


@kernel(BYTES, FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, OUT_FLOATS)
def scale_by_column(
    codes: Bytes, scales: Floats, zeros: Floats, columns: int, first: int, rounding: int, out: Floats
) -> None:
    """Column c of the layout has one scale; `scales` and `zeros` have sixteen numbers more than columns."""
    lanes, last = np.empty(16, np.float32), np.zeros(16, np.uint8)
    done = 0
    while done < out.size:
        column = (first + done) % columns
        stop = done + min(out.size - done, columns - column)
        while done + 16 <= stop:
            code = to_float(load_bytes16(codes, done))
            store(out, done, _value(code, load16(zeros, column), load16(scales, column), rounding))
            done, column = done + 16, column + 16
        if done < stop:
            for i in range(stop - done):
                last[i] = codes[done + i]
            code = to_float(load_bytes16(last, 0))
            store(lanes, 0, _value(code, load16(zeros, column), load16(scales, column), rounding))
            for i in range(stop - done):
                out[done + i] = lanes[i]
            done = stop


@dataclass(frozen=True, slots=True)
class HqqCodec:
    """One width, group size and axis."""

    encoding: Hqq

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """(code - zero) * scale."""
        if not out.size:
            return
        how, first = self.encoding, start * out.shape[1]
        scales, zeros = self._floats(parts, "scale"), self._floats(parts, "zero")
        rows = prod(parts["data"].shape) * DTYPES[how.storage].bits // 8
        columns = how.group if how.axis else scales.size - 16
        rows //= columns * (4 if how.width == 3 else 1)
        codes = np.empty(out.size, np.uint8)
        if how.width == 3:
            word_fields(parts["data"].reshape(-1).view(np.int32), rows, columns, how.width, first, codes)
        else:
            byte_fields(parts["data"].reshape(-1).view(np.uint8), rows, columns, how.width, first, codes)
        scale = scale_by_row if how.axis else scale_by_column
        scale(codes, scales, zeros, columns, first, ROUNDING[how.scale], out.reshape(-1))

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Nobody asks for it: no scheme writes HQQ."""
        raise UnsupportedError(f"{self.encoding.label} is read, not written", hint="choose GPTQ or AWQ")

    def _floats(self, parts: Parts, part: str) -> NDArray[np.float32]:
        """The numbers of a part as float32, and sixteen zeros."""
        stored = parts[part].reshape(1, -1)
        numbers = np.zeros(stored.size + 16, np.float32)
        dense_codec(DTYPES[self.encoding.scale]).decode({"data": stored}, numbers[:-16].reshape(1, -1))
        return numbers


def hqq_codec(encoding: Hqq) -> HqqCodec:
    """The codec of an encoding of HQQ."""
    return HqqCodec(encoding)
