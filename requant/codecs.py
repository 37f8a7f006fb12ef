"""Stored parts to float32 rows and back; the only door to the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Blocks, Dense, Encoding
from requant.errors import UnsupportedError

#: The stored arrays of a tensor (or of a run of its rows) as numpy arrays of `PartSpec.dtype.numpy`.
Parts = Mapping[str, NDArray[np.generic]]
Values = NDArray[np.float32]


class Codec(Protocol):
    """One encoding's arithmetic.

    Values are contiguous float32 matrices [rows, columns]: all leading dimensions of the tensor count as rows.
    For a *sliced* encoding `parts` are those of the run itself and `start` is 0; otherwise `parts` are those of the
    whole tensor and the run begins at row `start`. Calls release the GIL and run in many threads at once.
    """

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Fill `out` with the rows `[start, start + len(out))`."""
        ...

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Store `values` as the rows from `start` on.

        importance: [columns] or [rows, columns] float32, how much each column's error matters; None for all alike.
        """
        ...


def codec_for(encoding: Encoding) -> Codec:
    """The codec of `encoding`; numba is imported here, not before."""
    match encoding:
        case Dense():
            from requant.kernels_cpu.dense import dense_codec

            return dense_codec(encoding.dtype)
        case Blocks():
            from requant.kernels_cpu.ggml import block_codec

            return block_codec(encoding)
        case _:
            raise UnsupportedError(f"there are no kernels for {encoding.label}")
