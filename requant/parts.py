"""The stored arrays of tensors, whole and of runs of their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values, codec_for
from requant.encodings import Dense, PartSpec, columns_of, rows_of
from requant.ir import Tensor, TensorSpec
from requant.sources import Bytes, read


def part_slice(spec: TensorSpec, part: PartSpec, start: int, stop: int) -> tuple[int, int]:
    """Byte range of rows `[start, stop)` in a part of a sliced encoding."""
    rows = rows_of(spec.shape)
    return part.nbytes * start // max(rows, 1), part.nbytes * stop // max(rows, 1)


def view_part(data: Bytes, part: PartSpec) -> NDArray[Any]:
    """The bytes of a whole part as an array of its dtype; sub-byte dtypes stay flat bytes."""
    array = data.view(part.dtype.numpy)
    return array if part.dtype.bits < 8 else array.reshape(part.shape)


def whole_parts(tensor: Tensor) -> dict[str, NDArray[Any]]:
    """All parts of a tensor."""
    return {name: view_part(read(tensor.sources[name]), part) for name, part in tensor.parts.items()}


def read_array(tensor: Tensor) -> NDArray[Any]:
    """A whole tensor in its own shape and dtype (see `Tensor.dtype`)."""
    plain = tensor.encoding.dtype if isinstance(tensor.encoding, Dense) else None
    if plain is None or plain.native is None:
        return read_values(tensor).reshape(tensor.shape)
    return read(tensor.sources["data"]).view(plain.native).reshape(tensor.shape)


def read_values(tensor: Tensor) -> Values:
    """A whole tensor as float32 [rows, columns], for what looks at one tensor: a conversion holds no more than runs."""
    parts, rows = whole_parts(tensor), rows_of(tensor.shape)
    if tensor.encoding.sliced:
        parts = {name: array.reshape(rows, -1) for name, array in parts.items()}
    out = np.empty((rows, columns_of(tensor.shape)), np.float32)
    codec_for(tensor.encoding).decode(parts, out)
    return out
