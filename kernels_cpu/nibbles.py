"""Codes of 4 bits that have few values for many codes: sixteen products for each group, then a look-up of bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Halves
from requant.kernels_cpu._jit import BYTES, FLOATS, NUMBER, OUT_WORDS, Bytes, Floats, kernel
from requant.kernels_cpu.casts import bfloat_bits
from requant.kernels_cpu.groups import ROUNDING
from requant.kernels_cpu.simd import bits_of_halves, load16
from requant.kernels_cpu.simd_lookup import byte_tables, look_up_words


@kernel(BYTES, FLOATS, FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, OUT_WORDS)
def scale_nibbles(
    codes: Bytes, table: Floats, scales: Floats, zeros: Floats, group: int, high_first: int, rounding: int, out: Halves
) -> None:
    """(table[code] - zero) * scale, rounded; groups are multiples of 32 codes, the last may be shorter by such.

    A byte's first code is in its high bits, or else in its low bits.
    """
    for k in range(scales.size):
        x = (load16(table, 0) - zeros[k]) * scales[k]
        numbers = bits_of_halves(x) if rounding == 1 else bfloat_bits(x)
        tables = byte_tables(numbers)
        for i in range(k * group, min(k * group + group, out.size), 32):
            look_up_words(tables, codes, i // 2, high_first != 0, out, i)


def nibbles_to_halves(
    codes: NDArray[np.uint8],
    table: NDArray[np.float32],
    scales: NDArray[np.float32],
    zeros: NDArray[np.float32],
    group: int,
    rounding: str,
    out: Halves,
    high_first: bool = False,
) -> None:
    """Bytes of codes with a scale and a zero for every `group` of them, a multiple of 32; all one after another.

    table: the sixteen values of codes. rounding: dtype of `out`, F16 or BF16.
    """
    if out.size % 32 or group % 32:
        raise ValueError(f"{out.size} codes in groups of {group} are not whole runs of 32")
    numbers = (group, int(high_first), ROUNDING[rounding])
    scale_nibbles(codes.reshape(-1), table, scales.reshape(-1), zeros.reshape(-1), *numbers, out.reshape(-1))
