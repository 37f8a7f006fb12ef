"""The numbers of two models beside each other: each pair of tensors read once, some rows at a time.

A run of rows is made of both sides by their expressions, so that rows in another order, experts in a stack and blocks
of any type meet as float32 in the words of the comparison. Runs of a tensor are added up in their order, so that the
result depends neither on threads nor on which of them was first.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from requant.encodings import Dense
from requant.expressions import Context, Form, Node, Scratch, Shared, slabs
from requant.ir import Json
from requant.runs import reducing


@dataclass(slots=True)
class Numbers:
    """What two tensors, or several pairs of them, are to each other.

    values: how many numbers each side has. aa, bb, ab, error: sums of a², b², ab and (b-a)², over pairs that are finite
    on both sides. largest: the largest |b-a| of these. changed: values that are not equal. flipped: those whose sign
    is the other. bad_a, bad_b, bad_both: NaN or infinite on one side alone, or on both.
    """

    values: int = 0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    error: float = 0.0
    largest: float = 0.0
    changed: int = 0
    flipped: int = 0
    bad_a: int = 0
    bad_b: int = 0
    bad_both: int = 0

    def add(self, other: Numbers) -> None:
        """Other pairs, too."""
        self.values += other.values
        self.aa, self.bb, self.ab = self.aa + other.aa, self.bb + other.bb, self.ab + other.ab
        self.error, self.largest = self.error + other.error, max(self.largest, other.largest)
        self.changed, self.flipped = self.changed + other.changed, self.flipped + other.flipped
        self.bad_a, self.bad_b = self.bad_a + other.bad_a, self.bad_b + other.bad_b
        self.bad_both += other.bad_both

    @property
    def relative(self) -> float:
        """Root of the error's squares over root of A's: 0 where nothing differs, infinite where A is zero."""
        if not self.error:
            return 0.0
        return math.sqrt(self.error / self.aa) if self.aa else math.inf

    @property
    def cosine(self) -> float:
        """Of the angle between them; 1 where both are zero, 0 where one is."""
        if not self.aa or not self.bb:
            return 1.0 if self.aa == self.bb else 0.0
        if not self.error:
            return 1.0
        return max(-1.0, min(1.0, self.ab / math.sqrt(self.aa) / math.sqrt(self.bb)))

    @property
    def decibels(self) -> float:
        """Signal to noise: A's squares over the error's; infinite where nothing differs."""
        if not self.error:
            return math.inf
        return 10 * math.log10(self.aa / self.error) if self.aa else -math.inf

    @property
    def worst(self) -> tuple[int, float]:
        """By which pairs are put in order: what is not finite on one side counts before any error."""
        return self.bad_a + self.bad_b, self.relative

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "values": self.values,
            "relative_error": self.relative,
            "largest_error": self.largest,
            "cosine": self.cosine,
            "snr_db": self.decibels,
            "changed": self.changed,
            "sign_flips": self.flipped,
            "not_finite_a": self.bad_a,
            "not_finite_b": self.bad_b,
            "not_finite_both": self.bad_both,
        }


@dataclass(slots=True)
class _Pending:
    """A pair in progress: what its runs have found, by their number, and how many are still to come."""

    shared: Shared = field(default_factory=Shared)
    found: dict[int, Numbers] = field(default_factory=dict)
    left: int = 0

    def total(self) -> Numbers:
        """All runs, in their order."""
        total = Numbers()
        for number in sorted(self.found):
            total.add(self.found[number])
        return total


def compared_numbers(
    pairs: Sequence[tuple[Node, Node]], workers: int, told: Callable[[int], object] = lambda values: None
) -> list[Numbers]:
    """What each pair is to each other; two nodes of a pair have one shape.

    `told` hears how many values are done. Memory is that of the runs of all workers, and of tensors whose encodings
    have to be held whole, no more of them than workers.
    """
    results = [Numbers() for _ in pairs]
    local = threading.local()

    def run(pair: tuple[Node, Node], rows: range, shared: Shared) -> Numbers:
        if not hasattr(local, "scratch"):
            local.scratch = Scratch()
        return _of_rows(*pair, rows, Context(local.scratch, shared))

    with ThreadPoolExecutor(workers) as pool:
        try:
            doing: dict[Future[Numbers], tuple[int, int, int]] = {}
            pending: dict[int, _Pending] = {}

            def settle() -> None:
                for future in wait(doing, return_when=FIRST_COMPLETED).done:
                    number, at, values = doing.pop(future)
                    one = pending[number]
                    one.found[at], one.left = future.result(), one.left - 1
                    if not one.left:
                        results[number] = pending.pop(number).total()
                    told(values)

            for number, pair in enumerate(pairs):
                runs = list(_runs(pair))
                if not runs:
                    continue
                pending[number] = _Pending(left=len(runs))
                for at, rows in enumerate(runs):
                    while len(doing) > workers:
                        settle()
                    future = pool.submit(run, pair, rows, pending[number].shared)
                    doing[future] = (number, at, len(rows) * pair[0].columns)
            while doing:
                settle()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results


def _runs(pair: tuple[Node, Node]) -> Iterator[range]:
    if any(reducing(node) for node in pair):
        raise NotImplementedError("values that depend on whole tensors are those of merges, which no file has")
    return slabs(pair)


def _fill(node: Node, rows: range, values: NDArray[Any], context: Context) -> None:
    """Float32; of whole numbers, which no codec decodes, as near as that can be (all below 2 ** 24 are exact)."""
    stored = node.encodings()
    encoding = stored[0] if len(stored) == 1 else None
    if not isinstance(encoding, Dense) or encoding.dtype.is_float:
        node.fill(Form.VALUES, rows, values, context)
        return
    raw = context.scratch.bytes(values.size * encoding.dtype.bits // 8).reshape(len(rows), -1)
    node.fill(Form.BYTES, rows, raw, context)
    values[:] = raw.view(encoding.dtype.numpy)


def _of_rows(one: Node, other: Node, rows: range, context: Context) -> Numbers:
    from requant.kernels_cpu.differences import differences  # numba, which only those wait for who ask for numbers

    with context.scratch.room() as scratch:
        sides: list[NDArray[Any]] = []
        for node in (one, other):
            values = scratch.values(len(rows), node.columns)
            _fill(node, rows, values, context)
            sides.append(values)
        found = differences(*sides)
    aa, bb, ab, error, largest = (float(number) for number in found[:5])
    changed, flipped, bad_a, bad_b, bad_both = (int(number) for number in found[5:])
    count = len(rows) * one.columns
    return Numbers(count, aa, bb, ab, error, largest, changed, flipped, bad_a, bad_b, bad_both)
