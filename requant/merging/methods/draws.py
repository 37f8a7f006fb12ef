"""Random numbers that depend on the seed, the tensor, the model and the index of a value, and on nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.merging.methods.method import Setting

#: Values, and comparisons with a limit, are made so many at a time, from multiples of it on.
_VALUES: Final = 64
_BELOW: Final = 128


@dataclass(frozen=True, slots=True)
class Draws:
    """A stream of uniform numbers of 31 bits. seed, stream: 64 bits each, key and upper half of Philox's counters."""

    seed: int
    stream: int

    @classmethod
    def of(cls, setting: Setting, model: int) -> Draws:
        """The stream of one model's tensor, by the tensor's name and the model's number among those of the recipe."""
        digest = hashlib.sha256(f"{setting.name}\0{model}".encode()).digest()
        return cls(setting.seed % (1 << 64), int.from_bytes(digest[:8], "little"))

    @property
    def _keys(self) -> NDArray[np.int32]:
        return np.array([self.seed, self.stream], "<u8").view("<i4")

    def values(self, first: int, count: int) -> NDArray[np.int32]:
        """The numbers from `first` on."""
        from requant.kernels_cpu.philox import draw

        start = first // _VALUES * _VALUES
        out = np.empty(-(-(first + count - start) // _VALUES) * _VALUES, np.int32)
        draw(self._keys, start, out)
        return out[first - start :][:count]

    def below(self, limit: int, first: int, count: int) -> NDArray[np.uint8]:
        """For each of other numbers of 31 bits, whether it is less than `limit`."""
        from requant.kernels_cpu.philox import draw_below

        start = first // _BELOW * _BELOW
        out = np.empty(-(-(first + count - start) // _BELOW) * _BELOW, np.uint8)
        draw_below(self._keys, start, limit, out)
        return out[first - start :][:count]
