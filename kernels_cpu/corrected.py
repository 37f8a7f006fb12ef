"""Rounding to integers in groups with error feedback: scales are found on the corrected weights."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Correction, Values
from requant.kernels_cpu.feedback import Corrected, Grid
from requant.kernels_cpu.groups import round_to_groups, scales_of, stored_scales

#: Values of a group of equal numbers: nothing but zeros has any scale.
_EMPTY: Final = 1e-30


def corrected_groups(
    values: Values, correction: Correction, group: int, bits: int, symmetric: bool, scale: str, lowest: int = 0
) -> Codes:
    """Values, which must be finite, as integers; arguments as those of `round_to_groups`.

    Where groups are of neighbours by falling activation, `Codes.groups` says of which group each column is.
    """
    columns = values.shape[1]
    size = columns if group < 0 else group
    order, weights = correction.order, correction.weights

    def grid_of(block: Values, importance: Values, length: int) -> Codes:
        if correction.minmax:
            return _from_range(block, length, bits, symmetric, scale, lowest)
        return round_to_groups(block, importance, length, bits, symmetric, scale, lowest)

    state = Corrected(values if order is None else np.ascontiguousarray(values[:, order]), correction.factor)
    codes, top = np.empty(values.shape, np.uint8), (1 << bits) - 1
    if correction.static:
        assert order is not None
        importance = np.empty_like(weights)
        importance[order] = weights
        found = grid_of(values, importance, size)
        groups = np.ascontiguousarray(order // size, np.int32)
        codes[:, order] = state.round(0, columns, _grid(found.scales, found.zeros, groups, top))
        return Codes(codes, found.scales, found.zeros)
    scales, zeros = [], []
    for first in range(0, columns, size):
        last = min(first + size, columns)
        found = grid_of(state.block(first, last), weights[first:last], size)
        grid = _grid(found.scales, found.zeros, np.zeros(last - first, np.int32), top)
        places: NDArray[np.int32] | slice = slice(first, last) if order is None else order[first:last]
        codes[:, places] = state.round(first, last, grid)
        scales.append(found.scales)
        zeros.append(found.zeros)
    groups_of = None
    if order is not None:
        groups_of = np.empty(columns, np.int32)
        groups_of[order] = np.arange(columns, dtype=np.int32) // size
    return Codes(codes, np.concatenate(scales, 1), np.concatenate(zeros, 1), groups_of)


def _grid(scales: Values, zeros: Values, groups: NDArray[np.int32], top: int) -> Grid:
    return Grid(scales, -zeros * scales, groups, top)


def _from_range(block: Values, size: int, bits: int, symmetric: bool, scale: str, lowest: int) -> Codes:
    """Scales and zeros as GPTQ's first implementation finds them, and no codes."""
    starts = np.arange(0, block.shape[1], size)
    low = np.minimum(np.minimum.reduceat(block, starts, 1), np.float32(0))
    high = np.maximum(np.maximum.reduceat(block, starts, 1), np.float32(0))
    top = np.float32((1 << bits) - 1)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    empty = high - low < _EMPTY
    low, high = np.where(empty, np.float32(-1), low), np.where(empty, np.float32(1), high)
    scales = scales_of(stored_scales(((high - low) / top).astype(np.float32), scale), scale)
    scales = np.maximum(scales, np.float32(2.0**-24))
    zeros = np.full_like(scales, 1 << (bits - 1)) if symmetric else np.clip(np.rint(-low / scales), lowest, top)
    return Codes(np.empty((len(block), 0), np.uint8), scales, zeros.astype(np.float32, copy=False))
