"""Every so many rows of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

from requant.encodings import Shape
from requant.expressions.moving import Moving
from requant.expressions.node import Node
from requant.expressions.single import Single


@dataclass(frozen=True, slots=True)
class Deinterleaved(Single, Moving):
    """Of rows that come from `count` tensors in turn those of one: `turn`, `turn + count`, `turn + 2 * count`, …"""

    turn: int
    count: int = 2

    @property
    def shape(self) -> Shape:
        """[..., rows / count, columns]."""
        *stack, rows, columns = self.of.shape
        return (*stack, rows // self.count, columns)

    def explain(self) -> str:
        """For example `deinterleaved(gate_up_proj, 0 of 2)`."""
        return f"deinterleaved({self.of.explain()}, {self.turn} of {self.count})"

    @property
    def granule(self) -> int:
        """As many as make whole granules of the child."""
        return self.of.granule // gcd(self.of.granule, self.count)

    @property
    def spread(self) -> int:
        """All that come in turn."""
        return self.count

    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """Further apart."""
        start, step = rows.start * self.count + self.turn, rows.step * self.count
        yield self.of, range(start, start + len(rows) * step, step), slice(None)
