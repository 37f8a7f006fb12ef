"""Sparse tensors of compressed-tensors to rows of values, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Parts, Values, codec_for
from requant.encodings import Dense
from requant.encodings.sparse import Bitmask, Marlin24
from requant.errors import UnsupportedError
from requant.kernels_cpu.groups import dequantize, regrouped, round_to_groups
from requant.kernels_cpu.packed_bits import codes_of, stream_rows, words_of


@dataclass(frozen=True, slots=True)
class Marlin24Codec:
    """Tiles of 32 inputs, 16 of them stored, by 64 outputs."""

    encoding: Marlin24

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """(code - half the range) * scale."""
        dequantize(self.unpack(parts, len(out), start), self.encoding.group, "F32", out)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Round to nearest, as W4A16 does; zeros stay zeros."""
        how = self.encoding
        self.pack(round_to_groups(values, importance, how.group, how.bits, True, "F16"), out, start)

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
        """Whole tiles; raises `UnsupportedError` where more than two of four inputs are not zero.

        Which are kept where there are fewer, is as `sparse_semi_structured_from_dense_cutlass` decides.
        """
        how, rows = self.encoding, len(codes.codes)
        middle, wide, tall = 1 << (how.bits - 1), how.bits // 2, codes.codes.shape[1] // 32
        groups = out["scales"].shape[0]
        numbers, scales, _, _ = regrouped(codes, how.bits, True, how.group, groups)
        fours = numbers.reshape(rows, -1, 4)
        first, second, third, last = np.moveaxis(fours != middle, -1, 0)
        if (first.astype(np.uint8) + second + third + last > 2).any():
            raise UnsupportedError(
                f"rows {start} to {start + rows} have more than two of four inputs that are not zero",
                hint="requant prune --sparsity 2:4 --to MARLIN24 makes them zero on the way",
            )
        one = np.where(first, 0, np.where(second, 1, 2))
        other = np.where(first & second, 1, np.where(first | second, 2 + last, 3))
        places = np.stack((one, other), -1)
        kept = np.take_along_axis(fours, places, -1).reshape(rows // 16, 16, tall, 16)
        natural = kept.transpose(2, 0, 3, 1).reshape(tall, -1, 1024)
        stored = np.ascontiguousarray(natural[:, :, tile_order(how.bits)]).reshape(tall, 16 * rows)
        out["packed"][:, wide * start : wide * (start + rows)] = words_of(stored, how.bits)
        self._store_places(places.reshape(rows, -1, 8), out["meta"], start)
        turned = scales.T.astype(np.float16)
        if groups > 2:
            turned = turned.reshape(groups, -1, 64)[:, :, _scale_order()].reshape(groups, rows)
        out["scales"][:, start : start + rows] = turned.view(out["scales"].dtype)

    @classmethod
    def _store_places(cls, places: NDArray[np.int64], meta: NDArray[Any], start: int) -> None:
        """places: [rows, words, 8]."""
        words = (places << np.arange(0, 16, 2)).sum(-1).astype(np.uint16)
        meta.reshape(-1).view(np.uint16)[cls._words(meta, len(places), start)] = words

    @staticmethod
    def _words(meta: NDArray[Any], rows: int, start: int) -> NDArray[np.int64]:
        """Where the words of some rows are: [rows, words].

        Source: `meta_reordering` of CUTLASS, as compressed-tensors writes it: 16-bit words, two bits to a place.
        """
        outputs = meta.shape[1] // 2
        r, c = np.meshgrid(np.arange(start, start + rows), np.arange(2 * len(meta)), indexing="ij")
        down = r // 64 * 64 + r % 2 * 2 + r % 8 // 4 + r % 32 % 4 // 2 * 32 + r % 64 // 8 * 4
        up_right = ((down % 2 == 0) & (c % 2 == 1)).astype(np.int64)
        down_left = ((down % 2 == 1) & (c % 2 == 0)).astype(np.int64)
        down, across = down + up_right - down_left, c - up_right + down_left
        found: NDArray[np.int64] = across // 2 * outputs * 2 + down * 2 + across % 2
        return found

    @classmethod
    def _places(cls, meta: NDArray[Any], rows: int, start: int) -> NDArray[np.int64]:
        """Which two of every four inputs are kept: [rows, inputs / 4, 2]."""
        words = meta.reshape(-1).view(np.uint16)[cls._words(meta, rows, start)].astype(np.int64)
        return np.stack([words >> 2 * k & 3 for k in range(8)], -1).reshape(rows, -1, 2)

    @staticmethod
    def _scales(scales: NDArray[Any]) -> NDArray[Any]:
        """Scales of more than two groups have every run of 64 outputs in another order.

        The writer compares the group with half the inputs, of which two groups fill one each.
        """
        if len(scales) <= 2:
            return scales
        found: NDArray[Any] = scales.reshape(len(scales), -1, 64)[:, :, np.argsort(_scale_order())].reshape(
            scales.shape
        )
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
        """What is not zero as it is stored; of every four numbers exactly two in the 2:4 form.

        Raises `UnsupportedError` for another number of them than the encoding says.
        """
        how, (rows, columns) = self.encoding, values.shape
        if not isinstance(how.inner, Dense):
            raise UnsupportedError(f"{how.label} is read, not written", hint="choose BITMASK or BITMASK-24")
        full = np.empty((rows, columns), how.inner.dtype.numpy)
        codec_for(how.inner).encode(np.ascontiguousarray(values), {"data": full})
        mask = mask_of(values, halves=how.halves)
        stored = out["data"].reshape(-1)
        first = start * (columns // 2) if how.halves else 0
        kept = full[mask]
        if kept.size != (rows * columns // 2 if how.halves else stored.size) or ((values != 0) & ~mask).any():
            raise UnsupportedError(f"rows {start} to {start + rows} are not as sparse as {how.label} says")
        stored[first : first + kept.size] = kept
        packed = np.packbits(mask, axis=1, bitorder="little")
        out["bitmask"][start : start + rows] = packed.view(out["bitmask"].dtype)
        if start == 0:
            out["shape"].reshape(-1)[...] = len(out["bitmask"]), columns
        if not how.halves:
            out["row_offsets"][...] = np.cumsum(mask.sum(1)) - mask.sum(1)


def mask_of(values: Values, *, halves: bool) -> NDArray[np.bool_]:
    """What is stored: all but zeros; or the two largest of every four numbers, the first of equal ones."""
    if not halves:
        return np.not_equal(values, 0)
    fours = np.abs(values).reshape(len(values), -1, 4)
    mask = np.zeros(fours.shape, np.bool_)
    np.put_along_axis(mask, np.argsort(-fours, axis=-1, kind="stable")[..., :2], True, -1)
    return mask.reshape(values.shape)


@cache
def _scale_order() -> NDArray[np.intp]:
    """In which order every run of 64 outputs has its scales, where there are more than two groups."""
    return np.array([8 * i + j for i in range(8) for j in (0, 4, 1, 5, 2, 6, 3, 7)])


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


def marlin24_codec(encoding: Marlin24) -> Marlin24Codec:
    """The codec of 2:4-sparse tiles."""
    return Marlin24Codec(encoding)


def bitmask_codec(encoding: Bitmask) -> BitmaskCodec:
    """The codec of bitmasks."""
    return BitmaskCodec(encoding)
