"""What type checkers and readers see of simd_rows.py."""

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu.simd import F32x16

def extremes_of_rows(source: NDArray[np.float32], start: int) -> tuple[F32x16, F32x16]: ...
