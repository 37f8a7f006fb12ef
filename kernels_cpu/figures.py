"""What is to be known of a tensor's numbers, in one pass: their moments, their extremes, and how many lie where.

A block of values is looked at twice while it lies in the nearest cache: first for its mean and its largest size, then
for sums of powers of the distances from that mean. These are scaled by a power of two, so that a fourth power neither
overflows nor vanishes, and merged into those of all blocks before (Pébay, SAND2008-6212), in double precision: a norm's
weights, which lie about 1 with a spread of a hundredth, lose nothing that way.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import (
    FLOATS,
    OUT_DOUBLES,
    OUT_WORDS32,
    Doubles,
    Floats,
    Ints,
    Words32,
    inlined,
    kernel,
    spliced,
)
from requant.kernels_cpu.simd import (
    F32x16,
    bits_float,
    float_bits,
    greater,
    lesser,
    load16,
    splat16,
    splat_int16,
    store_doubles,
    store_ints,
    value_bits,
    where,
)

_F = np.float32
_BLOCK: Final = 1024
_INFINITE: Final = 0x7F800000

#: Places in what `survey` fills: finite values, their mean and sums of the second to the fourth power of distances from
#: it, the least, the largest, zeros; then NaN and infinities.
COUNT: Final = 0
MEAN: Final = 1
SECOND: Final = 2
THIRD: Final = 3
FOURTH: Final = 4
LEAST: Final = 5
LARGEST: Final = 6
ZEROS: Final = 7
NANS: Final = 8
INFINITIES: Final = 9
FIGURES: Final = 10
#: How many BF16 numbers there are, one counter for each.
COUNTERS: Final = 1 << 16


@inlined
def _merge(out: Doubles, count: float, mean: float, second: float, third: float, fourth: float) -> None:
    """Moments of further values to those in `out`."""
    before = out[COUNT]
    total = before + count
    if total == 0:
        return
    apart = mean - out[MEAN]
    step = apart / total
    product = before * count
    out[FOURTH] += fourth + apart * step**3 * product * (before * before - product + count * count)
    out[FOURTH] += 6 * step * step * (before * before * second + count * count * out[SECOND])
    out[FOURTH] += 4 * step * (before * third - count * out[THIRD])
    out[THIRD] += third + apart * step * step * product * (before - count)
    out[THIRD] += 3 * step * (before * second - count * out[SECOND])
    out[SECOND] += second + apart * step * product
    out[MEAN] += count * step
    out[COUNT] = total


@inlined
def _total(lanes: F32x16, held: Doubles) -> float:
    store_doubles(held, 0, lanes)
    total = 0.0
    for n in range(16):
        total += held[n]
    return total


@spliced
def _one_by_one(values: Floats, at: int, stop: int, counts: Words32, out: Doubles) -> None:
    """Values that are few, or not all finite."""
    count, total, second, third, fourth = 0, 0.0, 0.0, 0.0, 0.0
    for i in range(at, stop):
        value = np.float64(values[i])
        if value != value:
            out[NANS] += 1
        elif abs(value) > 3.5e38:
            out[INFINITIES] += 1
        else:
            count, total = count + 1, total + value
            out[LEAST], out[LARGEST] = min(out[LEAST], value), max(out[LARGEST], value)
            out[ZEROS] += value == 0
            counts[np.uint64(value_bits(values[i] + _F(0)) >> 16 & 0xFFFF)] += np.uint32(1)
    mean = total / count if count else 0.0
    for i in range(at, stop):
        apart = np.float64(values[i]) - mean
        if abs(np.float64(values[i])) < 3.5e38:
            second += apart**2
            third += apart**3
            fourth += apart**4
    _merge(out, np.float64(count), mean, second, third, fourth)


@spliced
def _block(values: Floats, at: int, top: int, mean: F32x16, held: Doubles, words: Ints, counts: Words32) -> F32x16:
    """Sums of powers of a block's scaled distances go to `held`, from 16 on; zeros are counted by lane."""
    exponent = max(1, min(253, top >> 23))
    scale = bits_float(splat_int16(254 - exponent) << 23)
    shift = mean * scale
    nothing = splat16(_F(0))
    first, second, third, fourth, zeros = nothing, nothing, nothing, nothing, nothing
    for i in range(at, at + _BLOCK, 16):
        x = load16(values, i)
        apart = x * scale - shift
        square = apart * apart
        first, second = first + apart, second + square
        third, fourth = third + square * apart, fourth + square * square
        zeros = zeros + where(x == _F(0), splat16(_F(1)), nothing)
        store_ints(words, 0, float_bits(x + _F(0)) >> 16 & 0xFFFF)  # of both zeros the one without a sign
        for n in range(16):
            counts[np.uint64(words[n])] += np.uint32(1)
    held[16], held[17] = _total(first, held), _total(second, held)
    held[18], held[19] = _total(third, held), _total(fourth, held)
    held[20] = 2.0 ** (exponent - 127)
    return zeros


@kernel(FLOATS, OUT_WORDS32, OUT_DOUBLES)
def survey(values: Floats, counts: Words32, out: Doubles) -> None:
    """Adds values to figures, and to the counter of what is left of each without its lower 16 bits.

    counts: [65536]. out: [10], as this module names the places; `LEAST` and `LARGEST` begin with the infinities, all
    else with zeros.
    """
    held, words, whole = np.empty(21, np.float64), np.empty(16, np.int32), values.size // _BLOCK * _BLOCK
    for at in range(0, whole, _BLOCK):
        largest, total = splat_int16(0), splat16(_F(0))
        low = load16(values, at)
        high = low
        for i in range(at, at + _BLOCK, 16):
            x = load16(values, i)
            largest = greater(largest, float_bits(x) & 0x7FFFFFFF)
            low, high = lesser(low, x), greater(high, x)
            total = total + x * _F(1 / 128)  # a sum of the largest numbers is still one
        store_ints(words, 0, largest)
        top = 0
        for n in range(16):
            top = max(top, words[n])
        if top >= _INFINITE:
            _one_by_one(values, at, at + _BLOCK, counts, out)
            continue
        mean = _F(_total(total, held) * 128 / _BLOCK)
        out[ZEROS] += _total(_block(values, at, top, splat16(mean), held, words, counts), held)
        first, second, third, fourth, unit = held[16] / _BLOCK, held[17], held[18], held[19], held[20]
        fourth += first * (-4 * third + 6 * first * second - 3 * _BLOCK * first**3)
        third += first * (-3 * second + 2 * _BLOCK * first * first)
        second -= _BLOCK * first * first
        centre = np.float64(mean) + first * unit
        _merge(out, np.float64(_BLOCK), centre, second * unit**2, third * unit**3, fourth * unit**4)
        store_doubles(held, 0, low)
        for n in range(16):
            out[LEAST] = min(out[LEAST], held[n])
        store_doubles(held, 0, high)
        for n in range(16):
            out[LARGEST] = max(out[LARGEST], held[n])
    _one_by_one(values, whole, values.size, counts, out)
