"""What type checkers and readers see of simd_lookup.py."""

from typing import Any

import numpy as np

from requant.kernels_cpu.simd import F32x8, I32x8, Mask8

def permute(table: F32x8, index: I32x8) -> F32x8: ...
def mask_of(number: int | np.integer[Any]) -> Mask8: ...
def lane(value: I32x8, index: int) -> int: ...
