"""Weighted sums of the rows of several models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Halves, Values
from requant.expressions import Scratch
from requant.merging.methods.method import Formula, HalfStack, Stack


@dataclass(frozen=True, slots=True)
class WeightedSum(Formula):
    """The sum of the models, each times a number, divided by one; computed in float32 and rounded once.

    Of 16-bit floats the result is made without anything in between being stored: memory takes longer than arithmetic.
    """

    in_halves: ClassVar[bool] = True

    @abstractmethod
    def numbers(self, known: Sequence[Any]) -> list[float]:
        """One for each model, and the divisor."""

    def fill(self, stack: Stack, first: int, known: Sequence[Any], out: Values, scratch: Scratch) -> None:
        """Value by value."""
        from requant.kernels_cpu.merging import add_weighted

        self._add(add_weighted, stack, known, out)

    def fill_halves(self, stack: HalfStack, known: Sequence[Any], out: Halves) -> None:
        """Value by value."""
        from requant.kernels_cpu.merging import add_weighted_halves

        self._add(add_weighted_halves, stack, known, out)

    def _add(self, kernel: Any, stack: NDArray[Any], known: Sequence[Any], out: NDArray[Any]) -> None:
        numbers = np.array(self.numbers(known), np.float32)
        work = self.setting.precision.work
        if out.size >= 16:
            kernel(stack.reshape(-1), numbers, work, out.reshape(-1))
        elif out.size:
            padded, result = np.zeros((len(stack), 16), stack.dtype), np.empty(16, out.dtype)
            padded[:, : out.size] = stack.reshape(len(stack), -1)
            kernel(padded.reshape(-1), numbers, work, result)
            out.reshape(-1)[:] = result[: out.size]
