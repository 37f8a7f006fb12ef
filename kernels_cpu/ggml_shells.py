"""The points of a codebook that are nearest to each code, as ggml finds them when it first quantizes."""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import BYTES, NUMBER, OUT_INTS, OUT_WORDS, WORDS, Bytes, Ints, Words, kernel, spliced
from requant.kernels_cpu.room import room
from requant.kernels_cpu.simd import number

#: No point of a codebook.
NONE: Final = 65535
#: Where in a code's entry the place of its first candidate is, behind whether it is a point, and how many it has.
_PLACE: Final = 10


@spliced
def first_of(span: Ints, u: int) -> int:
    """The place of the first candidate of code u."""
    return number(span, u) >> _PLACE << 3


@spliced
def count_of(span: Ints, u: int) -> int:
    """How many candidates code u has."""
    return number(span, u) >> 1 & (1 << _PLACE - 1) - 1


@spliced
def is_point(span: Ints, u: int) -> bool:
    """Whether code u is in the grid."""
    return number(span, u) & 1 != 0


@kernel(BYTES, WORDS, NUMBER, OUT_WORDS, OUT_INTS)
def group(distances: Bytes, codes: Words, shells: int, near: Words, span: Ints) -> None:
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
        span[row] = first >> 3 << _PLACE | length << 1 | (limit == 0)
        filled = (length + 7) // 8 * 8
        for j in range(length, filled):
            near[first + j] = NONE
        first += filled
