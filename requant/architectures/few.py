"""The numbers of small plain tensors that a plan needs to know."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Dense
from requant.errors import UnsupportedError
from requant.ir import Tensor
from requant.sources import read


def few(tensor: Tensor) -> NDArray[np.float32]:
    """The numbers of a vector, or the one of a scalar; a tensor of more than 1 MB, or no plain one, is an error."""
    label = tensor.encoding.label
    if not isinstance(tensor.encoding, Dense) or label not in ("F32", "F16", "BF16") or tensor.nbytes > 1 << 20:
        raise UnsupportedError(f"tensor {tensor.name!r} is {label}{list(tensor.shape)}; a few plain numbers are needed")
    data = read(tensor.sources["data"])
    if label == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view("<f4" if label == "F32" else "<f2").astype(np.float32)
