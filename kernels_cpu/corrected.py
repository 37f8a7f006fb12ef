"""Rounding in groups with error feedback: scales are found on the corrected weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Correction, Values
from requant.kernels_cpu.feedback import Corrected, Grid
from requant.kernels_cpu.groups import round_to_groups, scales_of, stored_scales

#: Values of a group of equal numbers: nothing but zeros has any scale.
_EMPTY: Final = 1e-30


#: The grid of some columns [rows, columns of the block], given what their errors cost [columns of the block].
GridOf = Callable[[Values, Values], Grid]


def corrected_codes(values: Values, correction: Correction, size: int, grid_of: GridOf) -> NDArray[np.uint8]:
    """The codes of values, which must be finite, `size` columns to a grid: found on what they are when their first one
    comes, or, with static groups, for all columns at once on what they are before."""
    columns, order, weights = values.shape[1], correction.order, correction.weights
    state = Corrected(values if order is None else np.ascontiguousarray(values[:, order]), correction.factor)
    codes = np.empty(values.shape, np.uint8)
    if correction.static:
        assert order is not None
        importance = np.empty_like(weights)
        importance[order] = weights
        grid = grid_of(values, importance)
        codes[:, order] = state.round(0, columns, replace(grid, groups=np.ascontiguousarray(grid.groups[order])))
        return codes
    for first in range(0, columns, size):
        last = min(first + size, columns)
        grid = grid_of(state.block(first, last), weights[first:last])
        places: NDArray[np.int32] | slice = slice(first, last) if order is None else order[first:last]
        codes[:, places] = state.round(first, last, grid)
    return codes


def corrected_groups(
    values: Values, correction: Correction, group: int, bits: int, symmetric: bool, scale: str, lowest: int = 0
) -> Codes:
    """Values, which must be finite, as integers; arguments as those of `round_to_groups`.

    Where groups are of neighbours by falling activation, `Codes.groups` says of which group each column is.
    """
    columns, order, found = values.shape[1], correction.order, list[Codes]()
    size = columns if group < 0 else group

    def grid_of(block: Values, importance: Values) -> Grid:
        if correction.minmax:
            one = _from_range(block, size, bits, symmetric, scale, lowest)
        else:
            one = round_to_groups(block, importance, size, bits, symmetric, scale, lowest)
        found.append(one)
        return Grid(one.scales, -one.zeros * one.scales, groups_of(block, size), (1 << bits) - 1)

    codes, by_order = corrected_codes(values, correction, size, grid_of), None
    if order is not None and not correction.static:
        by_order = np.empty(columns, np.int32)
        by_order[order] = np.arange(columns, dtype=np.int32) // size
    scales, zeros = (np.concatenate([getattr(one, name) for one in found], 1) for name in ("scales", "zeros"))
    return Codes(codes, scales, zeros, by_order)


def groups_of(block: Values, size: int) -> NDArray[np.int32]:
    """The group of each column."""
    return np.arange(block.shape[1], dtype=np.int32) // np.int32(size)


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
