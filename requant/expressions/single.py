"""Nodes over one other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from requant.expressions.node import Node


@dataclass(frozen=True, slots=True)
class Single(Node):
    """A node with one child, `of`. It stands before `Moving` or `Elementwise` among what a node derives from."""

    of: Node

    @property
    def children(self) -> tuple[Node, ...]:
        """The one."""
        return (self.of,)

    def over(self, children: Sequence[Node]) -> Self:
        """The same of another."""
        return replace(self, of=children[0])
