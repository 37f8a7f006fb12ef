"""The nibbles of ggml's blocks of 32: byte j holds value j in its low half and value j + 16 in its high half."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu._jit import BYTES, NUMBER, OUT_BYTES, Bytes, kernel


@kernel(BYTES, NUMBER, NUMBER, OUT_BYTES)
def _split(blocks: Bytes, nbytes: int, at: int, codes: Bytes) -> None:
    for block in range(codes.size // 32):
        for j in range(16):
            byte = blocks[block * nbytes + at + j]
            codes[32 * block + j] = byte & 15
            codes[32 * block + 16 + j] = byte >> 4


@kernel(BYTES, NUMBER, NUMBER, OUT_BYTES)
def _join(codes: Bytes, nbytes: int, at: int, blocks: Bytes) -> None:
    for block in range(codes.size // 32):
        for j in range(16):
            blocks[block * nbytes + at + j] = codes[32 * block + j] | codes[32 * block + 16 + j] << 4


def split_nibbles(blocks: Bytes, at: int) -> Bytes:
    """Codes [rows, blocks, 32] of blocks [rows, blocks, bytes], whose nibbles begin at byte `at`."""
    codes = np.empty((*blocks.shape[:2], 32), np.uint8)
    _split(np.ascontiguousarray(blocks).reshape(-1), blocks.shape[2], at, codes.reshape(-1))
    return codes


def join_nibbles(codes: NDArray[Any], blocks: Bytes, at: int) -> None:
    """The inverse; codes are below 16, blocks contiguous."""
    flat = blocks.view()
    flat.shape = (blocks.size,)  # never a copy
    _join(np.ascontiguousarray(codes, np.uint8).reshape(-1), blocks.shape[2], at, flat)
