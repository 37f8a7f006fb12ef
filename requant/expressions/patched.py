"""Some rows of a matrix exchanged for others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from requant.encodings import Encoding, Shape
from requant.expressions.moving import Moving
from requant.expressions.node import Node


@dataclass(frozen=True, slots=True)
class Patched(Moving):
    """The rows of `of`, but for those numbered in `at`, which are those of `by`, one after another.

    at: ascending, none twice, as many as `by` has rows: embeddings of tokens that were trained apart.
    """

    of: Node
    by: Node
    at: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        """That of `of`."""
        return self.of.shape

    @property
    def children(self) -> tuple[Node, ...]:
        """The matrix, and what takes the place of some rows."""
        return (self.of, self.by)

    def over(self, children: Sequence[Node]) -> Self:
        """The same of others."""
        of, by = children
        return replace(self, of=of, by=by)

    def explain(self) -> str:
        """For example `patched(embed_tokens, 3 rows)`."""
        return f"patched({self.of.explain()}, {len(self.at)} rows)"

    def encodings(self) -> tuple[Encoding, ...]:
        """Those of the matrix."""
        return self.of.encodings()

    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """Stretches between the rows that are exchanged, and these one by one."""
        first, last = (min(rows), max(rows)) if rows else (0, -1)
        at = np.asarray(self.at, np.int64)
        begin, end = np.searchsorted(at, (first, last + 1))
        done = 0
        for number in range(int(begin), int(end)):
            position, beside = divmod(int(at[number]) - rows.start, rows.step)
            if beside:
                continue
            if done < position:
                yield self.of, rows[done:position], slice(done, position)
            yield self.by, range(number, number + 1), slice(position, position + 1)
            done = position + 1
        if done < len(rows):
            yield self.of, rows[done:], slice(done, len(rows))
