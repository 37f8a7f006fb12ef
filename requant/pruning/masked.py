"""Weights of which the lowest scores are zero, as nodes of a tensor's expression."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.encodings import Dense, Encoding, Shape
from requant.expressions import Arithmetic, Context, Form, Reduction, Single
from requant.pruning.bounds import Bound, Same, bound_of, in_tensor, ties_of
from requant.pruning.scores import Scores
from requant.pruning.sparsity import Sparsity


@dataclass(frozen=True, slots=True)
class Masked(Single, Arithmetic):
    """What is left of `of`. norms: as of `Scores`. method: what the plan calls it."""

    sparsity: Sparsity
    method: str
    norms: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @property
    def shape(self) -> Shape:
        """The child's."""
        return self.of.shape

    def explain(self) -> str:
        """For example `wanda(q_proj, 2:4)`."""
        return f"{self.method}({self.of.explain()}, {self.sparsity})"

    def holds(self, target: Encoding) -> bool:
        """Numbers stay or are zero."""
        return isinstance(target, Dense) and self.of.holds(target)

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """What the child takes, and a copy of rows that have gaps between them."""
        return self.of.run_bytes(form, rows, width, straight) + (0 if straight else rows * width)

    @property
    def scores(self) -> Scores:
        """By which weights are chosen."""
        return Scores(self.of, self.norms)

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """The child's rows, thinned out where they stand."""
        self.of.fill(form, rows, out, context)
        values = np.ascontiguousarray(out)
        self.thin(values, rows, context)
        if values is not out:
            out[...] = values

    @abstractmethod
    def thin(self, values: Values, rows: range, context: Context) -> None:
        """In place, contiguous; `rows` are the numbers of these rows."""


@dataclass(frozen=True, slots=True)
class MaskedInRows(Masked):
    """In each row the lowest share, or of every few neighbours the lowest, as Wanda compares them."""

    def thin(self, values: Values, rows: range, context: Context) -> None:
        """Row by row."""
        from requant.kernels_cpu.pruning import zero_in_groups, zero_in_rows

        how, columns = self.sparsity, self.of.columns
        for _, flat, norms in self.scores.pieces(values, rows):
            if how.of:
                zero_in_groups(norms, columns, how.kept, how.of, flat)
            else:
                zero_in_rows(norms, columns, how.pruned(columns), flat)


@dataclass(frozen=True, slots=True)
class MaskedInTensor(Masked):
    """The lowest share of the whole tensor; or what lies below a bound that is known from the whole model."""

    bound: Bound | None = None

    def explain(self) -> str:
        """For example `magnitude(q_proj, 50%)`; of a bound of the model `magnitude(q_proj, below 0.0123)`."""
        if self.bound is None:
            return super(MaskedInTensor, self).explain()
        score = float(np.int32(self.bound.bits).view(np.float32))
        return f"{self.method}({self.of.explain()}, below {score:.6g})"

    @property
    def _pruned(self) -> int:
        return self.sparsity.pruned(self.of.rows * self.of.columns)

    def reductions(self) -> tuple[Reduction, ...]:
        """Counts of scores."""
        if self.bound is not None:
            return (Same(self.scores, self.bound),)
        return in_tensor(self.scores, self._pruned)

    def thin(self, values: Values, rows: range, context: Context) -> None:
        """By the bound; which of equal scores, the rows before tell."""
        from requant.kernels_cpu.pruning import zero_below

        known = context.results(self)
        bound = self.bound or bound_of(self.scores, self._pruned, known)
        ties = ties_of(bound, known[-1], self.of.rows)[rows.start : rows.stop : rows.step]
        for where, flat, norms in self.scores.pieces(values, rows):
            zero_below(norms, self.of.columns, bound.bits, np.ascontiguousarray(ties[where]), flat)
