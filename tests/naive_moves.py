"""The obvious way to carry out a `Move`: whole tensors, one transform after another."""

from collections.abc import Callable

import numpy as np

from requant.encodings import columns_of
from requant.ir import Tensor
from requant.plan import Move
from requant.sources import read
from requant.transforms import Add, RopeOrder, Rows, Transpose, Unwoven, Woven


def values(tensor: Tensor) -> np.ndarray:
    """A dense tensor as numbers."""
    data = read(tensor.sources["data"])
    if tensor.encoding.label == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    return data.view({"F32": "<f4", "F16": "<f2"}[tensor.encoding.label]).astype(np.float32).reshape(tensor.shape)


def carried_out(move: Move, values: Callable[[Tensor], np.ndarray] = values) -> np.ndarray:
    """What a move gives; `values` are those of an input."""
    matrices = [values(tensor) for tensor in move.inputs]
    vector = len(move.inputs[0].shape) == 1
    kinds = Unwoven | Woven | (Transpose if len(move.shape) > 2 else Unwoven)
    if any(isinstance(transform, kinds) for transform in move.transforms):
        return of_whole_experts(move, matrices)
    tall = np.concatenate([m.reshape(-1, 1 if vector else columns_of(m.shape)) for m in matrices])
    for transform in move.transforms:
        match transform:
            case RopeOrder(heads, inverse):
                heads_apart = tall.reshape(heads, -1, tall.shape[1])
                half = heads_apart.shape[1] // 2
                shape = (heads, half, 2, -1) if inverse else (heads, 2, half, -1)
                tall = heads_apart.reshape(shape).swapaxes(1, 2).reshape(tall.shape)
            case Rows(start, stop):
                tall = tall[start:stop]
            case Transpose():
                tall = tall.T
            case Add(value):
                tall = tall + np.float32(value)
    return tall.reshape(move.shape)


def of_whole_experts(move: Move, tensors: list[np.ndarray]) -> np.ndarray:
    """The same where stacks of experts are not cut, axis by axis; the outputs are the last axis of biases."""
    axis = -1 if len(move.shape) == 2 else -2
    for transform in move.transforms:
        match transform:
            case Transpose():
                tensors = [tensor.swapaxes(-1, -2) for tensor in tensors]
            case Unwoven(turn, of):
                (tensor,) = tensors
                tensors = [tensor.take(range(turn, tensor.shape[axis], of), axis)]
            case Woven():
                outputs = [tensor.take(n, axis) for n in range(tensors[0].shape[axis]) for tensor in tensors]
                tensors = [np.stack(outputs, axis)]
            case other:
                raise AssertionError(other)
    assert tensors[0].shape == move.shape
    return tensors[0]
