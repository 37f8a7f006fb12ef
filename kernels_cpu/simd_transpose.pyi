"""What type checkers and readers see of simd_transpose.py."""

import numpy as np
from numpy.typing import NDArray

def transpose(
    source: NDArray[np.float32], start: int, stride: int, target: NDArray[np.float32], place: int, step: int
) -> None: ...
def transpose_rows(
    source: NDArray[np.float32],
    starts: NDArray[np.int64],
    first: int,
    offset: int,
    target: NDArray[np.float32],
    place: int,
) -> None: ...
def transpose_words(
    source: NDArray[np.uint16], start: int, target: NDArray[np.uint16], place: int, step: int
) -> None: ...
