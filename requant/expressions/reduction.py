"""What a node must know of whole tensors before its first row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from math import lcm
from typing import TYPE_CHECKING, Any, Final

from requant.codecs import Values
from requant.expressions.context import Context
from requant.expressions.form import Form

if TYPE_CHECKING:
    from requant.expressions.node import Node

#: Values of one input in a slab.
SLAB_VALUES: Final = 1 << 19


class Reduction(ABC):
    """A norm, a dot product, a k-th largest size, a histogram: found from slabs of rows and merged in their order.

    Slabs are cut by `slabs` alone, so that the result depends neither on threads nor on the length of runs.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def inputs(self) -> tuple[Node, ...]:
        """The nodes that are looked at, all with as many rows; the same rows of each at a time, as float32."""

    def needs(self, rows: range, known: Sequence[Any]) -> bool:
        """Whether a slab is looked at, by what is known already (see `part`); without any, `result` is given None."""
        return True

    @abstractmethod
    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> Any:
        """What one slab gives.

        values: of each input, [len(rows), its columns]; they are the worker's, and overwritten by the next slab.
        rows: which rows these are. known: the results of the reductions that the same node declares before this one.
        """

    @abstractmethod
    def merge(self, one: Any, other: Any) -> Any:
        """Of two parts, `other` of the later rows, one part; either may be changed and given back."""

    def result(self, total: Any | None) -> Any:
        """What the node finds in its context; `total` is None if no slab was looked at, as of tensors without rows."""
        return total


def slabs(inputs: Sequence[Node]) -> Iterator[range]:
    """The slabs of a reduction over `inputs`, in order: whole granules of about `SLAB_VALUES` values."""
    rows, columns = inputs[0].rows, max(max(node.columns for node in inputs), 1)
    granule = lcm(*(node.granule for node in inputs))
    length = granule * max(1, SLAB_VALUES // (granule * columns))
    for start in range(0, rows, length):
        yield range(start, min(rows, start + length))


def part_of(reduction: Reduction, rows: range, known: Sequence[Any], context: Context) -> Any:
    """What one slab gives: its rows of every input are made, and looked at."""
    with context.scratch.room() as scratch:
        values = [scratch.values(len(rows), node.columns) for node in reduction.inputs]
        for node, out in zip(reduction.inputs, values, strict=True):
            node.fill(Form.VALUES, rows, out, context)
        return reduction.part(values, rows, known)
