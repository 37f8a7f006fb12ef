"""Which of a model's differences from the base are kept: the largest, those of middling size, or some at random."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.methods.draws import Draws
from requant.merging.methods.method import Parameter, Scope, Setting
from requant.merging.methods.ranks import Wanted, finding, found
from requant.merging.precision import Precision, flat

#: No size has these bits.
_NONE: Final = 0x7FFFFFFF
#: Values that are drawn have 31 bits.
_DRAWN: Final = 1 << 31

Mask = NDArray[np.uint8]

#: Parameters of `Middling` and `Magprune`.
GAMMA: Final = Parameter("gamma", float, Scope.OTHER, default=0.01, share=True)
EPSILON: Final = Parameter("epsilon", float, Scope.OTHER, default=0.15, share=True)


@dataclass(frozen=True, slots=True)
class Sparsity(ABC):
    """Of one tensor. A model whose density is 1 or more keeps all its differences, one of 0 none.

    draws: whether chance decides.
    """

    draws: ClassVar[bool] = False
    setting: Setting

    def thinned(self) -> tuple[int, ...]:
        """The models that keep some of them."""
        return tuple(n for n in self.setting.others if 0 < self.setting.number("density", n) < 1)

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """What must be known first."""
        return ()

    def mask(self, model: int, values: Values, base: Values, first: int, known: Sequence[Any]) -> Mask | None:
        """1 for each difference of the rows from `first` on that is kept, else 0; None if all are."""
        density = self.setting.number("density", model)
        if density >= 1:
            return None
        if density <= 0:
            return np.zeros(values.size, np.uint8)
        return self.chosen(model, values, base, first, known)

    @property
    def sums_in(self) -> Precision:
        """In which sizes are added up; mergekit thins F16 out at random in float32."""
        return self.setting.precision if self.setting.precision is Precision.BF16 else Precision.F32

    @abstractmethod
    def chosen(self, model: int, values: Values, base: Values, first: int, known: Sequence[Any]) -> Mask:
        """The mask of a model whose density is between."""


@dataclass(frozen=True, slots=True)
class _Ranked(Sparsity):
    """Those whose rank by size, and then by index, lies between two."""

    @property
    def sums_in(self) -> Precision:
        """In which sizes are added up."""
        return self.setting.precision

    @abstractmethod
    def wanted(self) -> tuple[Wanted, ...]:
        """The ranks to look for."""

    @abstractmethod
    def bounds(self, model: int, known: Sequence[Any]) -> list[int] | None:
        """As `mark_sizes` takes them, with indices in the tensor; None if nothing is kept."""

    def reductions(self, inputs: tuple[Node, ...]) -> tuple[Reduction, ...]:
        """Counts of sizes."""

        def differences(values: Sequence[Values], model: int) -> tuple[Values, Values]:
            return values[model], values[self.setting.base or 0]

        return finding(inputs, differences, self.wanted(), self.setting.precision)

    def chosen(self, model: int, values: Values, base: Values, first: int, known: Sequence[Any]) -> Mask:
        """Marked by size and index."""
        from requant.kernels_cpu.magnitudes import mark_sizes

        x, y = flat(values), flat(base)
        out = np.zeros(x.size, np.uint8)
        bounds = self.bounds(model, known)
        if bounds is None:
            return out[: values.size]
        here = first * self.setting.columns
        for n in (1, 2, 4, 5):
            bounds[n] = min(max(bounds[n] - here, 0), _NONE)
        mark_sizes(x, y, self.setting.precision.work, np.array(bounds, np.int64), out)
        return out[: values.size]


@dataclass(frozen=True, slots=True)
class Largest(_Ranked):
    """The `density` largest, at least one; of equal ones the first."""

    def wanted(self) -> tuple[Wanted, ...]:
        """The smallest that is kept."""
        size = self.setting.size
        return tuple(Wanted(n, size - self._kept(n), from_last=True) for n in self.thinned() if size)

    def _kept(self, model: int) -> int:
        return max(1, int(self.setting.number("density", model) * self.setting.size))

    def bounds(self, model: int, known: Sequence[Any]) -> list[int]:
        """What is larger, and the first of that very size."""
        order = [want.key for want in self.wanted()].index(model)
        bits, index = found(known)[order]
        return [bits, 0, index, _NONE, 0, 0]


@dataclass(frozen=True, slots=True)
class Middling(_Ranked):
    """The `density` largest after the `gamma` largest are left out, as Model Breadcrumbs does."""

    def _ranks(self, model: int) -> tuple[int, int]:
        """From and to which rank differences are kept."""
        size = self.setting.size
        target = int(self.setting.number("density", model) * size)
        below = max(0, size - target - int(self.setting.number("gamma", model) * size))
        return below, below + target

    def wanted(self) -> tuple[Wanted, ...]:
        """The smallest that is kept, and the smallest that is left out for its size."""
        ranks = [(n, rank) for n in self.thinned() for rank in self._ranks(n)]
        return tuple(Wanted(n, min(rank, self.setting.size - 1)) for n, rank in ranks if self.setting.size)

    def bounds(self, model: int, known: Sequence[Any]) -> list[int] | None:
        """From one of them to before the other."""
        start, stop = self._ranks(model)
        if start == stop:
            return None
        order = [want.key for want in self.wanted()].index(model)
        (low, low_index), (high, high_index) = found(known)[order : order + 2]
        if stop >= self.setting.size:
            high, high_index = _NONE, 0
        return [low, low_index, _NONE, high, 0, high_index]


@dataclass(frozen=True, slots=True)
class Bernoulli(Sparsity):
    """Each with the probability `density`, as DARE does."""

    draws: ClassVar[bool] = True

    def chosen(self, model: int, values: Values, base: Values, first: int, known: Sequence[Any]) -> Mask:
        """Drawn by the seed, the tensor's name, the model's number and the index alone."""
        limit = round(self.setting.number("density", model) * _DRAWN)
        return Draws.of(self.setting, model).below(limit, first * self.setting.columns, values.size)


@dataclass(frozen=True, slots=True)
class Magprune(Sparsity):
    """Each with a probability that its rank in its row decides: from density - epsilon to density + epsilon.

    mergekit computes ranks and probabilities in the dtype of the tensors, which in BF16 makes steps of them; so is it
    here.
    """

    draws: ClassVar[bool] = True

    def chosen(self, model: int, values: Values, base: Values, first: int, known: Sequence[Any]) -> Mask:
        """Drawn as by `Bernoulli`."""
        from requant.kernels_cpu.magnitudes import rank_rows

        limits = self.probabilities(model, values, base, rank_rows) * np.float64(_DRAWN)
        drawn = Draws.of(self.setting, model).values(first * self.setting.columns, values.size)
        return (drawn < np.rint(limits).astype(np.int64).reshape(-1)).view(np.uint8)

    def probabilities(self, model: int, values: Values, base: Values, rank_rows: Any) -> NDArray[np.float64]:
        """Of being kept; a row of one value has no ranks, and keeps it with the probability `density`."""
        density, epsilon = self.setting.number("density", model), self.setting.number("epsilon", model)
        columns = self.setting.columns
        if columns < 2:
            return np.full(values.size, density)
        precision, wide = self.setting.precision, self.sums_in
        ranks = np.empty(values.size, np.int32)
        rank_rows(values.reshape(-1), base.reshape(-1), columns, precision.work, ranks)
        r, number, one = wide.rounded, wide.number, np.float32(1)
        share = r(r(r(ranks.astype(np.float32)) + one) - one)
        share = np.clip(r(share / number(number(number(columns - 1) + one) - one)), 0, 1)
        return r(np.float32(density - epsilon) + r(r(share * np.float32(2)) * np.float32(epsilon))).astype(np.float64)


def epsilon_fits(setting: Setting) -> str:
    """What contradicts a probability, of any model; else nothing."""
    for n in setting.others:
        density, epsilon = setting.number("density", n), setting.number("epsilon", n)
        if 0 < density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            return f"density {density:g} and epsilon {epsilon:g} make probabilities beyond 0 and 1"
    return ""
