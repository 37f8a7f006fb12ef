"""Rows of several tensors in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import gcd, lcm
from typing import Self

from requant.encodings import Shape
from requant.expressions.moving import Moving
from requant.expressions.node import Node
from requant.expressions.wording import listed


@dataclass(frozen=True, slots=True)
class Interleaved(Moving):
    """The first row of each input, the second of each, … All have one shape; gpt-oss keeps gate and up of its experts
    so, in transformers."""

    inputs: tuple[Node, ...]

    @property
    def shape(self) -> Shape:
        """[..., inputs * rows, columns]."""
        *stack, rows, columns = self.inputs[0].shape
        return (*stack, len(self.inputs) * rows, columns)

    @property
    def children(self) -> tuple[Node, ...]:
        """The inputs."""
        return self.inputs

    def over(self, children: Sequence[Node]) -> Self:
        """Others in turn."""
        return replace(self, inputs=tuple(children))

    def explain(self) -> str:
        """For example `interleaved(gate, up)`."""
        return f"interleaved({listed(self.inputs)})"

    @property
    def granule(self) -> int:
        """A granule of each input."""
        return min(len(self.inputs) * lcm(*(node.granule for node in self.inputs)), max(self.rows, 1))

    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """The rows of one input recur with a period."""
        of = len(self.inputs)
        period = of // gcd(rows.step, of)
        for at in range(min(period, len(rows))):
            here = rows[at::period]
            row, number = divmod(here.start, of)
            step = here.step // of
            yield self.inputs[number], range(row, row + len(here) * step, step), slice(at, None, period)
