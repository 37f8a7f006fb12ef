"""Where a given rank lies among the numbers of a whole tensor, ordered by size and then by index: exactly.

No tensor is sorted. A first pass counts the upper bits of all sizes, for every stretch of the tensor apart; a second
the lower bits of those that share the upper ones of the rank (BF16 has none); a third looks for the value itself
among those of the very same size, in the one stretch that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.expressions import Node, Reduction
from requant.merging.precision import Precision, flat

#: Counts of all stretches take no more than this many times 65,536 numbers of 32 bits.
_COUNTED: Final = 64
_LOWER: Final = 15
#: An index that no number has.
BEYOND: Final = 1 << 62

#: Counts of consecutive stretches, by their numbers.
Counts = list[tuple[int, NDArray[np.uint32]]]


#: Of the rows of all inputs, two arrays whose differences are the numbers with this key; without a second, its zeros.
Numbers = Callable[[Sequence[Values], int], tuple[Values, Values]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The number of `rank` (0 the smallest) among those with this key; or of the rank that follows from what the node
    knows when the search begins.

    from_last: of numbers of one size, the first is to be the largest, not the last. What is found then is the first
    that is smaller than the wanted one.
    """

    key: int
    rank: int | Callable[[Sequence[Any]], int]
    from_last: bool = False

    def rank_by(self, known: Sequence[Any]) -> int:
        """As a number."""
        return self.rank if isinstance(self.rank, int) else self.rank(known)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a wanted number is.

    bits: those of its size that are known. rank: among those with the same bits. counts: how many of these there are,
    by stretches of the tensor.
    """

    bits: int
    rank: int
    counts: tuple[tuple[int, int], ...]
    from_last: bool = False

    @property
    def order(self) -> int:
        """The how many-th of the same bits it is by index; of zeros the first, for their order changes nothing."""
        if self.bits == 0:
            return 0
        return sum(count for _, count in self.counts) - self.rank if self.from_last else self.rank

    @property
    def stretch(self) -> tuple[int, int] | None:
        """Which stretch has it, and the how many-th there it is; None where nobody need look: the first, or none."""
        left = self.order
        for number, count in self.counts if left else ():
            if left < count:
                return number, left
            left -= count
        return None


@dataclass(frozen=True, slots=True)
class _Pass(Reduction):
    """One of the three. first: which of the node's reductions is the first of these."""

    inputs: tuple[Node, ...] = field(compare=False)
    numbers: Numbers = field(compare=False)
    wanted: tuple[Wanted, ...] = field(compare=False)
    precision: Precision
    first: int

    def stretch(self, rows: range) -> int:
        """Which stretch of the tensor a slab lies in: the one it begins in."""
        stretches = max(1, _COUNTED // len(self.wanted))
        return rows.start * stretches // max(1, self.inputs[0].rows)

    def count(self, values: Sequence[Values], key: int, upper: int, out: NDArray[np.uint32]) -> None:
        """Add the sizes of the numbers with this key to `out`."""
        from requant.kernels_cpu.magnitudes import count_sizes

        one, other = self.numbers(values, key)
        count_sizes(one.reshape(-1), other.reshape(-1), self.precision.work, upper, out)

    def places(self, known: Sequence[Any]) -> list[Place]:
        """What the passes before have found."""
        places: list[Place] = known[self.first + 1] or [_shifted(place) for place in known[self.first]]
        return places


@dataclass(frozen=True, slots=True)
class Upper(_Pass):
    """Counts of the upper 16 bits of sizes, of every stretch; finds those of each wanted value."""

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> tuple[list[int], Counts]:
        """Of one slab: the ranks, and counts [wanted, bits]."""
        counts = np.zeros((len(self.wanted), 1 << 16), np.uint32)
        for n, want in enumerate(self.wanted):
            if n and want.key == self.wanted[n - 1].key:
                counts[n] = counts[n - 1]
            else:
                self.count(values, want.key, -1, counts[n])
        return [want.rank_by(known[: self.first]) for want in self.wanted], [(self.stretch(rows), counts)]

    def merge(self, one: tuple[list[int], Counts], other: tuple[list[int], Counts]) -> tuple[list[int], Counts]:
        """Counts of one stretch are added."""
        return one[0], _added(one[1], other[1])

    def result(self, total: tuple[list[int], Counts] | None) -> list[Place]:
        """By upper bits; of a rank beyond the last, nowhere."""
        if total is None:
            return []
        pairs = enumerate(zip(total[0], self.wanted, strict=True))
        return [_place(total[1], n, rank, want.from_last) for n, (rank, want) in pairs]


@dataclass(frozen=True, slots=True)
class Lower(_Pass):
    """Counts of the lower 15 bits of sizes with the upper bits of the wanted one."""

    def needs(self, rows: range, known: Sequence[Any]) -> bool:
        """BF16 has no lower bits."""
        return self.precision is not Precision.BF16

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> tuple[list[Place], Counts]:
        """Of one slab: [wanted, bits]."""
        places: list[Place] = known[self.first]
        counts = np.zeros((len(self.wanted), 1 << _LOWER), np.uint32)
        for out, want, place in zip(counts, self.wanted, places, strict=True):
            self.count(values, want.key, place.bits, out)
        return places, [(self.stretch(rows), counts)]

    def merge(self, one: tuple[list[Place], Counts], other: tuple[list[Place], Counts]) -> tuple[list[Place], Counts]:
        """Counts of one stretch are added."""
        return one[0], _added(one[1], other[1])

    def result(self, total: tuple[list[Place], Counts] | None) -> list[Place] | None:
        """By all bits; None for BF16."""
        if total is None:
            return None
        places, counts = total
        fine = [_place(counts, n, place.rank, place.from_last) for n, place in enumerate(places)]
        return [replace(low, bits=_shifted(high).bits | low.bits) for low, high in zip(fine, places, strict=True)]


@dataclass(frozen=True, slots=True)
class Same(_Pass):
    """The index of each wanted value, found among those of its size in the stretch that has it."""

    def needs(self, rows: range, known: Sequence[Any]) -> bool:
        """One stretch of each, where there is a choice."""
        here = self.stretch(rows)
        return any(place.stretch is not None and place.stretch[0] == here for place in self.places(known))

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> list[_Runs]:
        """Of one slab: a bit for each value."""
        from requant.kernels_cpu.magnitudes import sizes_of

        runs, here = [], self.stretch(rows)
        for want, place in zip(self.wanted, self.places(known), strict=True):
            found = _Runs(place, [])
            if place.stretch is not None and place.stretch[0] == here:
                one, other = self.numbers(values, want.key)
                sizes = np.empty(max(16, one.size), np.int32)
                sizes_of(flat(one), flat(other), self.precision.work, sizes)
                same = sizes[: one.size] == place.bits
                found.bits.append((rows.start * one.shape[1], np.packbits(same)))
            runs.append(found)
        return runs

    def merge(self, one: list[_Runs], other: list[_Runs]) -> list[_Runs]:
        """One after the other."""
        return [_Runs(a.place, [*a.bits, *b.bits]) for a, b in zip(one, other, strict=True)]

    def result(self, total: list[_Runs] | None) -> list[int]:
        """Indices in the tensor; 0 where nobody looked."""
        return [runs.index for runs in total] if total else [0] * len(self.wanted)


@dataclass(slots=True)
class _Runs:
    """Which values of a stretch have the size of a place: indices of first values, and bits."""

    place: Place
    bits: list[tuple[int, NDArray[np.uint8]]]

    @property
    def index(self) -> int:
        """Of the value at that place."""
        left = self.place.stretch[1] if self.place.stretch else 0
        for first, bits in self.bits:
            same = np.flatnonzero(np.unpackbits(bits))
            if left < same.size:
                return first + int(same[left])
            left -= same.size
        return 0


def finding(
    inputs: tuple[Node, ...], numbers: Numbers, wanted: tuple[Wanted, ...], precision: Precision, first: int = 0
) -> tuple[Reduction, ...]:
    """The three passes, after `first` other reductions of the node; none if nothing is wanted."""
    return tuple(kind(inputs, numbers, wanted, precision, first) for kind in (Upper, Lower, Same)) if wanted else ()


def found(known: Sequence[Any]) -> list[tuple[int, int]]:
    """What the three have found: the bits of each wanted number's size, and its index; `BEYOND` if there is none."""
    places: list[Place] = known[1] or [_shifted(place) for place in known[0]]
    return [
        (place.bits, index if place.stretch else BEYOND if place.order else 0)
        for place, index in zip(places, known[2], strict=True)
    ]


def _shifted(place: Place) -> Place:
    """Upper bits as bits of the whole size."""
    return replace(place, bits=place.bits << _LOWER)


def _added(one: Counts, other: Counts) -> Counts:
    if one and other and one[-1][0] == other[0][0]:
        one[-1][1][...] += other[0][1]
        other = other[1:]
    return [*one, *other]


def _place(counts: Counts, wanted: int, rank: int, from_last: bool) -> Place:
    """Where the number of that rank is among those counted."""
    total = np.zeros(counts[0][1].shape[-1], np.int64)
    for _, part in counts:
        total += part[wanted]
    upto = np.cumsum(total)
    bits = int(np.searchsorted(upto, rank, side="right"))
    stretches = tuple((number, int(part[wanted, bits])) for number, part in counts)
    return Place(bits, rank - int(upto[bits] - total[bits]), stretches, from_last)
