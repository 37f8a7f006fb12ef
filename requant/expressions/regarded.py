"""The same numbers in another shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Any

from numpy.typing import NDArray

from requant.encodings import Dense, Encoding, Shape, columns_of
from requant.expressions.context import Context
from requant.expressions.form import Form
from requant.expressions.granules import InGranules
from requant.expressions.moving import Moving
from requant.expressions.node import Node
from requant.expressions.single import Single


def reshaped(node: Node, shape: Shape) -> Node:
    """`node` in another shape of as many numbers: itself if it has it already."""
    if node.shape == shape:
        return node
    return Regarded(node, shape) if columns_of(shape) == node.columns else Reshaped(node, shape)


@dataclass(frozen=True, slots=True)
class Regarded(Single, Moving):
    """The same rows, counted in other dimensions."""

    into: Shape

    @property
    def shape(self) -> Shape:
        """The new one."""
        return self.into

    def explain(self) -> str:
        """As the child: rows are what is stored, whatever they are called."""
        return self.of.explain()

    @property
    def is_straight(self) -> bool:
        """They are the same rows."""
        return True

    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """The same rows."""
        yield self.of, rows, slice(None)


@dataclass(frozen=True, slots=True)
class Reshaped(Single, InGranules):
    """Rows of another length: a vector as a column, a convolution's kernel squeezed."""

    into: Shape

    @property
    def shape(self) -> Shape:
        """The new one."""
        return self.into

    def explain(self) -> str:
        """For example `reshaped(conv1d, 256x4)`."""
        return f"reshaped({self.of.explain()}, {'x'.join(map(str, self.into)) or 'scalar'})"

    def forms(self, target: Encoding) -> Form:
        """Numbers that are stored one after another are those of the child."""
        kept = Form.VALUES | Form.HALVES | (Form.BYTES if isinstance(target, Dense) else Form.VALUES)
        return self.of.forms(target) & kept

    def holds(self, target: Encoding) -> bool:
        """Dense numbers are the same; groups of others are not."""
        return isinstance(target, Dense) and self.of.holds(target)

    @property
    def granule(self) -> int:
        """Rows that make whole granules of the child."""
        values = self.of.granule * max(self.of.columns, 1)
        return max(1, min(values // gcd(values, max(self.columns, 1)), self.rows))

    def granule_bytes(self, form: Form, rows: int, width: int) -> int:
        """What the child takes for as many numbers."""
        count = -(-rows * self.columns // max(self.of.columns, 1))
        return self.of.run_bytes(form, count, width * self.of.columns // max(self.columns, 1), straight=True)

    def fill_granules(self, form: Form, start: int, stop: int, out: NDArray[Any], context: Context) -> None:
        """The child writes to the same memory, which it sees in its own shape."""
        if out.size:
            first, last = (row * self.columns // self.of.columns for row in (start, stop))
            self.of.fill(form, range(first, last), out.reshape(last - first, -1), context)
