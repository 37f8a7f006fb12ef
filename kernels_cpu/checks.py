"""Whether there is a number that must not enter a file silently: NaN, infinity, or what a half cannot hold.

One pass at the memory's speed finds the largest size, in which infinities and NaN show; only when there is something
to tell are the numbers looked at again. Blocks are summed up in the same pass, for the journal of what is finished.
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu.kept import Kept

#: The least size that a half rounds to infinity: half a step above 65504.
HALF_OVERFLOW: Final = 65520.0

_largest_lanes: Final = Kept("largest", "largest_lanes")
_page_sums: Final = Kept("sums", "page_sums")
#: Bytes that are summed up together.
PAGE: Final = 4096


def beyond(values: NDArray[np.float32], limit: float = HALF_OVERFLOW) -> int | None:
    """Index of the first of some float32 values whose size is at least `limit` (or NaN), None when there is none."""
    bits = values.reshape(-1).view("u4")
    least = np.float32(limit).view("u4")
    if _largest(bits) < least:
        return None
    return int((bits & np.uint32(0x7FFFFFFF) >= least).argmax())


def _largest(bits: NDArray[np.uint32]) -> int:
    """The largest of some float32 values' bits without their signs."""
    if not bits.size:
        return 0
    lanes = np.empty(16, np.int32)
    _largest_lanes(bits if bits.size >= 16 else np.resize(bits, 16), lanes)
    return int(lanes.max())


def summed(data: NDArray[np.uint8], block: int = 0, high_bytes: tuple[int, int] = (0, 0)) -> tuple[int, bool]:
    """64 bits by which bytes are told from others, and whether the scale of a block among them is infinite or NaN.

    The sum of the words of every page, each times its own odd number: a word that differs is always found, pages that
    are missing or in each other's place are. It runs at the speed of memory, which no cryptographic one does.
    block: bytes of each block; 0 where none is looked at. high_bytes: where in it the high bytes of its halves are.
    """
    whole, out = data.size - data.size % PAGE, np.empty(2, np.uint64)
    _page_sums(data, data[:whole].view(np.uint64), block, *high_bytes, out)
    rest = data[whole:].tobytes()
    return (int(out[0]) + data.size + (zlib.crc32(rest) << 20 if rest else 0)) % (1 << 64), bool(out[1])
