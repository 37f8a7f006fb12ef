"""What every expression answers for itself: the protocol that executor, plan and memory bound ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from math import lcm
from typing import Any

from numpy.typing import NDArray

from requant.codecs import Codes
from requant.encodings import Encoding, Shape, columns_of, rows_of
from requant.expressions.context import Context
from requant.expressions.factors import Computed, Factors, Products
from requant.expressions.form import Form
from requant.expressions.reduction import Reduction
from requant.ir import Tensor


class Node(ABC):
    """The values of a tensor, as a frozen tree over stored tensors; a tensor of any rank is a matrix [rows, columns].

    Rows are asked for as a `range` of this node's rows, of any step, and any rows may be asked for: `granule` tells in
    which multiples it costs least. Methods are called from many threads at once, each with a `Context` of its own.
    """

    __slots__ = ()

    # What it is

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """The logical shape, row-major; all dimensions but the last count as rows."""

    @property
    def rows(self) -> int:
        """Rows of the tensor as a matrix."""
        return rows_of(self.shape)

    @property
    def columns(self) -> int:
        """Length of one row."""
        return columns_of(self.shape)

    @property
    @abstractmethod
    def children(self) -> tuple[Node, ...]:
        """The nodes that it reads; none for what is stored."""

    @abstractmethod
    def over(self, children: Sequence[Node]) -> Node:
        """The same over other children, as many as `children`."""

    @abstractmethod
    def explain(self) -> str:
        """As `--dry-run` prints it: `rope(model.layers.3.self_attn.q_proj.weight)`."""

    def leaves(self) -> tuple[Tensor, ...]:
        """The stored tensors that it reads, in order; one that is read at two places is there twice."""
        return tuple(chain.from_iterable([child.leaves() for child in self.children]))

    def encodings(self) -> tuple[Encoding, ...]:
        """How the model keeps these values, each encoding once: what is put on it (an adapter) does not count."""
        return tuple(dict.fromkeys(one for child in self.children for one in child.encodings()))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Node:
        """The same over other stored tensors: each leaf as `change` makes it."""
        return self.over([child.mapped(change) for child in self.children])

    def grafted(self, change: Callable[[Tensor], Node]) -> Node:
        """The same over other nodes: each leaf as `change` makes it."""
        return self.over([child.grafted(change) for child in self.children])

    # What survives

    @abstractmethod
    def forms(self, target: Encoding) -> Form:
        """All forms in which rows can be had for a tensor that is stored as `target`; VALUES is always among them."""

    @abstractmethod
    def holds(self, target: Encoding) -> bool:
        """Whether `target` stores each value exactly: values are moved, not computed, and it has room for them."""

    @property
    def verbatim(self) -> Tensor | None:
        """The stored tensor whose bytes, all of them in their order, are this one's, if it is so simple."""
        return None

    def origin(self, row: int) -> tuple[Tensor, int] | None:
        """The stored tensor, and its row, that row `row` is moved from as it is; None where values are computed or
        rows are made of several."""
        return None

    def turned(self) -> Node:
        """Rows and columns exchanged, in every matrix of a stack."""
        from requant.expressions.transposed import Transposed

        return Transposed(self)

    def section(self, start: int, stop: int) -> Node:
        """Only the rows `[start, stop)`, as a matrix."""
        from requant.expressions.slice import Slice

        return Slice(self, start, stop)

    def product(self, of: Products) -> Factors | None:
        """The product that is added to it where its leaves have those in `of`; None where none has.

        Raises `Computed` where that is no product of low rank, or of another kind.
        """
        if any(child.product(of) is not None for child in self.children):
            raise Computed(self.explain())
        return None

    # How rows are had

    @property
    def granule(self) -> int:
        """Rows that should stay in one run: runs begin at multiples of it. Never 0."""
        return min(lcm(*(child.granule for child in self.children)), max(self.rows, 1))

    def reductions(self) -> tuple[Reduction, ...]:
        """What it must know of whole tensors before its first row; each may use the results of those before it.

        Those of its children are made first. A node that gives any must give as many whenever it is asked; it finds
        the results, in this order, in `Context.results(self)`.
        """
        return ()

    @abstractmethod
    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """Upper bound on the memory that getting `rows` rows (of `width` bytes each) takes, besides the rows
        themselves. straight: they are whole granules, each row follows the one before it, and `out` has no gaps."""

    @abstractmethod
    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """Rows in any form but CODES, one of `forms`.

        out: [len(rows), width] as `Form` says; each row of it is contiguous, but there may be gaps between them.
        """

    def codes(self, rows: range, context: Context) -> Codes:
        """Rows as integers and their scales, if CODES is one of `forms`; arrays are the caller's own."""
        raise NotImplementedError(f"{type(self).__name__} has no codes")
