"""Error feedback (GPTQ): columns are rounded one after another, and those after a column make up for its error.

With U the upper Cholesky factor of the inverse of H = E[x xᵀ], rounding column i by e takes e / U_ii * U_ij off every
column j after it (Frantar et al. 2023, "GPTQ", section 3.3). Rows know nothing of each other: they are the lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.kernels_cpu._jit import (
    FLOATS,
    INTS,
    NUMBER,
    OUT_BYTES,
    OUT_FLOATS,
    Bytes,
    Floats,
    Ints,
    inlined,
    kernel,
)
from requant.kernels_cpu.simd import (
    F32x16,
    I32x16,
    bits_float,
    fabs,
    float_bits,
    greater,
    lesser,
    load16,
    rint,
    splat16,
    splat_int16,
    store,
    store_bytes,
    to_int,
    where,
)

_F = np.float32
#: Columns whose errors are handed on together to those after them.
TOGETHER: Final = 128


@dataclass(frozen=True, slots=True)
class FloatCodes:
    """Codes that are floats: a sign, an exponent, and `fraction` bits. lowest: the exponent of the smallest normal
    number. sign: the code of minus zero."""

    fraction: int
    lowest: int
    sign: int


@dataclass(frozen=True, slots=True)
class Grid:
    """What the columns of a block may become: code * step + base, codes in 0..top.

    steps, bases: [rows, groups]. groups: [columns of the block], the group of each. levels: where codes stand for
    these numbers instead of themselves, in rising order. floats: where they stand for floats from -top to top.
    """

    steps: Values
    bases: Values
    groups: NDArray[np.int32]
    top: int
    levels: Values | None = None
    floats: FloatCodes | None = None


class Corrected:
    """Rows of weights on their way from column to column.

    factor: upper Cholesky factor of the inverse, [columns, columns] in C order.
    """

    def __init__(self, values: Values, factor: Values) -> None:
        rows, self._columns = values.shape
        self._rows, self._width = rows, -(-rows // 16) * 16
        self._factor = factor.reshape(-1)
        weights = np.zeros((self._columns, self._width), np.float32)
        weights[:, :rows] = values.T
        self._weights = weights.reshape(-1)

    def block(self, first: int, last: int) -> Values:
        """What the columns `[first, last)` are now, with what those before them left to make up for."""
        square = self._weights.reshape(self._columns, self._width)
        return np.ascontiguousarray(square[first:last, : self._rows].T)

    def round(self, first: int, last: int, grid: Grid) -> NDArray[np.uint8]:
        """The codes [rows, last - first] of these columns; what is lost goes to the columns after them."""
        codes = np.empty((last - first, self._width), np.uint8)
        levels = np.empty(0, np.float32) if grid.levels is None else np.ascontiguousarray(grid.levels)
        how = () if grid.floats is None else (grid.floats.fraction, grid.floats.lowest, grid.floats.sign)
        floats, steps, bases = np.array(how, np.int32), self._by_group(grid.steps), self._by_group(grid.bases)
        for start in range(first, last, TOGETHER):
            stop = min(start + TOGETHER, last)
            errors = np.empty((stop - start) * self._width, np.float32)
            here = codes[start - first : stop - first].reshape(-1)
            groups = np.ascontiguousarray(grid.groups[start - first : stop - first], np.int32)
            places, found = (self._columns, self._width, start, stop), (self._weights, here, errors)
            round_columns(self._factor, groups, steps, bases, levels, floats, grid.top, *places, *found)
            if stop < self._columns:
                spread_errors(self._factor, errors, *places, self._weights)
        return np.ascontiguousarray(codes[:, : self._rows].T)

    def _by_group(self, numbers: Values) -> NDArray[np.float32]:
        """[rows, groups] as the lanes take it."""
        found = np.zeros((numbers.shape[1], self._width), np.float32)
        found[:, : self._rows] = numbers.T
        return found.reshape(-1)


@inlined
def _nearest_float(x: F32x16, fraction: int, lowest: int, top: int) -> F32x16:
    """The nearest float with so many bits, without its sign; ties to the even code."""
    size = lesser(fabs(x), _F(top))
    exponent = float_bits(size) >> 23
    exponent = where(exponent < lowest + 127, splat_int16(lowest + 127), exponent)
    step = bits_float((exponent - fraction) << 23)
    return rint(size / step) * step


@inlined
def _float_code(size: F32x16, fraction: int, lowest: int) -> I32x16:
    """The code of such a number."""
    subnormal = to_int(size * bits_float(splat_int16(fraction - lowest + 127 << 23)))
    normal = (float_bits(size) >> 23 - fraction) - (lowest + 126 << fraction)
    return where(size < bits_float(splat_int16(lowest + 127 << 23)), subnormal, normal)


@kernel(
    FLOATS,
    INTS,
    FLOATS,
    FLOATS,
    FLOATS,
    INTS,
    NUMBER,
    NUMBER,
    NUMBER,
    NUMBER,
    NUMBER,
    OUT_FLOATS,
    OUT_BYTES,
    OUT_FLOATS,
)
def round_columns(
    factor: Floats,
    groups: Ints,
    steps: Floats,
    bases: Floats,
    levels: Floats,
    floats: Ints,
    top: int,
    columns: int,
    rows: int,
    first: int,
    last: int,
    weights: Floats,
    codes: Bytes,
    errors: Floats,
) -> None:
    """Codes of the columns `[first, last)`; each column's errors, over U_ii, are taken off the later ones of them.

    weights: [columns, rows], steps and bases: [groups, rows]; rows are a multiple of 16. A step of 0 makes codes 0.
    floats: fraction, lowest and sign of `FloatCodes`, or nothing.
    """
    for row in range(0, rows, 16):
        for i in range(first, last):
            place = int(groups[i - first]) * rows + row
            step, base = load16(steps, place), load16(bases, place)
            x = load16(weights, i * rows + row)
            scaled = where(step != _F(0), (x - base) / step, splat16(_F(0)))
            if levels.size:
                code, level = splat16(_F(0)), splat16(levels[0])
                for k in range(levels.size - 1):
                    above = scaled > _F(0.5) * (levels[k] + levels[k + 1])
                    code = where(above, _F(k + 1), code)
                    level = where(above, levels[k + 1], level)
                store_bytes(codes, (i - first) * rows + row, to_int(code))
            elif floats.size:
                level = _nearest_float(scaled, int(floats[0]), int(floats[1]), top)
                bits = _float_code(level, int(floats[0]), int(floats[1]))
                negative = (scaled < _F(0)) & (bits > 0)
                level = where(negative, splat16(_F(0)) - level, level)
                store_bytes(codes, (i - first) * rows + row, where(negative, bits | int(floats[2]), bits))
            else:
                code = greater(lesser(rint(scaled), _F(top)), _F(0))
                level = code
                store_bytes(codes, (i - first) * rows + row, to_int(code))
            error = (x - (level * step + base)) / factor[i * columns + i]
            store(errors, (i - first) * rows + row, error)
            for j in range(i + 1, last):
                store(weights, j * rows + row, load16(weights, j * rows + row) - error * factor[i * columns + j])


@kernel(FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, NUMBER, OUT_FLOATS)
def spread_errors(
    factor: Floats, errors: Floats, columns: int, rows: int, first: int, last: int, weights: Floats
) -> None:
    """Take the errors of the columns `[first, last)` off all columns after them; four at a time stay in registers."""
    whole = last + (columns - last) // 4 * 4
    for j in range(last, whole, 4):
        for row in range(0, rows, 16):
            a, b = load16(weights, j * rows + row), load16(weights, (j + 1) * rows + row)
            c, d = load16(weights, (j + 2) * rows + row), load16(weights, (j + 3) * rows + row)
            for i in range(first, last):
                error, at = load16(errors, (i - first) * rows + row), i * columns + j
                a, b = a - error * factor[at], b - error * factor[at + 1]
                c, d = c - error * factor[at + 2], d - error * factor[at + 3]
            store(weights, j * rows + row, a)
            store(weights, (j + 1) * rows + row, b)
            store(weights, (j + 2) * rows + row, c)
            store(weights, (j + 3) * rows + row, d)
    for j in range(whole, columns):
        for row in range(0, rows, 16):
            a = load16(weights, j * rows + row)
            for i in range(first, last):
                a = a - load16(errors, (i - first) * rows + row) * factor[i * columns + j]
            store(weights, j * rows + row, a)
