"""The row order of rotary projections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from requant.expressions.permuted import Permuted


@dataclass(frozen=True, slots=True)
class RopeOrder(Permuted):
    """The row order of rotary q and k projections: HF keeps the two halves of a head apart, ggml interleaves them.

    heads: heads of this tensor (key/value heads for k). `inverse`: from ggml to HF.
    Source: `LlamaModel.permute` in llama.cpp's conversion code.
    """

    heads: int
    inverse: bool = False

    def explain(self) -> str:
        """For example `rope(q_proj)`."""
        return f"{'unrope' if self.inverse else 'rope'}({self.of.explain()})"

    @property
    def group(self) -> int:
        """Rows of a head."""
        return max(1, self.rows // self.heads)

    def source_rows(self) -> NDArray[np.intp]:
        """The first of each half, the second of each, …; for a head of 6 rows 0, 3, 1, 4, 2, 5."""
        order = np.arange(self.group, dtype=np.intp).reshape(2, -1).T.ravel()
        return np.argsort(order) if self.inverse else order
