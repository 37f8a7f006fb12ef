"""Nodes that compute: they have values only, and no encoding is known to hold them."""

from __future__ import annotations

from requant.encodings import Encoding
from requant.expressions.form import Form
from requant.expressions.node import Node


class Arithmetic(Node):
    """Values are computed; a subclass says how, in `fill`."""

    __slots__ = ()

    def forms(self, target: Encoding) -> Form:
        """Float32."""
        return Form.VALUES

    def holds(self, target: Encoding) -> bool:
        """Not for all one can know."""
        return False
