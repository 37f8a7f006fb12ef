"""The checksum of bytes, and in the same pass whether blocks among them have scales that are no numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu._jit import BYTES, NUMBER, OUT_WORDS64, WORDS64, kernel
from requant.kernels_cpu.checks import PAGE

_WORDS: Final = PAGE // 8
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_ONE: Final = np.uint64(1)


@kernel(BYTES, WORDS64, NUMBER, NUMBER, NUMBER, OUT_WORDS64)
def page_sums(
    data: NDArray[np.uint8],
    words: NDArray[np.uint64],
    block: int,
    first: int,
    second: int,
    out: NDArray[np.uint64],
) -> None:
    """Into out[0] the sum of the words of every whole page, each page's times an odd number of its own; into out[1]
    whether a half that scales a block has an exponent of ones only, as infinity and NaN have.

    words: the bytes of the whole pages. block: bytes of a block, 0 if there are none. first, second: places of the high
    bytes of its halves, twice the same where there is one.
    """
    total, seen, block_at = np.uint64(0), 0, 0
    pages = words.size // _WORDS
    for page in range(pages + 1):
        found = np.uint64(0)
        if page < pages:
            for i in range(page * _WORDS, (page + 1) * _WORDS):
                found += words[i]
            total += found * (np.uint64(page + 1) * _GOLDEN | _ONE)
        if block:  # those that begin in the page, while the cache has it; the last may reach into the next one
            last = (page + 1) * PAGE if page < pages else data.size
            count = (last - block_at + block - 1) // block
            one, other, step = np.uint64(block_at + first), np.uint64(block_at + second), np.uint64(block)
            for _ in range(count):  # five ones and another carry into the highest bit
                seen |= (data[one] & 0x7C) + 4 | (data[other] & 0x7C) + 4
                one, other = one + step, other + step
            block_at += count * block
    out[0], out[1] = total, np.uint64(seen >> 7)
