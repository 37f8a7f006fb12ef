"""A matrix and a product of low rank on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.encodings import Encoding, Shape
from requant.expressions import Arithmetic, Context, Form, InGranules, Node, Reduction


class Norms(Enum):
    """Of which vectors of the sum DoRA prescribes the lengths."""

    ROWS = "rows"
    COLUMNS = "columns"


@dataclass(frozen=True, slots=True)
class LowRank(InGranules, Arithmetic):
    """of + scale * up @ down in float32, each number of the product added up in the order of the rank.

    of: [rows, columns]. up: [rows, rank]. down: [rank, columns]. lengths: of each row, or of each column, as `norms`
    says: the sum is then scaled to have them (DoRA, arXiv 2402.09353, as PEFT merges it); None leaves it as it is.
    """

    of: Node
    up: Node
    down: Node
    scale: float
    lengths: Node | None = None
    norms: Norms = Norms.ROWS

    @property
    def shape(self) -> Shape:
        """That of `of`."""
        return self.of.shape

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return self.down.rows

    @property
    def children(self) -> tuple[Node, ...]:
        """The matrix, the two factors, and the lengths."""
        return (self.of, self.up, self.down, *(() if self.lengths is None else (self.lengths,)))

    def over(self, children: Sequence[Node]) -> Node:
        """The same of others, in the order of `children`."""
        of, up, down, *lengths = children
        return replace(self, of=of, up=up, down=down, lengths=lengths[0] if lengths else None)

    def explain(self) -> str:
        """For example `lora(q_proj, rank 8, scale 2)`."""
        kind = "lora" if self.lengths is None else "dora"
        return f"{kind}({self.of.explain()}, rank {self.rank}, scale {self.scale:g})"

    def encodings(self) -> tuple[Encoding, ...]:
        """Those of the matrix: what is added to it is not what the model is stored in."""
        return self.of.encodings()

    @property
    def granule(self) -> int:
        """The matrix's: the factors are small, and asked for any rows."""
        return self.of.granule

    def reductions(self) -> tuple[Reduction, ...]:
        """The length of every column, where those are prescribed."""
        if self.lengths is None or self.norms is Norms.ROWS:
            return ()
        return (_ColumnNorms(replace(self, lengths=None)),)

    def granule_bytes(self, form: Form, rows: int, width: int) -> int:
        """What the matrix takes; then both factors and a row of their product, or the lengths, besides."""
        wide, up = 4 * self.columns, self.up.run_bytes(form, rows, 4 * self.rank)
        down = self.down.run_bytes(form, self.rank, wide, straight=True)
        factors = rows * 4 * self.rank + self.rank * wide + wide + max(up, down) + 256
        lengths = 0
        if self.lengths is not None:
            own = 4 * self.lengths.columns
            lengths = 4 * self._length_count + self.lengths.run_bytes(form, self.lengths.rows, own, straight=True)
            lengths += 16 * self.columns + 4 * (rows + self.columns) + 256
        return max(self.of.run_bytes(form, rows, width, straight=True), factors, lengths)

    def fill_granules(self, form: Form, start: int, stop: int, out: NDArray[Any], context: Context) -> None:
        """The matrix's rows, and the product of the same rows of `up` with the whole of `down`."""
        from requant.kernels_cpu.low_rank import add_product

        self.of.fill(form, range(start, stop), out, context)
        with context.scratch.room() as scratch:
            up = scratch.values(stop - start, self.rank)
            self.up.fill(form, range(start, stop), up, context)
            down = scratch.values(self.rank, self.columns)
            self.down.fill(form, range(self.rank), down, context)
            row = scratch.values(1, self.columns).reshape(-1)
            scale = np.array([self.scale], np.float32)
            add_product(up.reshape(-1), down.reshape(-1), scale, row, out.reshape(-1))
        if self.lengths is not None:
            with context.scratch.room():
                self._to_length(self.lengths, start, stop, out, context)

    @property
    def _length_count(self) -> int:
        return self.rows if self.norms is Norms.ROWS else self.columns

    def _to_length(self, lengths: Node, start: int, stop: int, out: Values, context: Context) -> None:
        wanted = context.scratch.values(lengths.rows, lengths.columns)
        lengths.fill(Form.VALUES, range(lengths.rows), wanted, context)
        with np.errstate(divide="ignore", invalid="ignore"):  # what has no length has no direction: NaN, which is told
            if self.norms is Norms.ROWS:
                out *= (wanted.reshape(-1)[start:stop] / row_norms(out))[:, np.newaxis]
            else:
                (norms,) = context.results(self)
                out *= wanted.reshape(1, -1) / norms


def row_norms(values: Values) -> Values:
    """The length of each row, added up in double precision: [rows] float32."""
    squares = np.array([np.square(row, dtype=np.float64).sum() for row in values], np.float64)
    return np.asarray(np.sqrt(squares), np.float32)


@dataclass(frozen=True, slots=True)
class _ColumnNorms(Reduction):
    """The length of each column, added up in double precision: [columns] float32."""

    of: Node

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The sum, not yet of the prescribed length."""
        return (self.of,)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> NDArray[np.float64]:
        """Of one slab."""
        squares = np.zeros(values[0].shape[1], np.float64)
        for row in values[0]:
            squares += np.square(row, dtype=np.float64)
        return squares

    def merge(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        """Added."""
        return np.asarray(one + other)

    def result(self, total: Any | None) -> Values:
        """The square roots; a tensor without rows has columns of no length."""
        return np.asarray(np.sqrt(np.zeros(self.of.columns) if total is None else total), np.float32)
