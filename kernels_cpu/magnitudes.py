"""Which differences from a base are the largest, exactly, without sorting them all: counted by their bits, then marked.

Sizes of float32 numbers are ordered as their bits without the sign are. The upper 16 of those 31 are counted first,
then the lower 15 of the values that share the upper ones with the place that is looked for. Only ranks within a row
are found by sorting, a digit of eight bits at a time.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import (
    FLOATS,
    INTS64,
    NUMBER,
    OUT_BYTES,
    OUT_INTS,
    OUT_WORDS32,
    Bytes,
    Floats,
    Ints,
    Ints64,
    Words32,
    inlined,
    kernel,
    spliced,
)
from requant.kernels_cpu.merging import rounded
from requant.kernels_cpu.simd import (
    I32x16,
    float_bits,
    lanes16,
    load16,
    splat_int16,
    store_bytes,
    store_ints,
    where,
)

#: Bits that are counted last, and how many values the upper and the lower ones have.
LOWER: Final = 15
UPPER_COUNTS: Final = 1 << 16
LOWER_COUNTS: Final = 1 << LOWER


@spliced
def _sizes(values: Floats, base: Floats, at: int, work: int) -> I32x16:
    """The bits of the sizes of sixteen differences."""
    return float_bits(rounded(load16(values, at) - load16(base, at), work)) & 0x7FFFFFFF


@inlined
def _held_sizes(values: Floats, base: Floats, at: int, work: int, held: Ints) -> None:
    """The same of up to sixteen differences that end with the arrays, in an array."""
    if at + 16 <= values.size:
        store_ints(held, 0, _sizes(values, base, at, work))
        return
    x, y = np.zeros(16, np.float32), np.zeros(16, np.float32)
    for n in range(values.size - at):
        x[n], y[n] = values[at + n], base[at + n]
    store_ints(held, 0, _sizes(x, y, 0, work))


@spliced
def _count(held: Ints, upto: int, upper: int, out: Words32) -> None:
    """One for each of some sizes; indices have no sign, so that none is looked at for being negative."""
    for n in range(upto):
        high = np.uint64(held[n] >> LOWER)
        if upper < 0:
            out[high] += np.uint32(1)
        elif high == np.uint64(upper):
            out[np.uint64(held[n] & (LOWER_COUNTS - 1))] += np.uint32(1)


@kernel(FLOATS, FLOATS, NUMBER, NUMBER, OUT_WORDS32)
def count_sizes(values: Floats, base: Floats, work: int, upper: int, out: Words32) -> None:
    """Adds to `out` how often each upper half of a size occurs; with `upper` >= 0, each lower half beside that one."""
    held, whole = np.empty(16, np.int32), values.size // 16 * 16
    for i in range(0, whole, 16):
        store_ints(held, 0, _sizes(values, base, i, work))
        _count(held, 16, upper, out)
    if whole < values.size:
        _held_sizes(values, base, whole, work, held)
        _count(held, values.size - whole, upper, out)


@kernel(FLOATS, FLOATS, NUMBER, INTS64, OUT_BYTES)
def mark_sizes(values: Floats, base: Floats, work: int, bounds: Ints64, out: Bytes) -> None:
    """1 where the size lies between two bounds, else 0; of at least sixteen values.

    bounds: the lowest size, and from and to which index there are marks at that very size; the same of the highest.
    """
    low, low_from, low_to = bounds[0], bounds[1], bounds[2]
    high, high_from, high_to = bounds[3], bounds[4], bounds[5]
    one, zero = splat_int16(1), splat_int16(0)
    for i in range(0, values.size, 16):
        at = min(i, values.size - 16)
        size, index = _sizes(values, base, at, work), lanes16() + at
        lowest = (size == low) & (index >= low_from) & (index < low_to)
        highest = (size == high) & (index >= high_from) & (index < high_to)
        marked = ((size > low) | lowest) & ((size < high) | highest)
        store_bytes(out, at, where(marked, one, zero))


@kernel(FLOATS, FLOATS, NUMBER, NUMBER, OUT_INTS)
def rank_rows(values: Floats, base: Floats, columns: int, work: int, out: Ints) -> None:
    """The rank of each difference's size in its row, from 0; of equal ones the first is the lower."""
    sizes, order, moved = np.empty(columns + 16, np.int32), np.empty(columns, np.int32), np.empty(columns, np.int32)
    starts = np.empty(257, np.int64)
    for first in range(0, out.size, columns):
        row, origin = values[first : first + columns], base[first : first + columns]
        for i in range(0, columns, 16):
            _held_sizes(row, origin, i, work, sizes[i : i + 16])
        for n in range(columns):
            order[n] = n
        for shift in range(16 if work == 1 else 0, 32, 8):
            starts[:] = 0
            for n in range(columns):
                starts[(sizes[n] >> shift & 255) + 1] += 1
            for digit in range(256):
                starts[digit + 1] += starts[digit]
            for n in range(columns):
                digit = sizes[order[n]] >> shift & 255
                moved[starts[digit]] = order[n]
                starts[digit] += 1
            order, moved = moved, order
        for n in range(columns):
            out[first + order[n]] = n


@kernel(FLOATS, FLOATS, NUMBER, OUT_INTS)
def sizes_of(values: Floats, base: Floats, work: int, out: Ints) -> None:
    """The bits of the size of each difference; of at least sixteen values."""
    for i in range(0, values.size, 16):
        at = min(i, values.size - 16)
        store_ints(out, at, _sizes(values, base, at, work))
