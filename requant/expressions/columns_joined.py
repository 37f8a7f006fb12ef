"""Tensors side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from numpy.typing import NDArray

from requant.encodings import Blocks, Dense, Encoding, Shape
from requant.expressions.context import Context
from requant.expressions.form import Form
from requant.expressions.node import Node
from requant.expressions.wording import listed


@dataclass(frozen=True, slots=True)
class ColumnsJoined(Node):
    """The columns of several tensors one after another. All have as many rows."""

    inputs: tuple[Node, ...]

    @property
    def shape(self) -> Shape:
        """[..., columns of all]."""
        return (*self.inputs[0].shape[:-1], sum(node.columns for node in self.inputs))

    @property
    def children(self) -> tuple[Node, ...]:
        """The inputs."""
        return self.inputs

    def over(self, children: Sequence[Node]) -> Self:
        """Others side by side."""
        return replace(self, inputs=tuple(children))

    def explain(self) -> str:
        """For example `beside(embed, position)`."""
        return f"beside({listed(self.inputs)})"

    def forms(self, target: Encoding) -> Form:
        """Numbers that are stored by themselves, and blocks."""
        forms = Form.VALUES | Form.HALVES | (Form.BYTES if self._fits_beside(target) else Form.VALUES)
        for node in self.inputs:
            forms &= node.forms(target)
        return forms

    def holds(self, target: Encoding) -> bool:
        """Numbers and blocks are moved; groups that span columns of several inputs are others."""
        return self._fits_beside(target) and all(node.holds(target) for node in self.inputs)

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """What the inputs take, one after another, and a buffer for what cannot be written to a part of a row."""
        return max(node.run_bytes(form, rows, self._width(node, width)) for node in self.inputs)

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """Each input writes to its columns."""
        start = 0
        for node in self.inputs:
            stop = start + self._width(node, out.shape[1])
            node.fill(form, rows, out[:, start:stop], context)
            start = stop

    def _width(self, node: Node, width: int) -> int:
        return width * node.columns // max(self.columns, 1)

    def _fits_beside(self, target: Encoding) -> bool:
        whole = isinstance(target, Blocks) and all(node.columns % target.values == 0 for node in self.inputs)
        return isinstance(target, Dense) or whole
