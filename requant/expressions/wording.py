"""How expressions are put into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from requant.expressions.node import Node

#: Operands that are named when there are more.
_NAMED: Final = 2


def listed(nodes: Sequence[Node]) -> str:
    """Operands; of many, the first ones and how many more there are: a stack may have hundreds."""
    if len(nodes) <= 2 * _NAMED:
        return ", ".join(node.explain() for node in nodes)
    return f"{', '.join(node.explain() for node in nodes[:_NAMED])} and {len(nodes) - _NAMED} more"
