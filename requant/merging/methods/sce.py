"""SCE: the differences that vary most between models, of the sign that most have, weighted by each model's size.

Source: Wan et al., "FuseChat: knowledge fusion of chat models" (2024), https://arxiv.org/abs/2408.07990. Every
operation is rounded to the dtype of the tensors, as in mergekit 0.1.5. Of variances that are equal the first is taken;
mergekit takes what torch's topk leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.methods.method import Base, Method, Parameter
from requant.merging.methods.ranks import Wanted, finding, found
from requant.merging.methods.rowwise import Rowwise
from requant.merging.methods.sums import Totals, products

#: A sum of mean squares below this one is not divided by; sums of weights below it count as it.
_SMALLEST: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Sce(Rowwise):
    """Select, calculate, erase."""

    @property
    def _selects(self) -> bool:
        return 0 < self.setting.number("select_topk") < 1

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """How many variances are not 0, where the smallest of the selected is, and squares of what is selected."""
        if not self.setting.others:
            return ()

        def varying(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            return np.asarray(np.count_nonzero(self._variance(self._tasks(values)), axis=-1), np.float64)

        def variances(values: Sequence[Values], key: int) -> tuple[Values, Values]:
            variance = self._variance(self._tasks(values))
            return variance, np.zeros_like(variance)

        def squares(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            tasks = self._selected(self._tasks(values), rows.start, known)
            return np.stack([products(x, x, self.setting.precision) for x in tasks])

        if not self._selects:
            return (Totals(inputs, squares),)
        wanted = (Wanted(0, lambda known: self.setting.size - max(1, self._kept(known)), from_last=True),)
        return (
            Totals(inputs, varying),
            *finding(inputs, variances, wanted, self.setting.precision, first=1),
            Totals(inputs, squares),
        )

    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """Value by value."""
        r, base = self.setting.precision.rounded, models[self.setting.base or 0]
        if not self.setting.others:
            return base
        tasks = self._selected(self._tasks(models), first, known)
        positive = r(np.asarray(np.sum(tasks, axis=0, dtype=np.float32))) >= 0
        merged, divisor = np.zeros_like(base), np.zeros_like(base)
        for task, weight in zip(tasks, self._weights(known[-1]), strict=True):
            share = np.where(np.where(positive, task > 0, task < 0), weight, np.float32(0))
            merged += r(task * share)
            divisor += share
        divisor = np.maximum(r(divisor), self.setting.precision.number(_SMALLEST))
        return r(base + r(r(merged) / divisor))

    def _tasks(self, models: Sequence[Values]) -> list[Values]:
        base = models[self.setting.base or 0]
        return [self.setting.precision.rounded(models[n] - base) for n in self.setting.others]

    def _variance(self, tasks: Sequence[Values]) -> Values:
        stacked = np.stack(tasks).astype(np.float64)
        return self.setting.precision.rounded(np.var(stacked, axis=0).astype(np.float32))

    def _kept(self, known: Sequence[Any]) -> int:
        """How many are selected."""
        return int(float(known[0]) * self.setting.number("select_topk"))

    def _selected(self, tasks: Sequence[Values], first: int, known: Sequence[Any]) -> list[Values]:
        """The differences at places that vary enough, and zeros."""
        if self.setting.number("select_topk") >= 1:
            return list(tasks)
        if not self._selects or not self._kept(known):
            return [np.zeros_like(task) for task in tasks]
        variance = self._variance(tasks)
        sizes = variance.view(np.int32) & 0x7FFFFFFF
        (bits, cut), columns = found(known[1:4])[0], self.setting.columns
        index = first * columns + np.arange(variance.size).reshape(variance.shape)
        chosen = (sizes > bits) | ((sizes == bits) & (index < cut))
        return [np.where(chosen, task, np.float32(0)) for task in tasks]

    def _weights(self, squares: Any) -> NDArray[np.float32]:
        """Of each model: its share of the mean squares."""
        r, number = self.setting.precision.rounded, self.setting.precision.number
        means = r((np.asarray(squares) / max(1, self.setting.size)).astype(np.float32))
        total = number(float(means.sum(dtype=np.float32)))
        if abs(total) < _SMALLEST:
            return r(np.full(len(means), 1, np.float32) / np.float32(len(means)))
        return r(means / total)


SCE = Method(
    "sce",
    "SCE",
    "https://arxiv.org/abs/2408.07990",
    Sce,
    (Parameter("int8_mask", bool, default=False), Parameter("select_topk", float, default=1.0, share=True)),
    base=Base.REQUIRED,
)
