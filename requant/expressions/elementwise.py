"""Arithmetic on each value by itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from numpy.typing import NDArray

from requant.codecs import Values
from requant.encodings import Shape
from requant.expressions.arithmetic import Arithmetic
from requant.expressions.context import Context
from requant.expressions.form import Form


class Elementwise(Arithmetic):
    """A function of the values of one child, done where they stand."""

    __slots__ = ()

    @property
    def shape(self) -> Shape:
        """The child's."""
        return self.children[0].shape

    @abstractmethod
    def change(self, values: Values, rows: range) -> None:
        """In place; `rows` are the numbers of these rows."""

    def run_bytes(self, form: Form, rows: int, width: int, straight: bool = False) -> int:
        """What the child takes."""
        return self.children[0].run_bytes(form, rows, width, straight)

    def fill(self, form: Form, rows: range, out: NDArray[Any], context: Context) -> None:
        """The child's rows, changed."""
        self.children[0].fill(form, rows, out, context)
        self.change(out, rows)
