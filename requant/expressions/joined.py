"""Tensors one below the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Self

from requant.encodings import Shape
from requant.expressions.factors import Factors, Products, filled, joined, stacked
from requant.expressions.moving import Moving
from requant.expressions.node import Node
from requant.expressions.wording import listed


@dataclass(frozen=True)  # without slots, so that all inputs, of which a stack may have hundreds, are asked once
class Joined(Moving):
    """The rows of several tensors one after another, as a matrix: q, k and v fused. All have as many columns."""

    inputs: tuple[Node, ...]

    @cached_property
    def ends(self) -> list[int]:
        """Of each input, the row of all that follows its last one."""
        return list(accumulate(node.rows for node in self.inputs))

    @property
    def shape(self) -> Shape:
        """[rows of all, columns]."""
        return (self.ends[-1], self.inputs[0].columns)

    @cached_property
    def granule(self) -> int:
        """As of every node."""
        return super().granule

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
        return all(end % self.granule == 0 for end in self.ends)

    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """The inputs that the rows lie in."""
        at = 0
        while at < len(rows):
            number = bisect_right(self.ends, rows[at])
            first = self.ends[number] - self.inputs[number].rows
            count = len(range(rows[at], min(rows.stop, self.ends[number]), rows.step))
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
