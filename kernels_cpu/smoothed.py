"""Weights times the scales of their inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from requant.codecs import Codec, Parts, Values, codec_for
from requant.encodings.smoothed import Smoothed
from requant.errors import UnsupportedError
from requant.kernels_cpu.scaled_codec import widened


@dataclass(frozen=True, slots=True)
class SmoothedCodec:
    """One encoding; `stored` is the codec of the weight alone."""

    encoding: Smoothed
    stored: Codec

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """The weight, then every column times its scale."""
        own = {name: array for name, array in parts.items() if name != "inputs"}
        if self.encoding.stored.sliced:
            rows = own["data"].size // max(1, own["data"].shape[-1])
            own = {name: array.reshape(rows, -1)[start : start + len(out)] for name, array in own.items()}
            start = 0
        self.stored.decode(own, out, start)
        out *= widened(np.ascontiguousarray(parts["inputs"]), self.encoding.scale)

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Scales of inputs are found by what calibrates models."""
        raise UnsupportedError(f"{self.encoding.label} is read, not written", hint="choose another type")


def smoothed_codec(encoding: Smoothed) -> SmoothedCodec:
    """The codec of one encoding."""
    return SmoothedCodec(encoding, codec_for(encoding.stored))
