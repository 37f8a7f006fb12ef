"""Rows by their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from requant.encodings import Shape
from requant.expressions.moving import Moving
from requant.expressions.node import Node
from requant.expressions.single import Single


@dataclass(frozen=True, slots=True)
class Chosen(Single, Moving):
    """The rows `chosen`, in this order, as a matrix; a row may be there twice: a vocabulary that was cut or mapped."""

    chosen: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        """[chosen, columns]."""
        return (len(self.chosen), self.of.columns)

    def explain(self) -> str:
        """For example `chosen(embed_tokens, 32000 rows)`."""
        return f"chosen({self.of.explain()}, {len(self.chosen)} rows)"

    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """Rows that follow each other are asked for together."""
        wanted = np.asarray(self.chosen[rows.start : rows.stop : rows.step], np.int64)
        ends = [*(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(wanted)]
        start = 0
        for end in ends:
            if start < end:
                first = int(wanted[start])
                yield self.of, range(first, first + end - start), slice(start, end)
            start = end
