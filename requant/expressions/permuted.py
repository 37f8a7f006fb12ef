"""Rows in another order, the same one in every group of rows."""

from __future__ import annotations

from abc import abstractmethod
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes
from requant.encodings import Encoding, Shape
from requant.expressions.context import Context
from requant.expressions.factors import Factors, Products
from requant.expressions.form import Form
from requant.expressions.granules import InGranules
from requant.expressions.single import Single
from requant.ir import Tensor


class Permuted(Single, InGranules):
    """Groups of `len(source_rows())` rows are put in order, each by itself: a subclass says in which."""

    __slots__ = ()

    @abstractmethod
    def source_rows(self) -> NDArray[np.intp]:
        """For each row of a group, the row of the child's group that it is."""

    @property
    @abstractmethod
    def group(self) -> int:
        """Rows of a group; the rows of the child are whole groups."""

    @property
    def shape(self) -> Shape:
        """The child's."""
        return self.of.shape

    def product(self, of: Products) -> Factors | None:
        """Rows of the first factor move along."""
        found = self.of.product(of)
        return None if found is None else found.moved(self)

    def forms(self, target: Encoding) -> Form:
        """The child's: rows are moved whole."""
        return self.of.forms(target)

    def holds(self, target: Encoding) -> bool:
        """If it holds the child's."""
        return self.of.holds(target)

    def origin(self, row: int) -> tuple[Tensor, int] | None:
        """Where the child has the row that comes here."""
        group, here = divmod(row, self.group)
        return self.of.origin(group * self.group + int(self.source_rows()[here]))

    @property
    def granule(self) -> int:
        """Whole groups."""
        return max(1, min(lcm(self.group, self.of.granule), self.rows))

    def granule_bytes(self, form: Form, rows: int, width: int) -> int:
        """The rows in the child's order."""
        return rows * width + self.of.run_bytes(form, rows, width, straight=True)

    def fill_granules(self, form: Form, start: int, stop: int, out: NDArray[Any], context: Context) -> None:
        """The child's rows, taken in order."""
        groups = (-1, self.group, out.shape[1])
        with context.scratch.room() as scratch:
            rows = scratch.like(out, stop - start)
            self.of.fill(form, range(start, stop), rows, context)
            np.take(rows.reshape(groups), self.source_rows(), axis=1, out=out.reshape(groups), mode="clip")

    def codes_of_granules(self, start: int, stop: int, context: Context) -> Codes:
        """The same with every array of rows."""
        order, group = self.source_rows(), self.group

        def ordered(array: NDArray[Any]) -> NDArray[Any]:
            return array.reshape(-1, group, array.shape[1])[:, order].reshape(array.shape) if array.size else array

        return self.of.codes(range(start, stop), context).by_row(ordered)
