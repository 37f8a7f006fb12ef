"""The block types of ggml: which kernel encodes and decodes each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Parts, Values
from requant.encodings import Blocks
from requant.errors import UnsupportedError
from requant.kernels_cpu.ggml_k import encode_q4_k

#: (values [n, block values] float32, out [n, block bytes] uint8) -> None
Encoder = Callable[[Values, NDArray[np.uint8]], None]
Decoder = Callable[[NDArray[np.uint8], Values], None]

_ENCODERS: Final[Mapping[str, Encoder]] = {"Q4_K": encode_q4_k}
_DECODERS: Final[Mapping[str, Decoder]] = {}


@dataclass(frozen=True, slots=True)
class BlockCodec:
    """One block type."""

    encoding: Blocks

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Blocks to values."""
        kernel = _DECODERS.get(self.encoding.label)
        if kernel is None:
            raise UnsupportedError(f"there is no decoder for {self.encoding.label}")
        kernel(_bytes(parts).reshape(-1, self.encoding.nbytes), out.reshape(-1, self.encoding.values))

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Values to the exact bytes of ggml's reference."""
        kernel = _ENCODERS.get(self.encoding.label)
        if kernel is None:
            raise UnsupportedError(f"there is no encoder for {self.encoding.label}")
        kernel(values.reshape(-1, self.encoding.values), _bytes(out).reshape(-1, self.encoding.nbytes))


def block_codec(encoding: Blocks) -> BlockCodec:
    """The codec of a block type."""
    return BlockCodec(encoding)


def _bytes(parts: Parts) -> NDArray[Any]:
    return parts["data"]
