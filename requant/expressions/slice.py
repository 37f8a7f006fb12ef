"""Some rows of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from requant.encodings import Shape
from requant.expressions.factors import Factors, Products
from requant.expressions.moving import Moving
from requant.expressions.node import Node
from requant.expressions.single import Single


@dataclass(frozen=True, slots=True)
class Slice(Single, Moving):
    """Only the rows `[start, stop)`, as a matrix: one projection of a fused layer, one expert of a stack."""

    start: int
    stop: int

    @property
    def shape(self) -> Shape:
        """[stop - start, columns]."""
        return (self.stop - self.start, self.of.columns)

    @property
    def is_straight(self) -> bool:
        """If it begins and ends with a granule."""
        return self.start % self.of.granule == 0 and (self.stop % self.of.granule == 0 or self.stop == self.of.rows)

    def product(self, of: Products) -> Factors | None:
        """The same rows of the first; of a stack, the second of the matrix that they are of."""
        found = self.of.product(of)
        return None if found is None else found.of_rows(self.start, self.stop)

    def explain(self) -> str:
        """For example `rows(qkv, 0, 512)`."""
        return f"rows({self.of.explain()}, {self.start}, {self.stop})"

    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """Further down."""
        yield self.of, range(rows.start + self.start, rows.stop + self.start, rows.step), slice(None)
