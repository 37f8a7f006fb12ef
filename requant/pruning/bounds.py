"""The score below which weights become zero, found exactly and without sorting: in one tensor, or over a whole model.

The upper 16 bits of all scores are counted, then the lower 15 of those that share the upper ones with the wanted rank;
then, in every row, how many have that very score, for of equal ones the first become zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.encodings import BF16
from requant.expressions import Node, Reduction
from requant.pruning.scores import Scores
from requant.reducing import reduced

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bound:
    """bits: of the score. ties: how many of that very score become zero; None where all do."""

    bits: int
    ties: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Digits(Reduction):
    """How often each digit of a score occurs: the upper ones, or (`upper`) the lower ones beside those upper ones.

    upper: or what finds it in the results before, and -1 to count the upper ones.
    """

    scores: Scores
    upper: int | Callable[[Sequence[Any]], int] = -1

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The weights."""
        return (self.scores.of,)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> Counts:
        """Of a slab."""
        from requant.kernels_cpu.pruning import LOWER_COUNTS, UPPER_COUNTS, count_digits

        upper = self.upper if isinstance(self.upper, int) else self.upper(known)
        counts = np.zeros(UPPER_COUNTS if upper < 0 else LOWER_COUNTS, np.int64)
        for _, flat, norms in self.scores.pieces(values[0], rows):
            count_digits(flat, norms, self.scores.of.columns, upper, counts)
        return counts

    def merge(self, one: Counts, other: Counts) -> Counts:
        """Added up."""
        one += other
        return one


@dataclass(frozen=True, slots=True, eq=False)
class Same(Reduction):
    """How many scores of each row are the bound: [rows]. bound: or what finds it in the results before."""

    scores: Scores
    bound: Bound | Callable[[Sequence[Any]], Bound]

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The weights."""
        return (self.scores.of,)

    def found(self, known: Sequence[Any]) -> Bound:
        """The bound."""
        return self.bound if isinstance(self.bound, Bound) else self.bound(known)

    def needs(self, rows: range, known: Sequence[Any]) -> bool:
        """Only where some of equal scores stay."""
        return bool(self.found(known).ties)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> Counts:
        """Of a slab."""
        from requant.kernels_cpu.pruning import count_same

        counts, bits = np.zeros(len(rows), np.int64), self.found(known).bits
        for where, flat, norms in self.scores.pieces(values[0], rows):
            count_same(flat, norms, self.scores.of.columns, bits, counts[where])
        return counts

    def merge(self, one: Counts, other: Counts) -> Counts:
        """One after the other."""
        return np.concatenate((one, other))


def is_coarse(scores: Scores) -> bool:
    """Whether no score has lower bits: sizes of BF16 numbers."""
    return scores.norms is None and scores.of.holds(BF16)


def ties_of(bound: Bound, same: Counts | None, rows: int) -> Counts:
    """How many of the bound's very score become zero in each row: [rows]. same: how many there are."""
    if bound.ties is None:
        return np.full(rows, np.iinfo(np.int64).max)
    if not bound.ties or same is None:
        return np.zeros(rows, np.int64)
    ties: Counts = np.clip(bound.ties - (np.cumsum(same) - same), 0, same)
    return ties


def place(counts: Counts, rank: int) -> tuple[int, int]:
    """The digit at a rank (0 the lowest), and the rank among those of that digit."""
    upto = np.cumsum(counts)
    digit = int(np.searchsorted(upto, rank, side="right"))
    return digit, rank - int(upto[digit] - counts[digit])


def in_tensor(scores: Scores, pruned: int) -> tuple[Reduction, ...]:
    """What finds the bound of one tensor of which `pruned` weights, not all, become zero; `bound_of` reads it."""
    upper = Digits(scores)
    lower = () if is_coarse(scores) else (Digits(scores, lambda known: place(known[0], pruned)[0]),)
    return (upper, *lower, Same(scores, lambda known: bound_of(scores, pruned, known)))


def bound_of(scores: Scores, pruned: int, known: Sequence[Any]) -> Bound:
    """The bound, from what the first of the reductions of `in_tensor` have found."""
    from requant.kernels_cpu.pruning import LOWER

    upper, rank = place(known[0], pruned)
    if is_coarse(scores):
        return Bound(upper << LOWER, rank)
    lower, rank = place(known[1], rank)
    return Bound(upper << LOWER | lower, rank)


def over_model(
    tensors: Sequence[Scores], pruned: int, told: Callable[[int], object] = lambda rows: None
) -> list[Bound]:
    """The bound of each of a model's tensors, of whose weights together `pruned`, not all, become zero.

    Each weight is read two or three times; memory is that of counts. told: hears of rows that were looked at.
    """
    from requant.kernels_cpu.pruning import LOWER

    def tell(reduction: Reduction, rows: int) -> None:
        told(rows)

    upper, rank = place(_added(reduced(map(Digits, tensors), told=tell)), pruned)
    lower, rank = place(_added(reduced((Digits(one, upper) for one in tensors), told=tell)), rank)
    bound = Bound(upper << LOWER | lower, rank)
    bounds, left = [], rank
    for same in reduced((Same(one, bound) for one in tensors), told=tell) if rank else ():
        ties = min(left, int(same.sum()))
        bounds.append(Bound(bound.bits, ties))
        left -= ties
    return bounds or [bound] * len(tensors)


def _added(counts: Any) -> Counts:
    total: Counts = next(counts)
    for one in counts:
        total = total + one
    return total
