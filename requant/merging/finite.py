"""What is merged are numbers: NaN and infinities of an input stop the merge, and are named where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Halves, Values
from requant.encodings import Encoding
from requant.errors import FormatError
from requant.expressions import Context, Form, Node
from requant.expressions.elementwise import Elementwise
from requant.expressions.single import Single
from requant.merging.precision import Precision
from requant.sources import FileSlice


@dataclass(frozen=True, slots=True)
class Finite(Single, Elementwise):
    """The same values, looked at: a vote or a mask would leave out what is no number, and nobody would know.

    As 16-bit floats they are given without a look: who takes them sees by what they make whether one is no number, and
    asks `look` which.
    """

    def explain(self) -> str:
        """As what is looked at."""
        return self.of.explain()

    def forms(self, target: Encoding) -> Form:
        """Those in which there are numbers."""
        return self.of.forms(target) & (Form.VALUES | Form.HALVES)

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """The child's rows."""
        self.of.fill(form, rows, out, context)
        if form is Form.VALUES:
            self.change(out, rows)

    def change(self, values: Values, rows: range) -> None:
        """Nothing; raises `FormatError` for the first value that is not finite."""
        from requant.kernels_cpu.checks import beyond

        at = beyond(values, np.inf)
        if at is not None:
            row, column = divmod(at, max(values.shape[1], 1))
            raise _no_number(self, rows[row], column, float(values[row, column]))


def look(node: Node, words: Halves, rows: range, precision: Precision) -> None:
    """Raises `FormatError` for the first of some rows of a tensor, as bits of 16-bit floats, that is not finite."""
    bad = words & np.uint16(0x7FFF) >= precision.infinity
    if bad.any():
        row, column = (int(place[0]) for place in np.nonzero(bad))
        bits = words[row, column : column + 1]
        value = bits.view(np.float16) if precision is Precision.F16 else (bits.astype("<u4") << 16).view(np.float32)
        raise _no_number(node, rows[row], column, float(value[0]))


def _no_number(node: Node, row: int, column: int, value: float) -> FormatError:
    tensor = node.leaves()[0]
    paths = [source.path for source in tensor.sources.values() if isinstance(source, FileSlice)]
    return FormatError(
        paths[0] if paths else Path("(made by the plan)"),
        f"tensor {tensor.name!r}: the value in row {row}, column {column} is {value}",
        hint="the model is damaged; `requant convert --replace-nan 0` makes one of it that can be merged",
    )
