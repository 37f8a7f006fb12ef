"""What happens to the rows of a tensor between two namings, besides its name.

A step reads its inputs one after another as one tall matrix of rows, applies its transforms in order, and
stores the result. Transforms that only move rows also apply to encoded rows and stay exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RopeOrder:
    """The row order of rotary q and k projections: HF keeps the two halves of a head apart, ggml interleaves them.

    heads: heads of this tensor (key/value heads for k). `inverse`: from ggml to HF.
    Source: `LlamaModel.permute` in llama.cpp's conversion code.
    """

    heads: int
    inverse: bool = False

    def source_rows(self, rows: int) -> NDArray[np.intp]:
        """For each output row of one head of `rows` rows, the input row it comes from.

        >>> RopeOrder(heads=1).source_rows(6).tolist()
        [0, 3, 1, 4, 2, 5]
        """
        order = np.arange(rows, dtype=np.intp).reshape(2, rows // 2).T.ravel()
        return np.argsort(order) if self.inverse else order


@dataclass(frozen=True, slots=True)
class Rows:
    """Only the rows `[start, stop)`: one projection out of a fused tensor."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Transpose:
    """Rows become columns, in every matrix of a stack: GPT-2's Conv1D and gpt-oss' experts are [in, out] in
    transformers, where a linear layer is [out, in]."""


@dataclass(frozen=True, slots=True)
class Add:
    """The same float32 number added to every value: gemma's norms are stored as offsets from one."""

    value: float


@dataclass(frozen=True, slots=True)
class Unwoven:
    """Of rows that come from `of` tensors in turn, those of one: rows `turn`, `turn + of`, `turn + 2 * of`, …

    gpt-oss keeps gate and up of its experts so, in transformers.
    """

    turn: int
    of: int = 2


@dataclass(frozen=True, slots=True)
class Woven:
    """The inverse: rows of the inputs in turn, the first of each, the second of each, … All have as many rows."""


Transform = RopeOrder | Rows | Transpose | Add | Unwoven | Woven
