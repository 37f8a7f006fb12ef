"""What type checkers and readers see of room.py."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", np.float32, np.float64, np.int32, np.int64, np.uint8, np.uint16, np.uint64)

def room(count: int, dtype: type[_T]) -> NDArray[_T]:
    """Room for `count` numbers, which must be known when the kernel is compiled; good until the function returns."""

def zeros(count: int, dtype: type[_T]) -> NDArray[_T]:
    """The same, each number 0."""
