"""Tensors one below the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

from requant.encodings import Shape
from requant.expressions.factors import Factors, Products, filled, joined, stacked
from requant.expressions.moving import Moving
from requant.expressions.node import Node
from requant.expressions.wording import listed


@dataclass(frozen=True, slots=True)
class Joined(Moving):
    """The rows of several tensors one after another, as a matrix: q, k and v fused. All have as many columns."""

    inputs: tuple[Node, ...]

    @property
    def shape(self) -> Shape:
        """[rows of all, columns]."""
        return (sum(node.rows for node in self.inputs), self.inputs[0].columns)

    @property
    def children(self) -> tuple[Node, ...]:
        """The inputs."""
        return self.inputs

    def over(self, children: Sequence[Node]) -> Self:
        """Others joined."""
        return replace(self, inputs=tuple(children))

    def product(self, of: Products) -> Factors | None:
        """One product of all, of the sum of their ranks."""
        return joined(filled(self.inputs, of))

    def explain(self) -> str:
        """For example `joined(q, k, v)`."""
        return f"joined({listed(self.inputs)})"

    @property
    def is_straight(self) -> bool:
        """If each begins with a whole granule of all."""
        return all(node.rows % self.granule == 0 for node in self.inputs)

    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """The inputs that the rows lie in."""
        ends = list(accumulate(node.rows for node in self.inputs))
        at = 0
        while at < len(rows):
            number = bisect_right(ends, rows[at])
            first = ends[number] - self.inputs[number].rows
            count = len(range(rows[at], min(rows.stop, ends[number]), rows.step))
            start = rows[at] - first
            yield self.inputs[number], range(start, start + count * rows.step, rows.step), slice(at, at + count)
            at += count


@dataclass(frozen=True, slots=True)
class Stacked(Joined):
    """The same with a dimension more: experts, all of one shape, as a stack."""

    @property
    def shape(self) -> Shape:
        """[inputs, ...]."""
        return (len(self.inputs), *self.inputs[0].shape)

    def product(self, of: Products) -> Factors | None:
        """A stack of each."""
        return stacked(filled(self.inputs, of))

    def explain(self) -> str:
        """For example `stacked(experts.0.up_proj, experts.1.up_proj and 6 more)`."""
        return f"stacked({listed(self.inputs)})"
