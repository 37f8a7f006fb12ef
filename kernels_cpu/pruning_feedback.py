"""Weights of a block of columns become zero, and those to the right make up for it (SparseGPT)."""

from __future__ import annotations

import numpy as np

from requant.kernels_cpu._jit import BYTES, FLOATS, NUMBER, OUT_FLOATS, Bytes, Floats, kernel

_F = np.float32


@kernel(FLOATS, BYTES, NUMBER, NUMBER, OUT_FLOATS, OUT_FLOATS)
def zero_with_feedback(factor: Floats, mask: Bytes, kept: int, of: int, values: Floats, errors: Floats) -> None:
    """Column by column, in each row by itself.

    factor: [count, count], the block's part of the upper U with UᵀU = H⁻¹. mask: [rows, count], what becomes zero; or
    none, and of every `of` neighbours `kept` stay, by w² / U[i, i]² once everything before them is done. values:
    [rows, count]. errors: likewise, by how much of each row of U the columns right of the block are to be corrected.
    """
    count = int(np.sqrt(factor.size))
    own, scores = np.empty(count, np.uint8), np.empty(max(of, 1), np.float32)
    for first in range(0, values.size, count):
        row, lost = values[first : first + count], errors[first : first + count]
        if not of:
            own[:] = mask[first : first + count]
        for i in range(count):
            if of and i % of == 0:
                for k in range(of):
                    scaled = row[i + k] / factor[(i + k) * count + i + k]
                    scores[k] = scaled * scaled
                for k in range(of):
                    above = 0
                    for other in range(of):
                        above += (scores[other] > scores[k]) | ((scores[other] == scores[k]) & (other > k))
                    own[i + k] = above >= kept
            lost[i] = _F(0)
            if own[i]:
                line = factor[i * count : (i + 1) * count]
                error = row[i] / line[i]
                for j in range(i + 1, count):
                    row[j] -= error * line[j]
                row[i] = _F(0)
                lost[i] = error
