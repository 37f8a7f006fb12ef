"""A product of two thin matrices that is added to a tensor, and what becomes of the two where the tensor moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from requant.encodings import DENSE
from requant.ir import Tensor
from requant.sources import Memory

if TYPE_CHECKING:
    from requant.expressions.node import Node


class Computed(ValueError):
    """Values are computed, so that a product added to what they are computed of is none added to them."""


@dataclass(frozen=True, slots=True)
class Factors:
    """up: [..., rows, rank]. down: [..., rank, columns]; a stack of them for a stack of matrices."""

    up: Node
    down: Node

    @property
    def rank(self) -> int:
        """Of each matrix."""
        return self.up.columns

    def moved(self, node: Node) -> Factors:
        """The rows of `up` as `node`, whose one child has this product, has that child's."""
        return Factors(node.over([_matrix(self.up)]), self.down)

    def of_rows(self, start: int, stop: int) -> Factors:
        """Those of some rows, which are of one matrix where it is a stack."""
        down = self.down
        if len(down.shape) == 3:
            matrix = start // max(self.up.shape[-2], 1)
            down = down.section(matrix * self.rank, (matrix + 1) * self.rank)
        return Factors(self.up.section(start, stop), down)

    def turned(self) -> Factors:
        """Those of the tensor with rows and columns exchanged."""
        return Factors(self.down.turned(), self.up.turned())


#: Of leaves, by their names.
Products = Mapping[str, Factors]


def filled(nodes: Sequence[Node], of: Products) -> list[Factors]:
    """The products of several nodes, of zeros where there is none; nothing if no node has one."""
    found = [node.product(of) for node in nodes]
    rank = next((one.rank for one in found if one is not None), None)
    if rank is None:
        return []
    return [
        one or Factors(_zeros(node.rows, rank), _zeros(rank, node.columns))
        for node, one in zip(nodes, found, strict=True)
    ]


def stacked(parts: Sequence[Factors]) -> Factors | None:
    """Of a stack of matrices; those of lower rank have zeros besides."""
    from requant.expressions.columns_joined import ColumnsJoined
    from requant.expressions.joined import Joined, Stacked

    rank = max((one.rank for one in parts), default=0)
    ups: list[Node] = []
    downs: list[Node] = []
    for one in parts:
        up, down, more = _matrix(one.up), _matrix(one.down), rank - one.rank
        ups.append(ColumnsJoined((up, _zeros(up.rows, more))) if more else up)
        downs.append(Joined((down, _zeros(more, down.columns))) if more else down)
    return Factors(Stacked(tuple(ups)), Stacked(tuple(downs))) if parts else None


def joined(parts: Sequence[Factors]) -> Factors | None:
    """Of matrices one below the other: ranks add up, and each part of `up` has zeros in the columns of the others."""
    from requant.expressions.columns_joined import ColumnsJoined
    from requant.expressions.joined import Joined

    ups: list[Node] = []
    ranks = [one.rank for one in parts]
    for number, one in enumerate(parts):
        up = _matrix(one.up)
        beside = [_zeros(up.rows, rank) for rank in ranks]
        beside[number] = up
        ups.append(ColumnsJoined(tuple(beside)) if len(beside) > 1 else up)
    return Factors(Joined(tuple(ups)), Joined(tuple(_matrix(one.down) for one in parts))) if parts else None


def _matrix(node: Node) -> Node:
    from requant.expressions.regarded import reshaped

    return reshaped(node, (node.rows, node.columns))


def _zeros(rows: int, columns: int) -> Node:
    from requant.expressions.stored import Stored

    return Stored(Tensor("0", (rows, columns), DENSE["F32"], {"data": Memory(bytes(4 * rows * columns))}))
