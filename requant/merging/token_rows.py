"""The embedding of one model as the vocabulary of the result has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.encodings import Shape
from requant.expressions import Arithmetic, Context, Form, Node, Reduction
from requant.merging.precision import Precision

#: Instead of the number of a model: a row of zeros, the mean of all rows before, the average of several rows.
ZERO, MEAN, AVERAGE = -1, -2, -3


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Where each row comes from. models: by number, or one of ZERO, MEAN and AVERAGE. rows: which of its rows, or which
    of `averages`. averages: lists of (model, row)."""

    models: NDArray[np.int32]
    rows: NDArray[np.int64]
    averages: tuple[tuple[tuple[int, int], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRows(Arithmetic):
    """Rows by token: mostly a model's own, others where it lacks a token.

    of: the embeddings of all models. own: the number of the model whose embedding this is.
    """

    of: tuple[Node, ...]
    where: Rows = field(compare=False)
    own: int
    precision: Precision

    @property
    def shape(self) -> Shape:
        """[tokens, columns]."""
        return (len(self.where.models), self.of[0].columns)

    @property
    def children(self) -> tuple[Node, ...]:
        """All models' embeddings."""
        return self.of

    def over(self, children: Sequence[Node]) -> Node:
        """The same of others."""
        return replace(self, of=tuple(children))

    def explain(self) -> str:
        """For example `tokens(model.embed_tokens.weight, 2 from others)`."""
        others = int((self.where.models != self.own).sum())
        return f"tokens({self.of[self.own].explain()}, {others} rows from elsewhere)"

    @property
    def granule(self) -> int:
        """Rows are looked up one by one."""
        return 1

    def reductions(self) -> tuple[Reduction, ...]:
        """The sum of all rows before the first that is their mean, if there is one."""
        if not (self.where.models == MEAN).any():
            return ()
        return tuple(ColumnSum((node,), self._uses(n)) for n, node in enumerate(self.of))

    def _uses(self, model: int) -> NDArray[np.float64]:
        """How often each row of a model is one of the result."""
        uses = np.zeros(self.of[model].rows)
        np.add.at(uses, self.where.rows[self.where.models == model], 1.0)
        for average in self.where.averages:
            for other, row in average:
                uses[row] += (other == model) / len(average)
        return uses

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """What one model's rows take."""
        return max(node.run_bytes(form, rows, width) for node in self.of) + width

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """Stretches of rows that follow each other in one model are read together."""
        models, places = (a[rows.start : rows.stop : rows.step] for a in (self.where.models, self.where.rows))
        breaks = (np.diff(models) != 0) | (np.diff(places) != 1)
        start = 0
        for end in [*(np.flatnonzero(breaks) + 1).tolist(), len(models)]:
            model, place = int(models[start]), int(places[start])
            if model >= 0:
                self.of[model].fill(form, range(place, place + end - start), out[start:end], context)
            else:
                for n in range(start, end):
                    out[n] = self._made(model, int(places[n]), context)
            start = end

    def _made(self, kind: int, place: int, context: Context) -> Values | float:
        """A row that no model has."""
        if kind == ZERO:
            return 0.0
        r, columns = self.precision.rounded, self.columns
        if kind == MEAN:
            count = int((self.where.models != MEAN).sum())
            total = np.sum(context.results(self), axis=0) / max(1, count)
            return np.asarray(r(total.astype(np.float32)))
        added, row = np.zeros((1, columns), np.float32), np.empty((1, columns), np.float32)
        average = self.where.averages[place]
        for model, number in average:
            self.of[model].fill(Form.VALUES, range(number, number + 1), row, context)
            added = r(added + row)
        return np.asarray(r(added / np.float32(len(average)))[0])


@dataclass(frozen=True, slots=True)
class ColumnSum(Reduction):
    """The sum of all rows, each as often as it is used."""

    inputs: tuple[Node, ...] = field(compare=False)
    uses: NDArray[np.float64] = field(compare=False)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
        """Of one slab."""
        return np.asarray(self.uses[rows.start : rows.stop] @ values[0].astype(np.float64))

    def merge(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        """Added."""
        return np.asarray(one + other)
