"""Several models' tensors made one, as a node of a tensor's expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from requant.encodings import Encoding, Shape
from requant.expressions import Context, Form, InGranules, Node, Reduction
from requant.expressions.form import is_half
from requant.merging.finite import look
from requant.merging.methods.method import Formula


@dataclass(frozen=True, slots=True)
class Merged(InGranules):
    """What a method's formula makes of the same rows of several tensors.

    of: one node for each model, all of the same shape. wording: how the plan says it.
    """

    of: tuple[Node, ...]
    formula: Formula
    wording: str

    @property
    def shape(self) -> Shape:
        """That of every model's tensor."""
        return self.of[0].shape

    @property
    def children(self) -> tuple[Node, ...]:
        """The models' tensors."""
        return self.of

    def over(self, children: Sequence[Node]) -> Node:
        """The same of others."""
        return replace(self, of=tuple(children))

    def explain(self) -> str:
        """For example `slerp(a:model.norm.weight, b:model.norm.weight; t=0.35)`."""
        return self.wording

    def forms(self, target: Encoding) -> Form:
        """Float32; numbers of the target's 16-bit dtype where all models are of it, and the merge computes in it."""
        halves = self.formula.in_halves and is_half(target) and self.formula.setting.precision.encoding == target
        halves = halves and all(Form.HALVES in node.forms(target) for node in self.of)
        return Form.VALUES | Form.HALVES if halves else Form.VALUES

    def holds(self, target: Encoding) -> bool:
        """Not for all one can know."""
        return False

    def reductions(self) -> tuple[Reduction, ...]:
        """Those of the formula."""
        return self.formula.reductions(self.of)

    def granule_bytes(self, form: Form, rows: int, width: int) -> int:
        """The models' rows, what one of them takes to be read, and what the formula works in."""
        making = max(node.run_bytes(form, rows, width, straight=True) for node in self.of)
        buffers = 0 if form is Form.HALVES else self.formula.buffers()
        return (len(self.of) + buffers) * rows * width + making

    def fill_granules(self, form: Form, start: int, stop: int, out: NDArray[Any], context: Context) -> None:
        """The models' rows, and what the formula makes of them."""
        with context.scratch.room() as scratch:
            stack = scratch.like(out, len(self.of) * (stop - start)).reshape(len(self.of), stop - start, -1)
            for node, rows in zip(self.of, stack, strict=True):
                node.fill(form, range(start, stop), rows, context)
            known = context.results(self)
            if form is Form.VALUES:
                self.formula.fill(stack, start, known, out, scratch)
            elif not self.formula.fill_halves(stack, known, out):
                for node, words in zip(self.of, stack, strict=True):
                    look(node, words, range(start, stop), self.formula.setting.precision)
