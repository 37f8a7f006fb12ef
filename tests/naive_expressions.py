"""The obvious way to have the values of an expression: whole tensors, node by node."""

from collections.abc import Callable
from functools import singledispatch

import numpy as np

from requant.expressions import Affine, Node, Slice, Stored, Transposed
from requant.ir import Tensor
from requant.sources import read

Read = Callable[[Tensor], np.ndarray]


def values(tensor: Tensor) -> np.ndarray:
    """A dense tensor as numbers."""
    data = read(tensor.sources["data"])
    if tensor.encoding.label == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    return data.view({"F32": "<f4", "F16": "<f2"}[tensor.encoding.label]).astype(np.float32).reshape(tensor.shape)


def carried_out(node: Node, values: Read = values) -> np.ndarray:
    """What a node's values are, in its shape; `values` are those of a stored tensor."""
    found = twin(node, values)
    assert found.shape == node.shape
    return found


@singledispatch
def twin(node: Node, values: Read) -> np.ndarray:
    """Each node has its own below."""
    raise AssertionError(f"{type(node).__name__} has no naive twin")


@twin.register
def _(node: Stored, values: Read) -> np.ndarray:
    return values(node.tensor).reshape(node.tensor.shape)


@twin.register
def _(node: Slice, values: Read) -> np.ndarray:
    return carried_out(node.of, values).reshape(-1, node.columns)[node.start : node.stop]


@twin.register
def _(node: Transposed, values: Read) -> np.ndarray:
    return carried_out(node.of, values).swapaxes(-1, -2)


@twin.register
def _(node: Affine, values: Read) -> np.ndarray:
    return np.float32(node.factor) * carried_out(node.of, values) + np.float32(node.term)
