"""Which type each tensor gets so that a file has a given size and the model loses least: a knapsack.

Every tensor has options, of some bytes and some predicted loss each (`requant.divergence`). On the lower convex hull of
each tensor's options, upgrades are taken in the order of what they save for a byte: that is the best there is for every
size at which it stops. In between, what is left is filled; and where a few large tensors leave gaps, each of their
types near the one chosen is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Encoding
from requant.errors import PlanError

#: Large tensors whose types are tried one after the other, and how far above the bound losses may stay without that.
_LARGE: Final = 4
_NEAR: Final = 1.002


@dataclass(frozen=True, slots=True)
class Option:
    """A type that a tensor can have, the bytes it takes then, and the divergence that is predicted."""

    encoding: Encoding
    nbytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One tensor's step along its hull, to its option of this index. saved: loss."""

    tensor: int
    index: int
    nbytes: int
    saved: float


class Knapsack:
    """options: of each tensor, at least one."""

    def __init__(self, options: Sequence[Sequence[Option]]) -> None:
        self._options = options
        most = max(len(one) for one in options)
        self._sizes = np.full((len(options), most), np.iinfo(np.int64).max >> 1, np.int64)
        self._losses = np.full((len(options), most), np.inf)
        for n, one in enumerate(options):
            self._sizes[n, : len(one)] = [option.nbytes for option in one]
            self._losses[n, : len(one)] = [option.loss for option in one]
        self._rows = np.arange(len(options))
        self._smallest = np.array([_smallest(one) for one in options])
        steps = [upgrade for n, one in enumerate(options) for upgrade in _hull(n, one)]
        self._upgrades = sorted(steps, key=lambda upgrade: (-upgrade.saved / upgrade.nbytes, upgrade.tensor))

    def within(self, budget: int) -> list[Option]:
        """One option for each tensor, of at most `budget` bytes together, with about the least loss there is.

        Raises `PlanError` where even the smallest are too large.
        """
        left = budget - int(self._sizes[self._rows, self._smallest].sum())
        if left < 0:
            raise PlanError(
                f"the smallest types take {budget - left} bytes, and {max(budget, 0)} are asked for",
                hint="name smaller ones with --types, or ask for more",
            )
        best = self._taken(budget, {})
        assert best is not None
        if self._loss(best) > _NEAR * self._bound(budget):
            for fixed in self._nearby(best):
                other = self._taken(budget, fixed)
                if other is not None and self._loss(other) < self._loss(best):
                    best = other
        return [one[index] for one, index in zip(self._options, best, strict=True)]

    def reaching(self, loss: float, told: Callable[[float], float] = float) -> list[Option]:
        """About the smallest options whose losses add up to at most `loss`. told: what a loss is called in an error.

        Raises `PlanError` where even the best do not.
        """
        least = float(self._losses.min(1).sum())
        if least > loss:
            raise PlanError(
                f"the best of these types are predicted to diverge by {told(least):.3g}, and {told(loss):.3g} is "
                "asked for",
                hint="allow better ones with --types, or ask for less",
            )
        chosen = self._smallest.copy()
        for upgrade in self._upgrades:
            if self._loss(chosen) <= loss:
                break
            chosen[upgrade.tensor] = upgrade.index
        self._trim(chosen, loss)
        return [one[index] for one, index in zip(self._options, chosen, strict=True)]

    def _trim(self, chosen: NDArray[np.int64], loss: float) -> None:
        """Smaller options, the most bytes first, for as long as losses add up to at most `loss`; in place."""
        while True:
            slack = loss - self._loss(chosen)
            lost = self._losses - self._losses[self._rows, chosen][:, None]
            fewer = np.where(lost <= slack, self._sizes[self._rows, chosen][:, None] - self._sizes, 0)
            tensor, index = (int(one) for one in np.unravel_index(int(fewer.argmax()), fewer.shape))
            if fewer[tensor, index] <= 0:
                return
            chosen[tensor] = index

    def frontier(self) -> list[tuple[int, float]]:
        """(bytes, loss) of the hull's choices, from the smallest to the largest."""
        begin = (int(self._sizes[self._rows, self._smallest].sum()), self._loss(self._smallest))
        steps = [(upgrade.nbytes, -upgrade.saved) for upgrade in self._upgrades]
        return list(accumulate(steps, lambda at, step: (at[0] + step[0], at[1] + step[1]), initial=begin))

    def _loss(self, chosen: NDArray[np.int64]) -> float:
        return float(self._losses[self._rows, chosen].sum())

    def _taken(self, budget: int, fixed: dict[int, int]) -> NDArray[np.int64] | None:
        """The hull's upgrades in order, and then whatever still fits; some tensors have their option already."""
        chosen = self._smallest.copy()
        for tensor, index in fixed.items():
            chosen[tensor] = index
        left = budget - int(self._sizes[self._rows, chosen].sum())
        if left < 0:
            return None
        for upgrade in self._upgrades:
            tensor = upgrade.tensor
            more = int(self._sizes[tensor, upgrade.index] - self._sizes[tensor, chosen[tensor]])
            saves = self._losses[tensor, upgrade.index] < self._losses[tensor, chosen[tensor]]
            if tensor not in fixed and 0 <= more <= left and saves:
                chosen[tensor], left = upgrade.index, left - more
        free = np.ones(len(chosen), bool)
        free[list(fixed)] = False
        while True:
            saved = self._losses[self._rows, chosen][:, None] - self._losses
            more_bytes = self._sizes - self._sizes[self._rows, chosen][:, None]
            fits = (saved > 0) & (more_bytes <= left) & free[:, None]
            if not fits.any():
                return chosen
            rates = np.where(fits, saved / np.maximum(more_bytes, 1), -1.0)
            tensor, index = (int(one) for one in np.unravel_index(int(rates.argmax()), rates.shape))
            left -= int(more_bytes[tensor, index])
            chosen[tensor] = index

    def _bound(self, budget: int) -> float:
        """What no choice within the budget falls below: the hull, where an upgrade could be taken in part."""
        curve = self.frontier()
        sizes, losses = (np.array(one, np.float64) for one in zip(*curve, strict=True))
        return float(np.interp(budget, sizes, losses))

    def _nearby(self, chosen: NDArray[np.int64]) -> Iterator[dict[int, int]]:
        """The largest tensors with every type on their hulls next to what they have."""
        large = [int(n) for n in np.argsort(-self._sizes[self._rows, chosen])[:_LARGE]]
        tried = []
        for tensor in large:
            hull = [int(self._smallest[tensor]), *(u.index for u in self._upgrades if u.tensor == tensor)]
            nbytes = self._sizes[tensor, chosen[tensor]]
            below = [index for index in hull if self._sizes[tensor, index] < nbytes][-1:]
            above = [index for index in hull if self._sizes[tensor, index] > nbytes][:1]
            tried.append([*below, int(chosen[tensor]), *above])
        for indices in product(*tried):
            yield dict(zip(large, indices, strict=True))


def _smallest(options: Sequence[Option]) -> int:
    return min(range(len(options)), key=lambda n: (options[n].nbytes, options[n].loss))


def _hull(tensor: int, options: Sequence[Option]) -> Iterator[Upgrade]:
    """From the smallest option on, always the steepest way down."""
    now = options[_smallest(options)]
    while better := [n for n, o in enumerate(options) if o.nbytes > now.nbytes and o.loss < now.loss]:
        best = max(
            better,
            key=lambda n: ((now.loss - options[n].loss) / (options[n].nbytes - now.nbytes), options[n].nbytes),
        )
        yield Upgrade(tensor, best, options[best].nbytes - now.nbytes, now.loss - options[best].loss)
        now = options[best]
