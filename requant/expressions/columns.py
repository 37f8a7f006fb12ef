"""Some columns of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Blocks, Dense, Encoding, Shape
from requant.expressions.context import Context
from requant.expressions.form import Form
from requant.expressions.single import Single


@dataclass(frozen=True, slots=True)
class Columns(Single):
    """The columns `chosen`, in this order: a section (a range), or any."""

    chosen: range | tuple[int, ...]

    @property
    def shape(self) -> Shape:
        """[..., chosen]."""
        return (*self.of.shape[:-1], len(self.chosen))

    def explain(self) -> str:
        """For example `columns(o_proj, 0, 512)`."""
        if isinstance(self.chosen, range) and self.chosen.step == 1:
            return f"columns({self.of.explain()}, {self.chosen.start}, {self.chosen.stop})"
        return f"columns({self.of.explain()}, {len(self.chosen)} of {self.of.columns})"

    def forms(self, target: Encoding) -> Form:
        """Numbers that are stored by themselves, and whole blocks."""
        kept = Form.VALUES | Form.HALVES | (Form.BYTES if self._is_cut_between(target) else Form.VALUES)
        return self.of.forms(target) & kept

    def holds(self, target: Encoding) -> bool:
        """Dense numbers are moved, blocks too if they are whole; groups of others are not the same any more."""
        return self._is_cut_between(target) and self.of.holds(target)

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """Whole rows of the child."""
        wide = -(-width * self.of.columns // max(self.columns, 1))
        return rows * wide + self.of.run_bytes(form, rows, wide, straight)

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """Whole rows, of which some columns are taken; bytes by the number or by the block."""
        width, all_columns = out.shape[1] * self.of.columns // max(self.columns, 1), max(self.of.columns, 1)
        with context.scratch.room() as scratch:
            wide = scratch.array(out.dtype, len(rows), width)
            self.of.fill(form, rows, wide, context)
            if isinstance(self.chosen, range) and self.chosen.step == 1:
                out[...] = wide[:, self.chosen.start * width // all_columns : self.chosen.stop * width // all_columns]
            else:
                numbers = wide.reshape(len(rows), all_columns, width // all_columns)
                out[...] = numbers[:, np.asarray(self.chosen, np.intp)].reshape(out.shape)

    def _is_cut_between(self, target: Encoding) -> bool:
        """Whether it takes whole units of what is stored by themselves: numbers, or blocks that follow each other."""
        if not isinstance(target, Blocks) or not isinstance(self.chosen, range) or self.chosen.step != 1:
            return isinstance(target, Dense)
        return self.chosen.start % target.values == 0 and self.chosen.stop % target.values == 0
