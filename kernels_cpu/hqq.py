"""HQQ's slabs and MLX's words to values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Parts, Values
from requant.encodings.hqq import SLABS, Hqq, MlxAffine
from requant.errors import UnsupportedError
from requant.kernels_cpu.groups import dequantize, regrouped
from requant.kernels_cpu.packed_bits import codes_of, stream_rows, words_of
from requant.kernels_cpu.scaled_codec import round_to, store_scales, widened


@dataclass(frozen=True, slots=True)
class HqqCodec:
    """Rows of the matrix of groups lie in slabs: the first share of them in the highest bits, and so on."""

    encoding: Hqq

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """(code - zero) * scale, every step in the dtype of the scales."""
        how, flat = self.encoding, out.reshape(-1)
        first = start * out.shape[1]
        scales, zeros = (widened(parts[name], how.scale).reshape(-1) for name in ("scales", "zeros"))
        width = parts["data"].shape[1]
        if how.axis == 1:
            low, high = first // width, -(-(first + flat.size) // width)
            codes = self._rows(parts["data"], low, high, 0, width, how.groups((flat.size, width)))
            values = self._values(codes, zeros[low:high, None], scales[low:high, None])
            flat[...] = values.reshape(-1)[first - low * width :][: flat.size]
            return
        done = 0
        while done < flat.size:  # a matrix row is a long run of values here
            row, column = divmod(first + done, width)
            stop = min(width, column + flat.size - done)
            codes = self._rows(parts["data"], row, row + 1, column, stop, how.group)
            values = self._values(codes, zeros[None, column:stop], scales[None, column:stop])
            flat[done : done + stop - column] = values.reshape(-1)
            done += stop - column

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Refused: HQQ is read and copied."""
        raise UnsupportedError("HQQ is read, not written", hint="choose GPTQ, W4A16 or NF4")

    def _rows(self, data: NDArray[Any], low: int, high: int, left: int, right: int, rows: int) -> NDArray[np.float32]:
        """Codes of some rows and columns of the matrix of groups."""
        bits, slabs = self.encoding.bits, SLABS[self.encoding.bits]
        share = len(data)
        codes = np.empty((high - low, right - left), np.float32)
        for slab in range(low // share, (high - 1) // share + 1):
            begin, end = max(low, slab * share), min(high, (slab + 1) * share)
            stored = data[begin - slab * share : end - slab * share, left:right].view("u4" if bits == 3 else "u1")
            mask = 255 if slabs == 1 else (1 << bits) - 1
            codes[begin - low : end - low] = stored >> (bits * (slabs - 1 - slab) if slabs > 1 else 0) & mask
        return codes

    def _values(self, codes: Any, zeros: Any, scales: Any) -> NDArray[np.float32]:
        codes -= zeros
        round_to(codes, self.encoding.values.label)
        codes *= scales
        round_to(codes, self.encoding.values.label)
        found: NDArray[np.float32] = codes
        return found


@dataclass(frozen=True, slots=True)
class MlxAffineCodec:
    """Rows of words."""

    encoding: MlxAffine

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """code * scale + offset."""
        codes = self._padded(parts, len(out), start, out.shape[1])
        dequantize(codes, self.encoding.group, self.encoding.values.label, out)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Refused: MLX is read, copied and repacked to."""
        raise UnsupportedError("MLX's affine quantization is read, not written", hint="choose GPTQ, AWQ or W4A16")

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The integers of some rows."""
        columns = parts["scales"].reshape(-1, parts["scales"].shape[-1]).shape[1] * self.encoding.group
        codes = self._padded(parts, rows, start, columns)
        codes.codes = codes.codes[:, :columns]
        return codes

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """The inverse."""
        how, rows = self.encoding, len(codes.codes)
        groups = out["scales"].shape[-1]
        numbers, scales, zeros, offsets = regrouped(codes, how.bits, False, how.group, groups)
        made = -zeros * scales if offsets is None else offsets
        out["data"].reshape(-1, out["data"].shape[-1])[start : start + rows] = words_of(numbers, how.bits).view("u4")
        store_scales(scales, how.scale, out["scales"].reshape(-1, groups)[start : start + rows])
        store_scales(made, how.scale, out["offsets"].reshape(-1, groups)[start : start + rows])

    def _padded(self, parts: Parts, rows: int, start: int, columns: int) -> Codes:
        words, scales, offsets = (
            np.ascontiguousarray(parts[name].reshape(-1, parts[name].shape[-1])[start : start + rows])
            for name in ("data", "scales", "offsets")
        )
        codes = codes_of(stream_rows(words), self.encoding.bits, columns)
        how, none = self.encoding.scale, np.empty((rows, 0), np.float32)
        return Codes(codes, widened(scales, how), none, offsets=widened(offsets, how))


def hqq_codec(encoding: Hqq) -> HqqCodec:
    """The codec of HQQ."""
    return HqqCodec(encoding)


def mlx_codec(encoding: MlxAffine) -> MlxAffineCodec:
    """The codec of MLX's integers."""
    return MlxAffineCodec(encoding)
