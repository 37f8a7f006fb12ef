"""MLX's affine integers as MLX computes them on the CPU: products and sums are rounded to the dtype of the scales.

Source: `quantize` in mlx/backend/cpu/quantized.cpp of MLX 0.32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Parts, Values
from requant.dtypes import DTYPES
from requant.encodings.mlx import MlxAffine
from requant.kernels_cpu._jit import BYTES, FLOATS, NUMBER, OUT_BYTES, OUT_FLOATS, Bytes, Floats, kernel
from requant.kernels_cpu.dense import dense_codec
from requant.kernels_cpu.groups import ROUNDING, regrouped, round_to_groups, rounded
from requant.kernels_cpu.packed_bits import codes_of, stream_rows, words_of
from requant.kernels_cpu.simd import (
    greater,
    largest_lane,
    lesser,
    load16,
    load_bytes16,
    rint,
    smallest_lane,
    store,
    store_bytes,
    to_float,
    to_int,
)

_F = np.float32
#: Of groups whose values are all alike, or almost.
_LEAST_SCALE: Final = _F(1e-7)


@kernel(BYTES, FLOATS, FLOATS, NUMBER, NUMBER, OUT_FLOATS)
def scale_and_shift(codes: Bytes, scales: Floats, offsets: Floats, group: int, rounding: int, out: Floats) -> None:
    """rounded(code * scale) + offset, rounded; groups are whole numbers of 16."""
    for k in range(scales.size):
        scale, offset = scales[k], offsets[k]
        for i in range(k * group, (k + 1) * group, 16):
            product = rounded(to_float(load_bytes16(codes, i)) * scale, rounding)
            store(out, i, rounded(product + offset, rounding))


@kernel(FLOATS, NUMBER, NUMBER, OUT_BYTES, OUT_FLOATS, OUT_FLOATS)
def affine_groups(values: Floats, group: int, bits: int, codes: Bytes, scales: Floats, offsets: Floats) -> None:
    """Groups of values to codes, scales and offsets: the end of the range that is further from 0 is met exactly."""
    top = _F((1 << bits) - 1)
    for k in range(scales.size):
        low = high = load16(values, k * group)
        for i in range(k * group + 16, (k + 1) * group, 16):
            low, high = lesser(low, load16(values, i)), greater(high, load16(values, i))
        least, most = smallest_lane(low), largest_lane(high)
        scale = max((most - least) / top, _LEAST_SCALE)
        edge = most
        if abs(least) > abs(most):
            edge = least
        else:
            scale = -scale
        levels, offset = _F(np.rint(edge / scale)), _F(0)
        if levels != 0:
            scale, offset = edge / levels, edge
        for i in range(k * group, (k + 1) * group, 16):
            level = rint((load16(values, i) - offset) / scale)
            store_bytes(codes, i, to_int(lesser(greater(level, _F(0)), top)))
        scales[k], offsets[k] = scale, offset


@dataclass(frozen=True, slots=True)
class MlxAffineCodec:
    """One width and group size."""

    encoding: MlxAffine

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Code times scale, plus offset."""
        if not out.size:
            return
        how, rows = self.encoding, len(out)
        codes = self._codes(parts, rows, out.shape[1])
        scales, offsets = (self._floats(parts[part], rows).reshape(-1) for part in ("scales", "biases"))
        scale_and_shift(codes.reshape(-1), scales, offsets, how.group, ROUNDING[how.scale], out.reshape(-1))

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """As `mx.quantize`, in the order of its arithmetic; with importance, what costs least."""
        how = self.encoding
        if not values.size:
            return
        if importance is not None:
            self.pack(round_to_groups(values, importance, how.group, how.bits, False, how.scale), out, start)
            return
        rows, columns = values.shape
        codes = np.empty((rows, columns), np.uint8)
        scales, offsets = (np.empty((rows, columns // how.group), np.float32) for _ in range(2))
        flat = np.ascontiguousarray(values).reshape(-1)
        affine_groups(flat, how.group, how.bits, codes.reshape(-1), scales.reshape(-1), offsets.reshape(-1))
        self.pack(Codes(codes, scales, np.empty((rows, 0), np.float32), offsets=offsets), out, start)

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """Codes, scales and offsets."""
        scales, offsets = (self._floats(parts[part], rows) for part in ("scales", "biases"))
        codes = self._codes(parts, rows, scales.shape[1] * self.encoding.group)
        return Codes(codes, scales, np.empty((rows, 0), np.float32), offsets=offsets)

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """Store codes; integer zeros become offsets."""
        how, rows = self.encoding, len(codes.codes)
        groups = out["scales"].shape[-1]
        found = regrouped(codes, how.bits, False, how.group, groups)
        offsets = found.offsets if found.offsets is not None else -found.zeros * found.scales
        for part, numbers in (("scales", found.scales), ("biases", offsets)):
            dense_codec(DTYPES[how.scale]).encode(
                np.ascontiguousarray(numbers), {"data": out[part].reshape(-1, groups)[start : start + rows]}
            )
        words = out["data"].reshape(-1, out["data"].shape[-1])[start : start + rows]
        words[...] = words_of(found.codes, how.bits).view(np.uint32)

    def _codes(self, parts: Parts, rows: int, columns: int) -> NDArray[np.uint8]:
        words = parts["data"].reshape(rows, -1)
        return codes_of(stream_rows(words), self.encoding.bits, columns)

    def _floats(self, array: NDArray[Any], rows: int) -> Floats:
        stored = array.reshape(rows, -1)
        numbers = np.empty(stored.shape, np.float32)
        dense_codec(DTYPES[self.encoding.scale]).decode({"data": stored}, numbers)
        return numbers


def mlx_affine_codec(encoding: MlxAffine) -> MlxAffineCodec:
    """The codec of an encoding of MLX."""
    return MlxAffineCodec(encoding)
