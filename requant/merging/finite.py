"""What is merged are numbers: NaN and infinities of an input stop the merge, and are named where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.encodings import F16, Encoding, Shape, exactness
from requant.errors import FormatError
from requant.expressions import Context, Form, Single
from requant.sources import FileSlice

#: The bits of infinity in F16, and in BF16.
_F16: Final = 0x7C00
_BF16: Final = 0x7F80


@dataclass(frozen=True, slots=True)
class Finite(Single):
    """The same values, looked at: a vote or a mask would leave out what is no number, and nobody would know."""

    @property
    def shape(self) -> Shape:
        """That of what is looked at."""
        return self.of.shape

    def explain(self) -> str:
        """As what is looked at."""
        return self.of.explain()

    def forms(self, target: Encoding) -> Form:
        """Those in which numbers can be seen."""
        return self.of.forms(target) & (Form.VALUES | Form.HALVES)

    def holds(self, target: Encoding) -> bool:
        """As what is looked at."""
        return self.of.holds(target)

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """What its child takes."""
        return self.of.run_bytes(form, rows, width, straight)

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """The child's rows; raises `FormatError` for the first value that is not finite."""
        from requant.kernels_cpu.checks import beyond, beyond_halves

        self.of.fill(form, rows, out, context)
        if form is Form.VALUES:
            at, halves = beyond(out, np.inf), False
        else:
            halves = exactness.values_of(self.of.encodings()[0]) == F16
            at = beyond_halves(out, _F16 if halves else _BF16)
        if at is not None:
            row, column = divmod(at, max(out.shape[1], 1))
            self._stop(rows[row], column, _value(out[row, column], halves))

    def _stop(self, row: int, column: int, value: float) -> None:
        tensor = self.leaves()[0]
        paths = [source.path for source in tensor.sources.values() if isinstance(source, FileSlice)]
        raise FormatError(
            paths[0] if paths else Path("(made by the plan)"),
            f"tensor {tensor.name!r}: the value in row {row}, column {column} is {value}",
            hint="the model is damaged; `requant convert --replace-nan 0` makes one of it that can be merged",
        )


def _value(stored: Any, halves: bool) -> float:
    """A number as it was looked at: float32, or the bits of one of 16 bits."""
    if stored.dtype == np.float32:
        return float(stored)
    return float(stored.view(np.float16)) if halves else float((np.uint32(stored) << np.uint32(16)).view(np.float32))
