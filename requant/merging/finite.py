"""What is merged are numbers: NaN and infinities of an input stop the merge, and are named where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from requant.codecs import Halves, Values
from requant.errors import FormatError
from requant.expressions.elementwise import Elementwise
from requant.expressions.single import Single
from requant.merging.precision import Precision
from requant.sources import FileSlice


@dataclass(frozen=True, slots=True)
class Finite(Single, Elementwise):
    """The same values, looked at: a vote or a mask would leave out what is no number, and nobody would know."""

    def explain(self) -> str:
        """As what is looked at."""
        return self.of.explain()

    def change(self, values: Values, rows: range) -> None:
        """Nothing; raises `FormatError` for the first value that is not finite."""
        from requant.kernels_cpu.checks import beyond

        at = beyond(values, np.inf)
        if at is not None:
            row, column = divmod(at, max(values.shape[1], 1))
            self._stop(rows[row], column, float(values[row, column]))

    def look(self, words: Halves, rows: range, precision: Precision) -> None:
        """The same of 16-bit floats as their bits, which have been read without being looked at."""
        bad = words & np.uint16(0x7FFF) >= precision.infinity
        if bad.any():
            row, column = (int(place[0]) for place in np.nonzero(bad))
            bits = words[row, column : column + 1]
            value = bits.view(np.float16) if precision is Precision.F16 else (bits.astype("<u4") << 16).view(np.float32)
            self._stop(rows[row], column, float(value[0]))

    def _stop(self, row: int, column: int, value: float) -> None:
        tensor = self.leaves()[0]
        paths = [source.path for source in tensor.sources.values() if isinstance(source, FileSlice)]
        raise FormatError(
            paths[0] if paths else Path("(made by the plan)"),
            f"tensor {tensor.name!r}: the value in row {row}, column {column} is {value}",
            hint="the model is damaged; `requant convert --replace-nan 0` makes one of it that can be merged",
        )
