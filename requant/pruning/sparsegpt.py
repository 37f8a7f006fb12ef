"""SparseGPT: what becomes zero is made up for by the weights to its right, as far as inputs go together.

Source: Frantar and Alistarh, "SparseGPT: massive language models can be accurately pruned in one-shot" (2023),
https://arxiv.org/abs/2301.00774: blocks of 128 columns, in which the mask is chosen by w² / [H⁻¹]², one bound for all
rows of a block; damping by a hundredth of the mean of H's diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.encodings import Shape
from requant.expressions import Arithmetic, Context, Form, InGranules, Single
from requant.feedback import factor_bytes, inverse_factor
from requant.hessians import Hessian, Square
from requant.pruning.sparsity import Sparsity

_BLOCK: Final = 128
DAMPING: Final = 0.01


@dataclass(frozen=True, slots=True)
class SparseGpt(Single, InGranules, Arithmetic):
    """What is left of `of`, matrix by matrix. hessians: of each matrix. chosen: which of the columns that they are of
    the matrix still has; None for all."""

    sparsity: Sparsity
    hessians: tuple[Hessian, ...] = field(compare=False, repr=False)
    chosen: tuple[int, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def shape(self) -> Shape:
        """The child's."""
        return self.of.shape

    def explain(self) -> str:
        """For example `sparsegpt(q_proj, 50%)`."""
        return f"sparsegpt({self.of.explain()}, {self.sparsity})"

    @property
    def granule(self) -> int:
        """A whole matrix."""
        return max(self.of.rows // max(len(self.hessians), 1), 1)

    def granule_bytes(self, form: Form, rows: int, width: int) -> int:
        """The child's rows, a block, its errors and scores; and what the factor is made of."""
        factor = factor_bytes(max(one.columns for one in self.hessians))
        return self.of.run_bytes(form, rows, width, straight=True) + 5 * 4 * rows * _BLOCK + rows * width + factor

    def fill_granules(self, form: Form, start: int, stop: int, out: NDArray[Any], context: Context) -> None:
        """Matrix by matrix."""
        self.of.fill(form, range(start, stop), out, context)
        height = self.granule
        for at in range(0, stop - start, height):
            hessian = self.hessians[(start + at) // height]
            mean = hessian.mean()
            if self.chosen is not None:
                mean = mean[np.ix_(self.chosen, self.chosen)]
            prune(out[at : at + height], mean, self.sparsity, hessian.name)


def prune(weights: Values, mean: Square, sparsity: Sparsity, name: str) -> None:
    """A matrix [out, in], in place. mean: E[x xᵀ] of its inputs. Raises `PlanError` where that is none."""
    from requant.kernels_cpu.pruning_feedback import zero_with_feedback

    dead = np.flatnonzero(np.diagonal(mean) == 0)
    mean[dead, dead] = 1
    weights[:, dead] = 0
    factor = inverse_factor(mean, DAMPING, name)
    rows, columns = weights.shape
    step = _BLOCK // sparsity.of * sparsity.of if sparsity.of else _BLOCK
    none = np.empty(0, np.uint8)
    for start in range(0, columns, step):
        stop = min(start + step, columns)
        block = np.ascontiguousarray(weights[:, start:stop])
        own = np.ascontiguousarray(factor[start:stop, start:stop])
        errors = np.empty(block.size, np.float32)
        mask = none if sparsity.of else _mask(block, np.diagonal(own), sparsity)
        zero_with_feedback(own.reshape(-1), mask, sparsity.kept, sparsity.of, block.reshape(-1), errors)
        weights[:, start:stop] = block
        if stop < columns:
            weights[:, stop:] -= errors.reshape(rows, -1) @ factor[start:stop, stop:]


def _mask(block: Values, diagonal: NDArray[np.float32], sparsity: Sparsity) -> NDArray[np.uint8]:
    """What becomes zero of a block, 1 for each; as in the paper's code one more than the share says, and all ties."""
    scores = np.square(block / diagonal).reshape(-1)
    bound = np.partition(scores, sparsity.pruned(scores.size))[sparsity.pruned(scores.size)]
    mask: NDArray[np.uint8] = np.less_equal(scores, bound).view(np.uint8)
    return mask
