"""Formulas that read like their mathematics: numpy, on pieces of a run that stay in the caches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from requant.codecs import Values
from requant.expressions import Scratch
from requant.merging.methods.method import Formula, Stack

#: Values of one model in a piece.
_PIECE: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class Rowwise(Formula):
    """Whole rows of all models at a time."""

    def buffers(self) -> int:
        """Pieces are small beside a run, unless a row is as long."""
        return 4

    def fill(self, stack: Stack, first: int, known: Sequence[Any], out: Values, scratch: Scratch) -> None:
        """Piece by piece."""
        rows = max(1, _PIECE // max(1, out.shape[1]))
        for at in range(0, len(out), rows):
            models: list[Values] = list(stack[:, at : at + rows])
            out[at : at + rows] = self.compute(models, first + at, known)

    @abstractmethod
    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """The rows from `first` on."""


def part_of(whole: Any, first: int, rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers of a tensor, [], or of each of its rows, [all rows], beside the rows from `first` on: [] or [rows, 1]."""
    numbers = np.asarray(whole, np.float32)
    return numbers if numbers.ndim == 0 else numbers[first : first + rows, None]
