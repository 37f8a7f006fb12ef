"""Arithmetic of merges: weighted sums, differences from a base, and how differences of several models are combined.

`work` is the dtype in which a merge computes, as mergekit does in the dtype of its tensors: every operation is done in
float32 and its result rounded to that dtype (0: float32, 1: BF16, 2: F16). Arrays are flat; a stack holds the values of
several models one after another. Kernels here take at least sixteen values of each model: the last sixteen are done
again when their number is no multiple of it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import (
    BYTES,
    FLOATS,
    NUMBER,
    OUT_DOUBLES,
    OUT_FLOATS,
    OUT_INTS,
    OUT_WORDS,
    WORDS,
    Bytes,
    Doubles,
    Floats,
    Ints,
    Words,
    inlined,
    kernel,
    spliced,
)
from requant.kernels_cpu.casts import bfloat_bits
from requant.kernels_cpu.simd import (
    F32x16,
    bits_float,
    bits_of_halves,
    fabs,
    greater,
    load16,
    load_bytes16,
    load_halves16,
    load_words16,
    rounded_half,
    splat16,
    splat_int16,
    store,
    store_doubles,
    store_ints,
    store_words,
    where,
)

_F = np.float32
#: Values that are added up in float32 before they go to sums in double precision.
_FEW: Final = 256
#: By the label of a dtype, how kernels are told to compute in it.
WORK: Final = {"F32": 0, "BF16": 1, "F16": 2}


@spliced
def rounded(x: F32x16, work: int) -> F32x16:
    """Sixteen values as the dtype that is computed in holds them."""
    if work == 1:
        return bits_float(bfloat_bits(x) << 16)
    return rounded_half(x) if work == 2 else x


@kernel(FLOATS, NUMBER, OUT_FLOATS)
def round_values(values: Floats, work: int, out: Floats) -> None:
    """Each value rounded; `out` may be `values`."""
    for i in range(0, values.size, 16):
        at = min(i, values.size - 16)
        store(out, at, rounded(load16(values, at), work))


@kernel(FLOATS, FLOATS, NUMBER, OUT_FLOATS)
def subtract(values: Floats, base: Floats, work: int, out: Floats) -> None:
    """Differences from the base."""
    for i in range(0, values.size, 16):
        at = min(i, values.size - 16)
        store(out, at, rounded(load16(values, at) - load16(base, at), work))


@kernel(FLOATS, FLOATS, NUMBER, OUT_FLOATS)
def add_weighted(stack: Floats, weights: Floats, work: int, out: Floats) -> None:
    """The sum of all models, each times its weight, divided by the last of `weights`; computed in float32.

    weights: one for each model, and the divisor.
    """
    count = weights.size - 1
    size, divisor = out.size, weights[count]
    for i in range(0, size, 16):
        at = min(i, size - 16)
        total = splat16(_F(0))
        for n in range(count):
            total = total + load16(stack, n * size + at) * weights[n]
        if divisor != _F(1):
            total = total / divisor
        store(out, at, rounded(total, work))


@kernel(WORDS, FLOATS, NUMBER, OUT_INTS, OUT_WORDS)
def add_weighted_halves(stack: Words, weights: Floats, work: int, largest: Ints, out: Words) -> None:
    """The same of 16-bit floats, as their bits; `work` is their dtype, which is not float32.

    largest: [16], the largest bits without a sign that any sixteenth of the results has: by them what is not finite
    is known.
    """
    count, top = weights.size - 1, splat_int16(0)
    size, divisor = out.size, weights[count]
    for i in range(0, size, 16):
        at = min(i, size - 16)
        total = splat16(_F(0))
        for n in range(count):
            place = n * size + at
            values = bits_float(load_words16(stack, place) << 16) if work == 1 else load_halves16(stack, place)
            total = total + values * weights[n]
        if divisor != _F(1):
            total = total / divisor
        bits = bfloat_bits(total) if work == 1 else bits_of_halves(total)
        top = greater(top, bits & 0x7FFF)
        store_words(out, at, bits)
    store_ints(largest, 0, top)


@inlined
def _add(sums: Doubles, x: F32x16, held: Doubles) -> None:
    """Sixteen values to sixteen sums in double precision."""
    store_doubles(held, 0, x)
    for n in range(16):
        sums[n] += held[n]


@inlined
def _total(sums: Doubles) -> float:
    """All of them, in a fixed order."""
    total = 0.0
    for n in range(16):
        total += sums[n]
        sums[n] = 0.0
    return total


@kernel(FLOATS, FLOATS, NUMBER, NUMBER, OUT_DOUBLES)
def multiply_rows(left: Floats, right: Floats, columns: int, work: int, out: Doubles) -> None:
    """The sum of the products of each row, each product rounded; out: [rows].

    Sixteen sums are taken in float32 over sixteen products each, and these in double precision: their error is far
    below the last place of a float32 sum of the whole.
    """
    sums, held = np.zeros(16, np.float64), np.empty(16, np.float64)
    whole = columns // 16 * 16
    for row in range(out.size):
        first = row * columns
        for start in range(first, first + whole, _FEW):
            few = splat16(_F(0))
            for i in range(start, min(start + _FEW, first + whole), 16):
                few = few + rounded(load16(left, i) * load16(right, i), work)
            _add(sums, few, held)
        added = _total(sums)
        for i in range(first + whole, first + columns):
            added += _one(left[i] * right[i], work)
        out[row] = added


@kernel(FLOATS, FLOATS, OUT_DOUBLES)
def multiply_all(left: Floats, right: Floats, out: Doubles) -> None:
    """out: [3], the sums of the squares of both and of their products, taken as by `multiply_rows`."""
    ones, others, both = np.zeros(16, np.float64), np.zeros(16, np.float64), np.zeros(16, np.float64)
    held = np.empty(16, np.float64)
    whole, zero = left.size // 16 * 16, splat16(_F(0))
    for start in range(0, whole, _FEW):
        xx, yy, xy = zero, zero, zero
        for i in range(start, min(start + _FEW, whole), 16):
            x, y = load16(left, i), load16(right, i)
            xx, yy, xy = xx + x * x, yy + y * y, xy + x * y
        _add(ones, xx, held)
        _add(others, yy, held)
        _add(both, xy, held)
    out[0], out[1], out[2] = _total(ones), _total(others), _total(both)
    for i in range(whole, left.size):
        a, b = np.float64(left[i]), np.float64(right[i])
        out[0] += a * a
        out[1] += b * b
        out[2] += a * b


@inlined
def _one(x: np.float32, work: int) -> float:
    """One value rounded."""
    held = np.empty(16, np.float32)
    store(held, 0, rounded(splat16(x), work))
    return np.float64(held[0])


@kernel(FLOATS, FLOATS, BYTES, NUMBER, OUT_DOUBLES)
def add_sizes(values: Floats, base: Floats, mask: Bytes, work: int, out: Doubles) -> None:
    """out: [2], the sizes of all differences from the base, and of those the mask keeps, added up."""
    sums, kept, held = np.zeros(16, np.float64), np.zeros(16, np.float64), np.empty(16, np.float64)
    whole = values.size // 16 * 16
    zero = splat16(_F(0))
    for start in range(0, whole, _FEW):
        few, left = zero, zero
        for i in range(start, min(start + _FEW, whole), 16):
            size = fabs(rounded(load16(values, i) - load16(base, i), work))
            few, left = few + size, left + where(load_bytes16(mask, i) != 0, size, zero)
        _add(sums, few, held)
        _add(kept, left, held)
    out[0], out[1] = _total(sums), _total(kept)
    for i in range(whole, values.size):
        one = abs(_one(values[i] - base[i], work))
        out[0] += one
        out[1] += one * (mask[i] != 0)


#: Places in the numbers that `combine_tasks` is given.
LAMBDA, DIVISOR, HEAD = 0, 1, 2


@kernel(FLOATS, FLOATS, BYTES, FLOATS, NUMBER, NUMBER, NUMBER, OUT_FLOATS)
def combine_tasks(
    stack: Floats, base: Floats, masks: Bytes, numbers: Floats, vote: int, normalize: int, work: int, out: Floats
) -> None:
    """The base plus what the models' differences from it make together.

    masks: a byte for each value of each model, 0 where the difference is dropped; empty if none is.
    numbers: lambda, the divisor without a vote, then a scale and a weight of each model.
    vote: 1 to take only differences of the sign that their sum has, as TIES does, and to divide by their weights.
    """
    size, count = out.size, (numbers.size - HEAD) // 2
    held = np.empty(16 * count, np.float32)
    zero, one = splat16(_F(0)), splat16(_F(1))
    for i in range(0, size, 16):
        at = min(i, size - 16)
        origin, total = load16(base, at), zero
        for n in range(count):
            scale, weight = numbers[HEAD + 2 * n], numbers[HEAD + 2 * n + 1]
            task = rounded(load16(stack, n * size + at) - origin, work)
            if masks.size:
                task = where(load_bytes16(masks, n * size + at) != 0, task, zero)
            if scale != _F(1):
                task = rounded(task * scale, work)
            task = rounded(task * weight, work)
            total = total + task
            if vote:
                store(held, 16 * n, task)
        total = rounded(total, work)
        divisor = splat16(numbers[DIVISOR])
        if vote:
            positive = total >= zero
            total, divisor = zero, zero
            for n in range(count):
                task = load16(held, 16 * n)
                elected = where(positive, task, zero - task) > zero
                total = total + where(elected, task, zero)
                divisor = divisor + where(elected, numbers[HEAD + 2 * n + 1], zero)
            total, divisor = rounded(total, work), rounded(divisor, work)
            divisor = where(divisor == zero, one, divisor)
        if normalize:
            total = rounded(total / divisor, work)
        if numbers[LAMBDA] != _F(1):
            total = rounded(total * numbers[LAMBDA], work)
        store(out, at, rounded(origin + total, work))


#: Places in the numbers that `walk_sphere` is given, before those of the steps; and of a step, after two of each model.
SHARE, LENGTH, STEPS = 0, 1, 2
WAY, SINE, COSINE, REACHED, EACH = 0, 1, 2, 3, 4


@kernel(FLOATS, FLOATS, FLOATS, NUMBER, OUT_FLOATS)
def walk_sphere(stack: Floats, norms: Floats, numbers: Floats, work: int, out: Floats) -> None:
    """Where a walk over a sphere from the mean of several models has come to; or the way to go from there.

    norms: of the models, by which they are divided. numbers: the share of each model, and the length of their mean (0:
    the first model stands for it; less: it stays as it is); of each step the model's cosine to the mean and its weight
    in the way (0 if it has none), how long the way is (0: it is the result), its sine and cosine, and the length that
    is reached (0: that stays).
    """
    size, count = out.size, norms.size
    one = 2 * count + EACH
    for i in range(0, size, 16):
        at = min(i, size - 16)
        mean = splat16(_F(0))
        for n in range(count):
            unit = rounded(load16(stack, n * size + at) / norms[n], work)
            mean = rounded(mean + rounded(unit * numbers[SHARE], work), work)
        if numbers[LENGTH] > _F(0):
            mean = rounded(mean / numbers[LENGTH], work)
        elif numbers[LENGTH] == _F(0):
            mean = rounded(load16(stack, at) / norms[0], work)
        for step in range(STEPS, numbers.size, one):
            tangent = splat16(_F(0))
            for n in range(count):
                weight = numbers[step + 2 * n + 1]
                if weight != _F(0):
                    unit = rounded(load16(stack, n * size + at) / norms[n], work)
                    beside = rounded(unit - rounded(mean * numbers[step + 2 * n], work), work)
                    tangent = rounded(tangent + rounded(beside * weight, work), work)
            last = step + 2 * count
            if numbers[last + WAY] == _F(0):
                mean = tangent
            else:
                along = rounded(rounded(tangent / numbers[last + WAY], work) * numbers[last + SINE], work)
                mean = rounded(rounded(mean * numbers[last + COSINE], work) + along, work)
                if numbers[last + REACHED] != _F(0):
                    mean = rounded(mean / numbers[last + REACHED], work)
        store(out, at, mean)


#: How far `average_on_sphere` goes, and places in its numbers.
MEAN, DIRECTION, INSIDE, RESULT = 0, 1, 2, 3
MEAN_LENGTH, ALONG_MEAN, ALONG_INSIDE, SCALE, TO_BASE = 0, 1, 2, 3, 4


@kernel(FLOATS, FLOATS, FLOATS, NUMBER, NUMBER, OUT_FLOATS)
def average_on_sphere(stack: Floats, models: Floats, numbers: Floats, until: int, work: int, out: Floats) -> None:
    """The weighted mean of several models on a sphere, or what is made on the way to it.

    stack: the models, and the base behind them if the last of `numbers` is not 0. models: of each its length, its
    weight, and how far it is along the mean. numbers: the length of the mean (0: it stays as it is), the shares of it
    and of what is averaged in the plane, and what the sum is multiplied by.
    """
    size, count = out.size, models.size // 3
    for i in range(0, size, 16):
        at = min(i, size - 16)
        origin, zero = splat16(_F(0)), splat16(_F(0))
        if numbers[TO_BASE] != _F(0):
            origin = load16(stack, count * size + at)
        mean = zero
        for n in range(count):
            vector = load16(stack, n * size + at)
            if numbers[TO_BASE] != _F(0):
                vector = rounded(vector - origin, work)
            mean = mean + rounded(rounded(vector / models[3 * n], work) * models[3 * n + 1], work)
        mean = rounded(mean, work)
        if until >= DIRECTION and numbers[MEAN_LENGTH] != _F(0):
            mean = rounded(mean / numbers[MEAN_LENGTH], work)
        if until < INSIDE:
            store(out, at, mean)
            continue
        inside = zero
        for n in range(count):
            vector = load16(stack, n * size + at)
            if numbers[TO_BASE] != _F(0):
                vector = rounded(vector - origin, work)
            unit = rounded(vector / models[3 * n], work)
            beside = rounded(unit - rounded(mean * models[3 * n + 2], work), work)
            inside = inside + rounded(beside * models[3 * n + 1], work)
        inside = rounded(inside, work)
        if until == INSIDE:
            store(out, at, inside)
            continue
        along = rounded(mean * numbers[ALONG_MEAN], work)
        total = rounded(along + rounded(inside * numbers[ALONG_INSIDE], work), work)
        total = rounded(total * numbers[SCALE], work)
        if numbers[TO_BASE] != _F(0):
            total = rounded(total + origin, work)
        store(out, at, total)
