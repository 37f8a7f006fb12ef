"""Weighted sums of the rows of several models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
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

        self._add(stack, known, out, add_weighted)

    def fill_halves(self, stack: HalfStack, known: Sequence[Any], out: Halves) -> bool:
        """Value by value."""
        from requant.kernels_cpu.kept import kept

        add_weighted_halves, largest = kept("merging", "add_weighted_halves"), np.zeros(16, np.int32)
        self._add(stack, known, out, lambda *given: add_weighted_halves(*given[:-1], largest, given[-1]))
        return bool(largest.max() < self.setting.precision.infinity)

    def _add(self, stack: NDArray[Any], known: Sequence[Any], out: NDArray[Any], kernel: Callable[..., None]) -> None:
        numbers, work = np.array(self.numbers(known), np.float32), self.setting.precision.work
        if out.size >= 16:
            kernel(stack.reshape(-1), numbers, work, out.reshape(-1))
        elif out.size:
            padded, result = np.zeros((len(stack), 16), stack.dtype), np.empty(16, out.dtype)
            padded[:, : out.size] = stack.reshape(len(stack), -1)
            kernel(padded.reshape(-1), numbers, work, result)
            out.reshape(-1)[:] = result[: out.size]
