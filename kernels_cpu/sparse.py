"""Sparse tensors of compressed-tensors to rows of values. They are read and copied, not made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Parts, Values, codec_for
from requant.encodings import Dense
from requant.encodings.sparse import Bitmask, Marlin24
from requant.errors import UnsupportedError
from requant.kernels_cpu.groups import dequantize
from requant.kernels_cpu.packed_bits import codes_of, stream_rows


@dataclass(frozen=True, slots=True)
class Marlin24Codec:
    """Tiles of 32 inputs, 16 of them stored, by 64 outputs."""

    encoding: Marlin24

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """(code - half the range) * scale."""
        dequantize(self.unpack(parts, len(out), start), self.encoding.group, "F32", out)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Refused."""
        _not_written(self.encoding.label)

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The integers of some rows: whole tiles; what was left out is half the range."""
        how = self.encoding
        wide = how.bits // 2
        words = np.ascontiguousarray(parts["packed"][:, wide * start : wide * (start + rows)])
        tall, middle = len(words), 1 << (how.bits - 1)
        stored = codes_of(stream_rows(words), how.bits, 16 * rows)[:, : 16 * rows].reshape(tall, -1, 1024)
        natural = stored[:, :, np.argsort(tile_order(how.bits))].reshape(tall, rows // 16, 16, 16)
        kept = natural.transpose(1, 3, 0, 2).reshape(rows, 16 * tall)
        codes = np.full((rows, 8 * tall, 4), middle, np.uint8)
        np.put_along_axis(codes, self._places(parts["meta"], rows, start), kept.reshape(rows, 8 * tall, 2), 2)
        scales = self._scales(np.ascontiguousarray(parts["scales"][:, start : start + rows]))
        values = np.ascontiguousarray(scales.T, np.float32)
        return Codes(codes.reshape(rows, 32 * tall), values, np.full(values.shape, middle, np.float32))

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """Refused."""
        _not_written(self.encoding.label)

    @staticmethod
    def _places(meta: NDArray[Any], rows: int, start: int) -> NDArray[np.int64]:
        """Which two of every four inputs are kept: [rows, inputs / 4, 2].

        Source: `meta_reordering` of CUTLASS, as compressed-tensors writes it: 16-bit words, two bits to a place.
        """
        flat, outputs = meta.reshape(-1).view(np.uint16), meta.shape[1] // 2
        r, c = np.meshgrid(np.arange(start, start + rows), np.arange(2 * len(meta)), indexing="ij")
        down = r // 64 * 64 + r % 2 * 2 + r % 8 // 4 + r % 32 % 4 // 2 * 32 + r % 64 // 8 * 4
        up_right = ((down % 2 == 0) & (c % 2 == 1)).astype(np.int64)
        down_left = ((down % 2 == 1) & (c % 2 == 0)).astype(np.int64)
        down, across = down + up_right - down_left, c - up_right + down_left
        words = flat[across // 2 * outputs * 2 + down * 2 + across % 2].astype(np.int64)
        return np.stack([words >> 2 * k & 3 for k in range(8)], -1).reshape(rows, -1, 2)

    @staticmethod
    def _scales(scales: NDArray[Any]) -> NDArray[Any]:
        """Scales of more than two groups have every run of 64 outputs in another order.

        The writer compares the group with half the inputs, of which two groups fill one each.
        """
        if len(scales) <= 2:
            return scales
        order = np.array([8 * i + j for i in range(8) for j in (0, 4, 1, 5, 2, 6, 3, 7)])
        found: NDArray[Any] = scales.reshape(len(scales), -1, 64)[:, :, np.argsort(order)].reshape(scales.shape)
        return found


@dataclass(frozen=True, slots=True)
class BitmaskCodec:
    """Rows are filled out with zeros and handed to the codec of what is stored."""

    encoding: Bitmask

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Zeros where no bit is set."""
        how, (rows, columns) = self.encoding, out.shape
        bits = np.unpackbits(parts["bitmask"][start : start + rows].view(np.uint8), axis=1, bitorder="little")
        mask = bits[:, :columns].astype(bool)
        stored = parts["data"].reshape(-1)
        first = start * (columns // 2) if how.halves else int(parts["row_offsets"].reshape(-1)[start])
        count = int(mask.sum())
        if first < 0 or first + count > stored.size:
            raise UnsupportedError(f"rows {start} to {start + rows} have more bits than numbers: the file is damaged")
        full = np.zeros((rows, columns), stored.dtype)
        full[mask] = stored[first : first + count]
        inner: dict[str, NDArray[Any]] = {"data": full}
        if not isinstance(how.inner, Dense):
            scales = parts["scales"]
            inner["scales"] = scales[start : start + rows] if how.inner.sliced else scales
        codec_for(how.inner).decode(inner, out)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Refused."""
        _not_written(self.encoding.label)


@cache
def tile_order(bits: int) -> NDArray[np.intp]:
    """Which of a tile's codes (stored input, output) lies at each of the 1024 places.

    Source: `get_permutations_24` of compressed-tensors.
    """
    order = []
    for lane in range(32):
        column = lane // 4
        first = [
            16 * row + 256 * (column // 2) + 8 * (column % 2) + 4 * block
            for block in (0, 1)
            for row in (2 * (lane % 4), 2 * (lane % 4) + 1, 2 * (lane % 4) + 8, 2 * (lane % 4) + 9)
        ]
        order += [place + j for j in range(4) for place in first]
    runs = np.array(order)
    if bits == 4:
        return runs.reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].ravel()
    return runs.reshape(-1, 4)[:, [0, 2, 1, 3]].ravel()


def _not_written(label: str) -> NoReturn:
    raise UnsupportedError(f"{label} is read, not written", hint="choose W4A16 or FP8")


def marlin24_codec(encoding: Marlin24) -> Marlin24Codec:
    """The codec of 2:4-sparse tiles."""
    return Marlin24Codec(encoding)


def bitmask_codec(encoding: Bitmask) -> BitmaskCodec:
    """The codec of bitmasks."""
    return BitmaskCodec(encoding)
