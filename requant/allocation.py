"""Which type each tensor gets so that a file has a given size and the model loses least: a knapsack, nearly.

Every tensor has options, of some bytes and some predicted loss each (`requant.divergence`). On the lower convex hull of
each tensor's options, upgrades are taken in the order of what they save for a byte: that is the best there is for every
size at which it stops, and between two of those the gap is a tensor's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from requant.encodings import Encoding
from requant.errors import PlanError


@dataclass(frozen=True, slots=True)
class Option:
    """A type that a tensor can have, the bytes it takes then, and the divergence that is predicted."""

    encoding: Encoding
    nbytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One tensor's step along its hull. rate: loss saved for a byte."""

    tensor: int
    option: Option
    nbytes: int
    saved: float

    @property
    def rate(self) -> float:
        """What orders upgrades."""
        return self.saved / self.nbytes


def allocated(options: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """One option for each tensor, of at most `budget` bytes together, with about the least loss there is.

    What the hull leaves over is filled with the best that still fits. Raises `PlanError` where even the smallest are
    too large.
    """
    chosen = _smallest(options)
    left = budget - sum(option.nbytes for option in chosen)
    if left < 0:
        raise PlanError(
            f"the smallest types take {budget - left} bytes, and {max(budget, 0)} are asked for",
            hint="name smaller ones with --types, or ask for more",
        )
    for upgrade in upgrades(options):
        more = upgrade.option.nbytes - chosen[upgrade.tensor].nbytes
        if 0 <= more <= left and upgrade.option.loss < chosen[upgrade.tensor].loss:
            chosen[upgrade.tensor], left = upgrade.option, left - more
    while gains := [
        ((chosen[n].loss - option.loss) / max(option.nbytes - chosen[n].nbytes, 1), n, option)
        for n, one in enumerate(options)
        for option in one
        if option.loss < chosen[n].loss and option.nbytes - chosen[n].nbytes <= left
    ]:
        _, n, option = max(gains, key=lambda gain: gain[0])
        left -= option.nbytes - chosen[n].nbytes
        chosen[n] = option
    return chosen


def reaching(options: Sequence[Sequence[Option]], loss: float) -> list[Option]:
    """About the smallest options whose losses add up to at most `loss`.

    Raises `PlanError` where even the best do not.
    """
    least = sum(min(option.loss for option in one) for one in options)
    if least > loss:
        raise PlanError(
            f"the best of these types are predicted to diverge by {least:.3g}, and {loss:.3g} is asked for",
            hint="allow better ones with --types, or ask for less",
        )
    chosen = _smallest(options)
    total = sum(option.loss for option in chosen)
    for upgrade in upgrades(options):
        if total <= loss:
            break
        chosen[upgrade.tensor] = upgrade.option
        total -= upgrade.saved
    return chosen


def upgrades(options: Sequence[Sequence[Option]]) -> list[Upgrade]:
    """All steps along all hulls, the best first; those of one tensor are in order by themselves."""
    steps = [upgrade for n, one in enumerate(options) for upgrade in _hull(n, one)]
    return sorted(steps, key=lambda upgrade: (-upgrade.rate, upgrade.tensor))


def frontier(options: Sequence[Sequence[Option]]) -> list[tuple[int, float]]:
    """(bytes, loss) of the best choices there are, from the smallest to the largest."""
    chosen = _smallest(options)
    begin = (sum(option.nbytes for option in chosen), sum(option.loss for option in chosen))
    steps = [(upgrade.nbytes, -upgrade.saved) for upgrade in upgrades(options)]
    return list(accumulate(steps, lambda at, step: (at[0] + step[0], at[1] + step[1]), initial=begin))


def _smallest(options: Sequence[Sequence[Option]]) -> list[Option]:
    return [min(one, key=lambda option: (option.nbytes, option.loss)) for one in options]


def _hull(tensor: int, options: Sequence[Option]) -> Iterator[Upgrade]:
    """From the smallest option on, always the steepest way down."""
    (now,) = _smallest([options])
    while better := [o for o in options if o.nbytes > now.nbytes and o.loss < now.loss]:
        best = max(better, key=lambda o: ((now.loss - o.loss) / (o.nbytes - now.nbytes), o.nbytes))
        yield Upgrade(tensor, best, best.nbytes - now.nbytes, now.loss - best.loss)
        now = best
