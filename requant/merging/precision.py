"""The dtype in which a merge computes.

mergekit computes in the dtype of its tensors: after every operation the result is rounded to it. The same is done here,
in float32 and rounded after each operation, so that the same recipe gives the same model.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.encodings import BF16, F16, F32, Dense


class Precision(Enum):
    """F32, BF16 or F16, by the label of the encoding."""

    F32 = "F32"
    BF16 = "BF16"
    F16 = "F16"

    @property
    def encoding(self) -> Dense:
        """Of tensors that hold exactly what is computed."""
        return {"F32": F32, "BF16": BF16, "F16": F16}[self.value]

    @property
    def infinity(self) -> int:
        """The bits of infinity."""
        return {"F32": 0x7F800000, "BF16": 0x7F80, "F16": 0x7C00}[self.value]

    @property
    def work(self) -> int:
        """What kernels are told."""
        return {"F32": 0, "BF16": 1, "F16": 2}[self.value]

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        """Float32 values, rounded where they stand if they are contiguous; a new array otherwise."""
        if self is Precision.F32:
            return values
        from requant.kernels_cpu.merging import round_values

        out = np.ascontiguousarray(values, np.float32)  # of one number, an array of one
        flat = out.reshape(-1)
        if flat.size >= 16:
            round_values(flat, self.work, flat)
        elif flat.size:
            padded = np.zeros(16, np.float32)
            padded[: flat.size] = flat
            round_values(padded, self.work, padded)
            flat[:] = padded[: flat.size]
        return out.reshape(np.shape(values))

    def number(self, value: SupportsFloat) -> np.float32:
        """One number, rounded; NaN and infinity stay."""
        with np.errstate(over="ignore"):
            single = np.float32(value)
            if self is Precision.F16:
                return np.float32(np.float16(single))
        if self is Precision.F32 or not np.isfinite(single):
            return single
        bits = int(single.view(np.uint32))
        return np.uint32(bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).view(np.float32)


def flat(values: Values) -> NDArray[np.float32]:
    """All values in one dimension, at least sixteen of them: kernels take no less."""
    one = values.reshape(-1)
    return one if one.size >= 16 else np.concatenate([one, np.zeros(16 - one.size, np.float32)])
