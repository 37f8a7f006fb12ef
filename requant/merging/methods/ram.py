"""Reinforced Agent Merging: what one model alone has changed is kept, what several have is averaged.

Source: https://arxiv.org/abs/2601.13572. The tensor-local variant scales up what a model alone has changed, by how
much of what it has changed others have as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.methods.method import Base, Method, Parameter
from requant.merging.methods.rowwise import Rowwise
from requant.merging.methods.sums import Totals


@dataclass(frozen=True, slots=True)
class Ram(Rowwise):
    """The base and the changes; changes up to `epsilon` are none."""

    def compute(self, models: Sequence[Values], first: int, known: Sequence[Any]) -> Values:
        """Value by value."""
        base = models[self.setting.base or 0]
        if not self.setting.others:
            return base
        tasks, changed, count = self._changes(models)
        total = np.zeros_like(base)
        for n, (task, own) in enumerate(zip(tasks, changed, strict=True)):
            alone = np.where(own & (count == 1), task, np.float32(0))
            shared = np.where(own & (count > 1), task, np.float32(0)) / np.maximum(count, 1).astype(np.float32)
            total += self.joined(n, alone, self.setting.precision.rounded(shared), known)
        return self.added(base, total)

    def joined(self, task: int, alone: Values, shared: Values, known: Sequence[Any]) -> Values:
        """One model's part of the change: at no place are both."""
        return alone + shared

    def added(self, base: Values, total: Values) -> Values:
        """The base and the whole change."""
        r = self.setting.precision.rounded
        return r(base + r(total))

    def _changes(self, models: Sequence[Values]) -> tuple[list[Values], list[NDArray[np.bool_]], NDArray[Any]]:
        """The differences, where they count, and how many count at each place."""
        r, base = self.setting.precision.rounded, models[self.setting.base or 0]
        tasks = [r(models[n] - base) for n in self.setting.others]
        least = self.setting.precision.number(self.setting.number("epsilon"))
        changed = [np.abs(task) > least for task in tasks]
        return tasks, changed, np.asarray(np.sum(changed, axis=0))


@dataclass(frozen=True, slots=True)
class RamPlus(Ram):
    """The tensor-local variant; changes are scaled and added in float32."""

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """How many changes of each model are shared, and how many are its own."""

        def counts(values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
            _, changed, count = self._changes(values)
            parts = [[np.count_nonzero(own & place, axis=-1) for place in (count > 1, count == 1)] for own in changed]
            return np.asarray(parts, np.float64)

        return (Totals(inputs, counts),) if self.setting.others else ()

    def joined(self, task: int, alone: Values, shared: Values, known: Sequence[Any]) -> Values:
        """The model's own changes are multiplied by 1 + r * (shared / own), the quotient at most alpha."""
        most, epsilon, rate = (self.setting.number(name) for name in ("alpha", "epsilon", "r"))
        common, own = (float(count) for count in known[0][task])
        return alone * np.float32(1 + rate * min(max(common / max(own, epsilon), 0.0), most)) + shared

    def added(self, base: Values, total: Values) -> Values:
        """Not rounded before it is stored."""
        return base + total


_PAPER = "https://arxiv.org/abs/2601.13572"
_EPSILON = Parameter("epsilon", float, default=1e-5)

RAM = Method("ram", "Reinforced Agent Merging", _PAPER, Ram, (_EPSILON,), base=Base.REQUIRED)
RAMPLUS_TL = Method(
    "ramplus_tl",
    "Reinforced Agent Merging Plus (tensor-local)",
    _PAPER,
    RamPlus,
    (Parameter("r", float, default=0.1), Parameter("alpha", float, default=0.2), _EPSILON),
    base=Base.REQUIRED,
)
