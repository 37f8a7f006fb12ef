"""The obvious way to have the values of an expression: whole tensors, node by node."""

from collections.abc import Callable
from functools import singledispatch

import numpy as np

from requant import expressions as e
from requant.adapters.low_rank import LowRank, Norms
from requant.expressions import Node
from requant.ir import Tensor
from requant.sources import read

Read = Callable[[Tensor], np.ndarray]


def values(tensor: Tensor) -> np.ndarray:
    """A dense tensor as numbers."""
    data = read(tensor.sources["data"])
    if tensor.encoding.label == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    return (
        data.view({"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8"}[tensor.encoding.label])
        .astype(np.float32)
        .reshape(tensor.shape)
    )


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
def _(node: e.Stored, values: Read) -> np.ndarray:
    return values(node.tensor).reshape(node.tensor.shape)


@twin.register
def _(node: e.Slice, values: Read) -> np.ndarray:
    return as_matrix(node.of, values)[node.start : node.stop]


@twin.register
def _(node: e.Chosen, values: Read) -> np.ndarray:
    return np.stack([as_matrix(node.of, values)[row] for row in node.chosen])


@twin.register
def _(node: e.Joined, values: Read) -> np.ndarray:
    return np.concatenate([as_matrix(one, values) for one in node.inputs])


@twin.register
def _(node: e.Stacked, values: Read) -> np.ndarray:
    return np.stack([carried_out(one, values) for one in node.inputs])


@twin.register
def _(node: e.Interleaved, values: Read) -> np.ndarray:
    arrays = [carried_out(one, values) for one in node.inputs]
    return np.stack([array[..., row, :] for row in range(arrays[0].shape[-2]) for array in arrays], axis=-2)


@twin.register
def _(node: e.Deinterleaved, values: Read) -> np.ndarray:
    array = carried_out(node.of, values)
    return array.take(range(node.turn, array.shape[-2], node.count), axis=-2)


@twin.register
def _(node: e.RopeOrder, values: Read) -> np.ndarray:
    heads = as_matrix(node.of, values).reshape(node.heads, -1, node.columns)
    half = heads.shape[1] // 2
    shape = (node.heads, half, 2, -1) if node.inverse else (node.heads, 2, half, -1)
    return heads.reshape(shape).swapaxes(1, 2).reshape(node.shape)


@twin.register
def _(node: e.Regrouped, values: Read) -> np.ndarray:
    grids = as_matrix(node.of, values).reshape(-1, *node.sizes, node.columns)
    axes = (0, *(axis + 1 for axis in node.axes), len(node.sizes) + 1)
    return grids.transpose(axes).reshape(node.shape)


@twin.register
def _(node: e.Regarded, values: Read) -> np.ndarray:
    return carried_out(node.of, values).reshape(node.into)


@twin.register
def _(node: e.Reshaped, values: Read) -> np.ndarray:
    return carried_out(node.of, values).reshape(node.into)


@twin.register
def _(node: e.Transposed, values: Read) -> np.ndarray:
    return carried_out(node.of, values).swapaxes(-1, -2)


@twin.register
def _(node: e.Columns, values: Read) -> np.ndarray:
    return carried_out(node.of, values)[..., list(node.chosen)]


@twin.register
def _(node: e.ColumnsJoined, values: Read) -> np.ndarray:
    return np.concatenate([carried_out(one, values) for one in node.inputs], axis=-1)


@twin.register
def _(node: e.ColumnsScaled, values: Read) -> np.ndarray:
    return carried_out(node.of, values) * carried_out(node.factors, values).reshape(-1)


@twin.register
def _(node: e.Balanced, values: Read) -> np.ndarray:
    return carried_out(node.of, values) * (node.factors[:, None] if node.by_row else node.factors)


@twin.register
def _(node: e.Affine, values: Read) -> np.ndarray:
    return np.float32(node.factor) * carried_out(node.of, values) + np.float32(node.term)


@twin.register
def _(node: LowRank, values: Read) -> np.ndarray:
    of, up, down = (as_matrix(one, values).astype(np.float64) for one in (node.of, node.up, node.down))
    found = of + node.scale * (up @ down)
    if node.lengths is not None:
        axis = 1 if node.norms is Norms.ROWS else 0
        lengths = np.linalg.norm(found, axis=axis, keepdims=True)
        found *= carried_out(node.lengths, values).reshape(lengths.shape) / lengths
    return found.astype(np.float32).reshape(node.shape)


@twin.register
def _(node: e.Patched, values: Read) -> np.ndarray:
    found = as_matrix(node.of, values).copy()
    found[list(node.at)] = as_matrix(node.by, values)
    return found.reshape(node.shape)


@twin.register
def _(node: e.NegExp, values: Read) -> np.ndarray:
    return -np.exp(carried_out(node.of, values))


@twin.register
def _(node: e.LogNeg, values: Read) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.log(-carried_out(node.of, values))


@twin.register
def _(node: e.Softplus, values: Read) -> np.ndarray:
    return np.log(1 + np.exp(carried_out(node.of, values).astype(np.float64))).astype(np.float32)


@twin.register
def _(node: e.LogExpLess, values: Read) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.log(np.exp(carried_out(node.of, values).astype(np.float64)) - 1).astype(np.float32)


def as_matrix(node: Node, values: Read) -> np.ndarray:
    """All dimensions but the last as rows."""
    return carried_out(node, values).reshape(node.rows, node.columns)
