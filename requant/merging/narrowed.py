"""Values as a narrower dtype holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from requant.codecs import Values
from requant.encodings import Encoding
from requant.expressions import Node
from requant.expressions.elementwise import Elementwise
from requant.merging.precision import Precision


def as_stored(values: Node, encoding: Encoding) -> Node:
    """Values as a reader finds those that were written so, where `encoding` is a plain type that mergekit knows."""
    if encoding.label not in Precision.__members__ or values.holds(encoding):
        return values
    return Narrowed(values, Precision(encoding.label))


@dataclass(frozen=True, slots=True)
class Narrowed(Elementwise):
    """Each value rounded to a precision, as mergekit does with what it reads where the recipe says `dtype`."""

    of: Node
    precision: Precision

    @property
    def children(self) -> tuple[Node, ...]:
        """What is rounded."""
        return (self.of,)

    def over(self, children: Sequence[Node]) -> Node:
        """The same of another."""
        return replace(self, of=children[0])

    def explain(self) -> str:
        """For example `bf16(model.norm.weight)`."""
        return f"{self.precision.value.lower()}({self.of.explain()})"

    def change(self, values: Values, rows: range) -> None:
        """Each by itself."""
        values[...] = self.precision.rounded(values)
