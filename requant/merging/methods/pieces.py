"""Values of several tensors given to a kernel in pieces that stay in the caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values

#: Values of each tensor in a piece.
_PIECE: Final = 1 << 14
#: Kernels take no fewer.
_LEAST: Final = 16


def in_pieces(tensors: Sequence[Values], kernel: Callable[[NDArray[np.float32], NDArray[np.float32]], None]) -> Values:
    """What a kernel makes of tensors of one shape, value by value: it is given the values of all, one tensor after
    another, and where the result goes. The last few values may be made twice."""
    flat = [np.asarray(tensor).reshape(-1) for tensor in tensors]
    size, count = flat[0].size, len(flat)
    out, room = np.zeros(max(size, _LEAST), np.float32), np.zeros(count * _PIECE, np.float32)
    for at in range(0, out.size, _PIECE):
        start = min(at, out.size - _LEAST)
        length = min(_PIECE, out.size - start)
        stack = room[: count * length].reshape(count, length)
        for row, values in zip(stack, flat, strict=True):
            row[: size - start] = values[start : start + length]
        kernel(stack.reshape(-1), out[start : start + length])
    return out[:size].reshape(tensors[0].shape)
