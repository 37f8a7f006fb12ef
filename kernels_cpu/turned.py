"""Weights turned back by Hadamard matrices along their inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from requant.codecs import Codec, Parts, Values, codec_for
from requant.encodings.turned import Turned
from requant.errors import UnsupportedError
from requant.kernels_cpu._jit import NUMBER, OUT_FLOATS, Floats, kernel


@kernel(OUT_FLOATS, NUMBER)
def turn_blocks(values: Floats, block: int) -> None:
    """Multiply every `block` consecutive values by Sylvester's matrix over the root of its size, in place."""
    scale = np.float32(1 / np.sqrt(block))
    for first in range(0, values.size, block):
        half = 1
        while half < block:
            for begin in range(first, first + block, 2 * half):
                for i in range(begin, begin + half):
                    low, high = values[i], values[i + half]
                    values[i], values[i + half] = low + high, low - high
            half *= 2
        for i in range(first, first + block):
            values[i] *= scale


@dataclass(frozen=True, slots=True)
class TurnedCodec:
    """One encoding; `stored` is the codec of the weight as it is stored."""

    encoding: Turned
    stored: Codec

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """The stored values, then every block of inputs turned back."""
        self.stored.decode(parts, out, start)
        turn_blocks(out.reshape(-1), self.encoding.block)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """A rotation only helps what rounds inputs, too."""
        raise UnsupportedError(f"{self.encoding.label} is read, not written", hint="choose another type")


def turned_codec(encoding: Turned) -> TurnedCodec:
    """The codec of one encoding."""
    return TurnedCodec(encoding, codec_for(encoding.stored))
