"""Nodes that only move rows: every form passes through them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from requant.codecs import Codes
from requant.encodings import Dense, Encoding
from requant.encodings.exactness import shares
from requant.expressions.context import Context
from requant.expressions.factors import Factors, Products
from requant.expressions.form import Form
from requant.expressions.node import Node
from requant.ir import Tensor


class Moving(Node):
    """Each row is a row of a child, as it is there; a subclass says which, and everything else follows."""

    __slots__ = ()

    @abstractmethod
    def places(self, rows: range) -> Iterator[tuple[Node, range, slice]]:
        """Where rows come from: (child, its rows, which of `rows` they are by position). None may be left out."""

    def forms(self, target: Encoding) -> Form:
        """Those that all children have; no codes of several tensors that would have to share a scale."""
        first, *others = (child.forms(target) for child in self.children)
        forms = first
        for other in others:
            if other is not first:  # of hundreds of experts nearly never
                forms &= other
        return forms & ~Form.CODES if self._would_share(target) else forms

    def holds(self, target: Encoding) -> bool:
        """If it holds those of every child."""
        return not self._would_share(target) and all(child.holds(target) for child in self.children)

    def _would_share(self, target: Encoding) -> bool:
        if len(self.children) == 1 or isinstance(target, Dense):
            return False
        return shares(target) or any(shares(leaf.encoding) for leaf in self.leaves())

    def product(self, of: Products) -> Factors | None:
        """Rows of the first factor move along."""
        if len(self.children) > 1:
            return Node.product(self, of)
        found = self.children[0].product(of)
        return None if found is None else found.moved(self)

    def origin(self, row: int) -> tuple[Tensor, int] | None:
        """Where its child has it from."""
        child, rows, _ = next(iter(self.places(range(row, row + 1))))
        return child.origin(rows.start)

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """What the children take, one after another; codes are put together anew."""
        straight = straight and self.is_straight
        spanned = rows * self.spread
        taken = [child.run_bytes(form, min(spanned, child.rows), width, straight) for child in self.children]
        return max(taken) + (rows * width if form is Form.CODES and len(self.children) > 1 else 0)

    @property
    def is_straight(self) -> bool:
        """Whether rows that follow each other do so in the child, too, and whole granules are whole granules there."""
        return False

    @property
    def spread(self) -> int:
        """Rows of a child that lie between one row and the next, with that one."""
        return 1

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """Each child writes to its places in `out`."""
        for child, wanted, where in self.places(rows):
            child.fill(form, wanted, out[where], context)

    def codes(self, rows: range, context: Context) -> Codes:
        """The codes of the children, in their places."""
        found = [(child.codes(wanted, context), where) for child, wanted, where in self.places(rows)]
        return found[0][0] if len(found) == 1 else Codes.placed(found, len(rows))
