"""Some rows of a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from requant.encodings import Shape
from requant.expressions.moving import Moving
from requant.expressions.node import Node


@dataclass(frozen=True, slots=True)
class Slice(Moving):
    """Only the rows `[start, stop)`, as a matrix: one projection of a fused layer, one expert of a stack."""

    of: Node
    start: int
    stop: int

    @property
    def shape(self) -> Shape:
        """[stop - start, columns]."""
        return (self.stop - self.start, self.of.columns)

    @property
    def children(self) -> tuple[Node, ...]:
        """The whole."""
        return (self.of,)

    def over(self, children: Sequence[Node]) -> Node:
        """The same rows of another."""
        return replace(self, of=children[0])

    def explain(self) -> str:
        """For example `rows(qkv, 0, 512)`."""
        return f"rows({self.of.explain()}, {self.start}, {self.stop})"

    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """Further down."""
        yield self.of, range(rows.start + self.start, rows.stop + self.start, rows.step), slice(None)
