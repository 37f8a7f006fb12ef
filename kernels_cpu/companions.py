"""Weights of a GGUF times the scale that stands beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codec, Codes, CodesCodec, Parts, Values, codec_for
from requant.encodings import BLOCKS, Blocks
from requant.encodings.companions import Companioned
from requant.errors import UnsupportedError
from requant.kernels_cpu.ggml_fp4 import decode_nvfp4_times


@dataclass(frozen=True, slots=True)
class CompanionedCodec:
    """One encoding; `stored` is the codec of the weight alone."""

    encoding: Companioned
    stored: Codec

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Matrix by matrix: each of a stack has a scale of its own."""
        for rows, whole, first, stop in self._matrices(parts, len(out), start):
            values = out[first:stop]
            if self.encoding.stored == BLOCKS["NVFP4"]:
                decode_nvfp4_times(rows.reshape(-1), whole, values.reshape(-1))
            else:
                self.stored.decode({"data": rows}, values)
                values *= whole[0]

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """A GGUF has two tensors instead, each written on its own."""
        raise UnsupportedError(f"{self.encoding.label} is read, not written", hint="choose the type without the scale")

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The integers of the weight; the rows must be of one matrix."""
        (found,) = self._matrices(parts, rows, start)
        assert isinstance(self.stored, CodesCodec)
        codes = self.stored.unpack({"data": found[0]}, rows)
        codes.whole = float(found[1][0])
        return codes

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """See `encode`."""
        raise UnsupportedError(f"{self.encoding.label} is read, not written", hint="choose the type without the scale")

    def _matrices(
        self, parts: Parts, count: int, start: int
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.float32], int, int]]:
        """For each matrix that these rows lie in: stored rows, the scale [1], and which of the wanted rows they are."""
        data, wholes = parts["data"], np.ascontiguousarray(parts["whole"].reshape(-1), np.float32)
        rows = prod(data.shape[: -2 if isinstance(self.encoding.stored, Blocks) else -1])
        flat, height = data.reshape(rows, -1), max(1, rows // max(1, wholes.size))
        at = start
        while at < start + count:
            stop = min(start + count, (at // height + 1) * height)
            matrix = at // height
            yield flat[at:stop], wholes[matrix : matrix + 1], at - start, stop - start
            at = stop


def companioned_codec(encoding: Companioned) -> CompanionedCodec:
    """The codec of one encoding."""
    return CompanionedCodec(encoding, codec_for(encoding.stored))
