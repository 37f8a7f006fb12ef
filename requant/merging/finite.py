"""What is merged are numbers: NaN and infinities of an input stop the merge, and are named where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from requant.codecs import Values
from requant.errors import FormatError
from requant.expressions.elementwise import Elementwise
from requant.expressions.single import Single
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
        if at is None:
            return
        row, column = divmod(at, max(values.shape[1], 1))
        tensor = self.leaves()[0]
        paths = [source.path for source in tensor.sources.values() if isinstance(source, FileSlice)]
        raise FormatError(
            paths[0] if paths else Path("(made by the plan)"),
            f"tensor {tensor.name!r}: the value in row {rows[row]}, column {column} is {values[row, column]}",
            hint="the model is damaged; `requant convert --replace-nan 0` makes one of it that can be merged",
        )
