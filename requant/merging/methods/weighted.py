"""Weighted sums of the rows of several models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from requant.codecs import Values
from requant.merging.methods.method import Stack
from requant.merging.precision import Precision


def weighted(
    stack: Stack, weights: Sequence[np.float32 | float], divisor: np.float32 | float, precision: Precision, out: Values
) -> None:
    """The sum of the models, each times its weight, divided; computed in float32 and rounded once."""
    from requant.kernels_cpu.merging import add_weighted

    numbers = np.array([*weights, divisor], np.float32)
    if out.size >= 16:
        add_weighted(stack.reshape(-1), numbers, precision.work, out.reshape(-1))
    elif out.size:
        padded, result = np.zeros((len(stack), 16), np.float32), np.empty(16, np.float32)
        padded[:, : out.size] = stack.reshape(len(stack), -1)
        add_weighted(padded.reshape(-1), numbers, precision.work, result)
        out.reshape(-1)[:] = result[: out.size]
