"""Rows of tensors whose outputs are rows, or the numbers of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from requant.encodings import Shape
from requant.expressions import Interleaved, Node, reshaped


def by_outputs(node: Node, shape: Shape, change: Callable[[Node], Node]) -> Node:
    """`change` done to rows; of a vector of outputs, or of one for each expert, to the numbers.

    shape: of the result. Vectors of one bias for each expert are told from matrices by their length, which changes.
    """
    if len(shape) > 1 and shape[-1] == node.columns:
        return change(node)
    upright = change(reshaped(node, (*node.shape, 1)))
    return reshaped(upright, upright.shape[:-1])


def woven(nodes: Sequence[Node], shape: Shape, *, turned: bool) -> Node:
    """Rows in turn, or the numbers of vectors (see `by_outputs`). shape: of the result, transposed if `turned`."""
    if turned or shape[-1] == nodes[0].columns:
        return Interleaved(tuple(nodes))
    upright = Interleaved(tuple(reshaped(node, (*node.shape, 1)) for node in nodes))
    return reshaped(upright, upright.shape[:-1])
