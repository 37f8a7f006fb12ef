"""Which weights of a matrix become zero: the smallest of each row, of each few neighbours, or below a bound.

A weight's score is its size, or its size times the norm of its column (Wanda). Scores are no negative numbers, so they
are ordered as their bits are; of equal ones the first is the smaller.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import (
    FLOATS,
    INTS64,
    NUMBER,
    OUT_FLOATS,
    OUT_INTS64,
    Floats,
    Ints,
    Ints64,
    inlined,
    kernel,
)

_F = np.float32
#: Bits of a score that are counted at a time, from the highest of its 31 on: 11, then 10, then 10.
_HIGH: Final = 2048
_REST: Final = 1024
#: The same where a whole tensor is counted: 16, then 15.
LOWER: Final = 15
UPPER_COUNTS: Final = 1 << 16
LOWER_COUNTS: Final = 1 << LOWER


@inlined
def _score(row: Floats, norms: Floats, scores: Floats) -> None:
    """The scores of a row."""
    if norms.size:
        for i in range(row.size):
            scores[i] = abs(row[i]) * norms[i]
    else:
        for i in range(row.size):
            scores[i] = abs(row[i])


@inlined
def _digit(counts: Ints64, rank: int) -> tuple[int, int]:
    """In which count a rank lies, and the how many-th it is there."""
    digit = 0
    while counts[digit] <= rank:
        rank -= counts[digit]
        digit += 1
    return digit, rank


@inlined
def _zero(row: Floats, bits: Ints, bound: int, ties: int) -> None:
    """What is below a bound, and the first `ties` of what is that very score."""
    lower = np.int32(bound)
    for i in range(row.size):
        row[i] = _F(0) if bits[i] < lower else row[i]
    if ties > 0:
        for i in range(row.size):
            if bits[i] == lower:
                row[i] = _F(0)
                ties -= 1
                if ties == 0:
                    break


@kernel(FLOATS, NUMBER, NUMBER, OUT_FLOATS)
def zero_in_rows(norms: Floats, columns: int, pruned: int, values: Floats) -> None:
    """In each row the `pruned` lowest scores become zero, where that is less than a row; norms: [columns] or none."""
    scores, counts = np.empty(columns, np.float32), np.empty(_HIGH, np.int64)
    bits = scores.view(np.int32)
    for first in range(0, values.size, columns):
        row = values[first : first + columns]
        _score(row, norms, scores)
        counts[:] = 0
        for i in range(columns):
            counts[np.uint32(bits[i]) >> 20] += 1
        high, rank = _digit(counts, pruned)
        counts[:_REST] = 0
        for i in range(columns):
            if bits[i] >> 20 == high:
                counts[bits[i] >> 10 & (_REST - 1)] += 1
        middle, rank = _digit(counts, rank)
        upper = high << 10 | middle
        counts[:_REST] = 0
        for i in range(columns):
            if bits[i] >> 10 == upper:
                counts[bits[i] & (_REST - 1)] += 1
        low, rank = _digit(counts, rank)
        bound = upper << 10 | low
        _zero(row, bits, bound, rank)


@kernel(FLOATS, NUMBER, NUMBER, NUMBER, OUT_FLOATS)
def zero_in_groups(norms: Floats, columns: int, kept: int, of: int, values: Floats) -> None:
    """Of every `of` neighbours in a row the `kept` with the highest scores stay; the row has whole groups."""
    scores = np.empty(columns, np.float32)
    for first in range(0, values.size, columns):
        row = values[first : first + columns]
        _score(row, norms, scores)
        for start in range(0, columns, of):
            for i in range(start, start + of):
                above = 0
                for k in range(start, i):
                    above += scores[k] > scores[i]
                for k in range(i + 1, start + of):
                    above += scores[k] >= scores[i]
                row[i] = row[i] if above < kept else _F(0)


@kernel(FLOATS, NUMBER, NUMBER, INTS64, OUT_FLOATS)
def zero_below(norms: Floats, columns: int, bound: int, ties: Ints64, values: Floats) -> None:
    """What has a score below a bound, given as its bits, becomes zero, and in each row the first so many of that very
    score; ties: [rows], how many."""
    scores = np.empty(columns, np.float32)
    bits = scores.view(np.int32)
    for n in range(ties.size):
        row, left = values[n * columns : (n + 1) * columns], ties[n]
        _score(row, norms, scores)
        _zero(row, bits, bound, left)


@kernel(FLOATS, FLOATS, NUMBER, NUMBER, OUT_INTS64)
def count_digits(values: Floats, norms: Floats, columns: int, upper: int, out: Ints64) -> None:
    """Adds to `out` how often the upper 16 of a score's 31 bits have each value; with `upper` >= 0, how often the lower
    15 have, beside those upper ones."""
    scores = np.empty(columns, np.float32)
    bits = scores.view(np.int32)
    for first in range(0, values.size, columns):
        row = values[first : first + columns]
        _score(row, norms, scores)
        for i in range(columns):
            high = np.uint32(bits[i]) >> np.uint32(LOWER)
            if upper < 0:
                out[high] += 1
            elif high == upper:
                out[bits[i] & (LOWER_COUNTS - 1)] += 1


@kernel(FLOATS, FLOATS, NUMBER, NUMBER, OUT_INTS64)
def count_same(values: Floats, norms: Floats, columns: int, bound: int, out: Ints64) -> None:
    """How many scores of each row are that very one; out: [rows]."""
    scores = np.empty(columns, np.float32)
    bits = scores.view(np.int32)
    for n in range(out.size):
        _score(values[n * columns : (n + 1) * columns], norms, scores)
        same = 0
        for i in range(columns):
            same += bits[i] == bound
        out[n] = same
