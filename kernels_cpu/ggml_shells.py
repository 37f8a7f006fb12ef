"""The points of a codebook that are nearest to each code, as ggml finds them when it first quantizes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu._jit import BYTES, NUMBER, OUT_INTS64, OUT_WORDS, WORDS, Words, kernel
from requant.kernels_cpu.room import room

#: No point of a codebook.
NONE: Final = 65535


@kernel(BYTES, WORDS, NUMBER, OUT_WORDS, OUT_INTS64)
def group(distances: NDArray[np.uint8], codes: Words, shells: int, near: Words, span: NDArray[np.int64]) -> None:
    """For every row of distances the points of its nearest shells, by distance and then by index.

    They are filled up to eights with `NONE`.
    """
    size, first = codes.size, 0
    counts = room(257, np.int64)
    for row in range(distances.size // size):
        for distance in range(257):
            counts[distance] = 0
        for j in range(size):
            counts[distances[size * row + j] + 1] += 1
        have, length, limit = 0, 0, 0
        for distance in range(256):
            if counts[distance + 1] and have < shells:
                have, length, limit = have + 1, length + counts[distance + 1], distance
                if distance == 0:
                    have = shells  # in the grid: its own only neighbour
            counts[distance + 1] += counts[distance]
        for j in range(size):
            distance = distances[size * row + j]
            if distance <= limit:
                near[first + counts[distance]] = codes[j]
                counts[distance] += 1
        span[2 * row], span[2 * row + 1] = first, 2 * length + (limit == 0)
        filled = (length + 7) // 8 * 8
        for j in range(length, filled):
            near[first + j] = NONE
        first += filled
