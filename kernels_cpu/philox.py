"""Philox4x32-10: random numbers that follow from a key and a counter, so that any of them can be had by itself.

Four words come from one counter. Value `i` of a stream is word `i % 4` of the counter (i // 4, stream): whoever asks
for values, in which order and by how many threads, each is the same. Words are taken without their highest bit, as
numbers of 31 bits. Where only the comparison of such a number with a limit is wanted, half a word nearly always tells,
and values lie otherwise (see `draw_below`).

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and the known answers
of its library Random123.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from requant.kernels_cpu._jit import INTS, NUMBER, OUT_BYTES, OUT_INTS, Bytes, Ints, inlined, kernel, spliced
from requant.kernels_cpu.simd import (
    I32x16,
    any_lane,
    lanes16,
    products,
    splat_int16,
    store_ints,
    where,
)
from requant.kernels_cpu.simd_vectors import Mask16

_FIRST: Final = 0xD2511F53
_SECOND: Final = 0xCD9E8D57
_WEYL_FIRST: Final = 0x9E3779B9
_WEYL_SECOND: Final = 0xBB67AE85


@spliced
def _words(
    low: I32x16, high: int, third: int, fourth: int, key: int, other: int
) -> tuple[I32x16, I32x16, I32x16, I32x16]:
    """The four words of sixteen counters (low, high, third, fourth) under the key (key, other)."""
    a, b, c, d = low, splat_int16(high), splat_int16(third), splat_int16(fourth)
    first, second = splat_int16(_FIRST), splat_int16(_SECOND)
    for _ in range(10):
        upper, lower = products(first, a)
        upper_other, lower_other = products(second, c)
        a, b, c, d = upper_other ^ b ^ key, lower_other, upper ^ d ^ other, lower
        key, other = key + _WEYL_FIRST, other + _WEYL_SECOND
    return a, b, c, d


@inlined
def _counters(at: int) -> tuple[I32x16, int]:
    """The low words of the sixteen counters from value `at` on (a multiple of 64, so that none wraps), and the high."""
    counter = at // 4
    return splat_int16(counter) + lanes16(), counter >> 32


@kernel(INTS, NUMBER, OUT_INTS)
def draw(keys: Ints, first: int, out: Ints) -> None:
    """The values from `first` on, a multiple of 64, as is their number.

    keys: [2 words of the key, 2 words of the stream].
    """
    for i in range(0, out.size, 64):
        low, high = _counters(first + i)
        words = _words(low, high, keys[2], keys[3], keys[0], keys[1])
        for n in range(4):
            store_ints(out, i + 16 * n, words[n] & 0x7FFFFFFF)
        _interleave(out, i)


@inlined
def _interleave(out: Ints, at: int) -> None:
    """Words by counter, which lie word after word: a 4 x 16 matrix transposed in place."""
    held = np.empty(64, np.int32)
    for n in range(64):
        held[n] = out[at + n]
    for n in range(64):
        out[at + n] = held[n % 4 * 16 + n // 4]


@spliced
def _kept(word: I32x16, later: I32x16, by: int, bounds: tuple[int, int], ties: bool) -> tuple[I32x16, Mask16]:
    """1 where the half of a word that begins with bit `by` is small enough, and where only `later` can tell."""
    half = word >> by & 0xFFFF
    tied = half == bounds[0]
    below = half < bounds[0]
    if ties:
        below = below | tied & ((later >> by & 0x7FFF) < bounds[1])
    return where(below, splat_int16(1), splat_int16(0)), tied


@spliced
def _keep(
    words: tuple[I32x16, I32x16, I32x16, I32x16],
    later: tuple[I32x16, I32x16, I32x16, I32x16],
    bounds: tuple[int, int],
    ties: bool,
    out: Bytes,
    at: int,
) -> bool:
    """128 bytes: of the lower halves of words, counter by counter, then of the upper ones; whether there are ties."""
    tied = splat_int16(0) != 0
    for by in range(0, 32, 16):
        packed = splat_int16(0)
        for n in range(4):
            kept, same = _kept(words[n], later[n], by, bounds, ties)
            packed, tied = packed | kept << 8 * n, tied | same
        store_ints(out, at + 4 * by, packed)
    return any_lane(tied)


@kernel(INTS, NUMBER, NUMBER, OUT_BYTES)
def draw_below(keys: Ints, first: int, limit: int, out: Bytes) -> None:
    """1 where a number of 31 bits is less than `limit`, else 0: for the values from `first` on, a multiple of 128.

    Half a word, the upper 16 bits of the number, tells for nearly all; two values come from one word so, and 128 from
    sixteen counters. The lower 15 are those of the same place in counters that have bit 63 set.
    """
    bounds = (limit >> 15, limit & 0x7FFF)
    for i in range(0, out.size, 128):
        low, high = _counters((first + i) // 2)
        words = _words(low, high, keys[2], keys[3], keys[0], keys[1])
        if _keep(words, words, bounds, False, out, i) and bounds[1]:
            later = _words(low, high | 0x80000000, keys[2], keys[3], keys[0], keys[1])
            _keep(words, later, bounds, True, out, i)
