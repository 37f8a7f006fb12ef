"""Integers in groups with a scale and a zero: to values, and the search for the best ones.

A row of `columns` codes has one scale and one zero for every `group` columns; the last group may be short. Codes lie
in rows of `stride` bytes.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, Values
from requant.kernels_cpu._jit import (
    BYTES,
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
from requant.kernels_cpu.casts import bfloat_bits
from requant.kernels_cpu.simd import (
    F32x8,
    F32x16,
    bits_float,
    greater,
    half_bits,
    half_value,
    largest_lane,
    lesser,
    load16,
    load_bytes16,
    rint,
    rounded_half,
    splat16,
    store,
    sum_of_lanes,
    to_float,
)

_F = np.float32
Lanes = TypeVar("Lanes", F32x8, F32x16)
#: How products are rounded, by the dtype of the scales.
ROUNDING: Final = {"F32": 0, "F16": 1, "BF16": 2}
#: Clips that are tried: the range of a group times 1, 0.98, … 0.4.
_CLIPS: Final = 31
_CLIP_STEP: Final = 0.02
#: And for zeros near the first one: times 1, 0.9, … 0.5, each refined.
_TURNS: Final = 6
_TURN: Final = 0.1
#: Refining is worth its time below this multiple of the least error so far.
_HOPE: Final = 1.5


@inlined
def rounded(x: Lanes, rounding: int) -> Lanes:
    """To the nearest number of a dtype of `ROUNDING`."""
    if rounding == 1:
        return rounded_half(x)
    if rounding == 2:
        return bits_float(bfloat_bits(x) << 16)
    return x


@kernel(BYTES, FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, NUMBER, OUT_FLOATS)
def scale_codes(
    codes: Bytes, scales: Floats, zeros: Floats, columns: int, stride: int, group: int, rounding: int, out: Floats
) -> None:
    """(code - zero) * scale, rounded; sixteen at a time within a group."""
    groups = (columns + group - 1) // group
    for row in range(out.size // columns):
        for k in range(groups):
            scale, zero = scales[row * groups + k], zeros[row * groups + k]
            first, last = k * group, min((k + 1) * group, columns)
            at, place = row * stride, row * columns
            for i in range(first, last - 15, 16):
                x = (to_float(load_bytes16(codes, at + i)) - zero) * scale
                store(out, place + i, rounded(x, rounding))
            for i in range(last - (last - first) % 16, last):
                x = splat16((_F(codes[at + i]) - zero) * scale)
                out[place + i] = _first(rounded(x, rounding))


@kernel(BYTES, FLOATS, FLOATS, INTS, NUMBER, NUMBER, NUMBER, OUT_FLOATS)
def scale_ordered_codes(
    codes: Bytes, scales: Floats, zeros: Floats, group_of: Ints, stride: int, groups: int, rounding: int, out: Floats
) -> None:
    """(code - zero) * scale, when `group_of` lists the group of each column."""
    columns = group_of.size
    for row in range(out.size // columns):
        at, place = row * stride, row * columns
        for i in range(columns):
            k = row * groups + group_of[i]
            out[place + i] = (_F(codes[at + i]) - zeros[k]) * scales[k]
        for i in range(0, columns - 15, 16):
            store(out, place + i, rounded(load16(out, place + i), rounding))
        for i in range(columns - columns % 16, columns):
            out[place + i] = _first(rounded(splat16(out[place + i]), rounding))


@kernel(BYTES, FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, NUMBER, OUT_FLOATS)
def scale_offset_codes(
    codes: Bytes, scales: Floats, offsets: Floats, columns: int, stride: int, group: int, rounding: int, out: Floats
) -> None:
    """code * scale + offset, rounded once more to the dtype of the scales."""
    groups = (columns + group - 1) // group
    for row in range(out.size // columns):
        for k in range(groups):
            scale, offset = scales[row * groups + k], offsets[row * groups + k]
            first, last = k * group, min((k + 1) * group, columns)
            at, place = row * stride, row * columns
            for i in range(first, last - 15, 16):
                x = to_float(load_bytes16(codes, at + i)) * scale + offset
                store(out, place + i, rounded(x, rounding))
            for i in range(last - (last - first) % 16, last):
                x = splat16(_F(codes[at + i]) * scale + offset)
                out[place + i] = _first(rounded(x, rounding))


def dequantize(codes: Codes, group: int, rounding: str, out: Values) -> None:
    """The values of codes whose rows may be longer than those of `out`: (code - zero) * scale, or with an offset.

    group: columns that share a scale, all if -1; what `codes.groups` says counts more. rounding: dtype of products.
    """
    columns, groups = out.shape[1], codes.scales.shape[1]
    flat = codes.codes.reshape(-1)
    scales, zeros = codes.scales.reshape(-1), codes.zeros.reshape(-1)
    stride, target = codes.codes.shape[1], out.reshape(-1)
    if out.size and codes.groups is not None:
        scale_ordered_codes(flat, scales, zeros, codes.groups, stride, groups, ROUNDING[rounding], target)
    elif out.size:
        size = columns if group < 0 else group
        if codes.offsets is None:
            scale_codes(flat, scales, zeros, columns, stride, size, ROUNDING[rounding], target)
        else:
            offsets = codes.offsets.reshape(-1)
            scale_offset_codes(flat, scales, offsets, columns, stride, size, ROUNDING[rounding], target)


def scales_of(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Scales as they are stored in F16, BF16 (its bits) or F32, in float32 and in C order."""
    if dtype == "BF16":
        return (np.ascontiguousarray(stored).astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(stored, np.float32)


def stored_scales(scales: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """The inverse of `scales_of`; what is between two values goes to the nearest."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(scales).view(np.uint32)
        return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
    return scales.astype(np.float16 if dtype == "F16" else np.float32)


@inlined
def _first(x: F32x16) -> np.float32:
    """Lane 0 of a vector whose lanes are all alike."""
    return largest_lane(x)


@inlined
def _storable(scale: np.float32, largest: np.float32, rounding: int) -> Any:
    """A scale as its dtype stores it: positive, and small enough for `largest` * scale to be finite there."""
    if rounding == 1:  # a little less than 65504 / largest, which might be rounded up
        return half_value(half_bits(max(min(scale, _F(65470) / largest), _F(2.0**-24))))
    return max(min(scale, _F(3e38) / largest), _F(2.0**-126))


@inlined
def _cost(xs: Floats, ws: Floats, length: int, scale: np.float32, zero: np.float32, top: np.float32) -> Any:
    """What rounding to this scale and zero costs: the weighted squared error."""
    inverse = _F(1) / scale
    total = splat16(_F(0))
    for i in range(0, length, 16):
        x, w = load16(xs, i), load16(ws, i)
        miss = x - greater(lesser(rint(x * inverse), top - zero), -zero) * scale
        total = total + w * miss * miss
    return sum_of_lanes(total)


@inlined
def _error(xs: Floats, ws: Floats, length: int, scale: np.float32, zero: np.float32, top: np.float32) -> Any:
    """The same, and the sums from which the best scale for the same codes follows."""
    inverse = _F(1) / scale
    total, moment, square = splat16(_F(0)), splat16(_F(0)), splat16(_F(0))
    for i in range(0, length, 16):
        x, w = load16(xs, i), load16(ws, i)
        level = greater(lesser(rint(x * inverse), top - zero), -zero)
        miss, weighted = x - level * scale, w * level
        total = total + w * miss * miss
        moment = moment + weighted * x
        square = square + weighted * level
    return sum_of_lanes(total), sum_of_lanes(moment), sum_of_lanes(square)


@inlined
def _refined(xs: Floats, ws: Floats, length: int, scale: Any, zero: Any, top: Any, largest: Any, rounding: int) -> Any:
    """The scale near `scale` that costs least with the codes it gives, and what it costs."""
    error, moment, square = _error(xs, ws, length, scale, zero, top)
    for _ in range(4):
        if square <= 0 or moment <= 0:
            break
        other = _storable(moment / square, largest, rounding)
        found, moment, square = _error(xs, ws, length, other, zero, top)
        if not found < error:
            break
        error, scale = found, other
    return error, scale


@inlined
def _search(
    xs: Floats, ws: Floats, length: int, low: Any, high: Any, bits: int, symmetric: int, lowest: Any, rounding: int
) -> Any:
    """The scale and zero (>= `lowest`) of one group whose values reach from `low` <= 0 to `high` >= 0."""
    top = _F((1 << bits) - 1)
    middle = _F(1 << (bits - 1))
    if low == high:  # nothing but zeros: any scale will do
        return _storable(_F(2) / top, top, rounding), middle
    if symmetric:
        zero, largest, widest = middle, middle, max(-low, high) / (middle - _F(1))
    else:
        widest, largest = (high - low) / top, top
        zero = min(max(_F(np.rint(-low / widest)), lowest), top) if widest > 0 else middle
    scale = _storable(widest, largest, rounding)
    best = _cost(xs, ws, length, scale, zero, top)
    for clip in range(1, _CLIPS):
        other = _storable(widest * (_F(1) - _F(_CLIP_STEP) * _F(clip)), largest, rounding)
        error = _cost(xs, ws, length, other, zero, top)
        if error < best:
            best, scale = error, other
    best, scale = _refined(xs, ws, length, scale, zero, top, largest, rounding)
    if not symmetric:  # other zeros, each with the best clip for the range it leaves on either side
        middle = zero
        for shift in (-1, 1, -2, 2):
            near = middle + _F(shift)
            if near < lowest or near > top:
                continue
            widest = max(high / max(top - near, _F(0.5)), -low / max(near, _F(0.5)))
            for clip in range(_TURNS):
                start = _storable(widest * (_F(1) - _F(_TURN) * _F(clip)), largest, rounding)
                if _cost(xs, ws, length, start, near, top) < best * _F(_HOPE):
                    error, other = _refined(xs, ws, length, start, near, top, largest, rounding)
                    if error < best:
                        best, scale, zero = error, other, near
    return scale, zero


@kernel(FLOATS, FLOATS, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, OUT_BYTES, OUT_FLOATS, OUT_FLOATS)
def quantize(
    values: Floats,
    importance: Floats,
    columns: int,
    repeat: int,
    group: int,
    bits: int,
    symmetric: int,
    lowest: int,
    rounding: int,
    codes: Bytes,
    scales: Floats,
    zeros: Floats,
) -> None:
    """Round to nearest with the clip of each group that makes the weighted squared error least.

    importance: of one row (`repeat` is 1) or of every row. lowest: of the zeros, where they are not all alike.
    rounding: of the scales, by dtype (`ROUNDING`).
    """
    padded = (group + 15) // 16 * 16
    xs, ws = np.zeros(padded, np.float32), np.zeros(padded, np.float32)
    groups = (columns + group - 1) // group
    top = _F((1 << bits) - 1)
    for row in range(values.size // columns):
        for k in range(groups):
            at, length = row * columns + k * group, min(group, columns - k * group)
            weight = k * group if repeat == 1 else at
            low, high = _F(0), _F(0)
            for i in range(padded):
                inside = i < length
                x = values[at + i] if inside else _F(0)
                xs[i], ws[i] = x, importance[weight + i] if inside else _F(0)
                low, high = min(low, x), max(high, x)
            scale, zero = _search(xs, ws, padded, low, high, bits, symmetric, _F(lowest), rounding)
            scales[row * groups + k], zeros[row * groups + k] = scale, zero
            inverse = _F(1) / scale
            for i in range(length):
                codes[at + i] = np.uint8(min(max(np.rint(xs[i] * inverse) + zero, _F(0)), top))


def round_to_groups(
    values: Values, importance: Values | None, group: int, bits: int, symmetric: bool, scale: str, lowest: int = 0
) -> Codes:
    """Values, which must be finite, as integers.

    group: columns that share a scale, all if -1. scale: dtype of the scales. lowest: the smallest zero that is allowed.
    """
    rows, columns = values.shape
    size = columns if group < 0 else group
    groups = -(-columns // size)
    weights = np.ones(columns, np.float32) if importance is None else np.ascontiguousarray(importance, np.float32)
    if weights.shape not in (values.shape, values.shape[1:]):
        raise ValueError(f"an importance of shape {weights.shape} does not fit values of shape {values.shape}")
    codes = np.empty((rows, columns), np.uint8)
    scales, zeros = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.float32)
    if values.size:
        quantize(
            np.ascontiguousarray(values).reshape(-1),
            weights.reshape(-1),
            columns,
            weights.ndim,
            size,
            bits,
            int(symmetric),
            lowest,
            ROUNDING[scale],
            codes.reshape(-1),
            scales.reshape(-1),
            zeros.reshape(-1),
        )
    return Codes(codes, scales, zeros)


class Regrouped(NamedTuple):
    """Codes [rows, columns] with scales and zeros, or offsets, [rows, groups]."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.float32]
    offsets: NDArray[np.float32] | None


def regrouped(codes: Codes, bits: int, symmetric: bool, group: int, groups: int) -> Regrouped:
    """Integers as another encoding stores them.

    bits, symmetric, group: of that encoding; groups: how many a row has there. Raises ValueError when a level does
    not fit: `Integers.takes` knows before.
    """
    columns, numbers, top = codes.codes.shape[1], codes.codes, (1 << bits) - 1
    scales, zeros, offsets = codes.scales, codes.zeros, codes.offsets
    if scales.shape[1] != groups:
        starts = np.arange(groups) * (columns if group < 0 else group)
        source = codes.groups[starts] if codes.groups is not None else starts // (columns // scales.shape[1])
        scales, zeros = scales[:, source], zeros[:, source] if offsets is None else zeros
        offsets = None if offsets is None else offsets[:, source]
    if symmetric:
        middle = np.float32(1 << (bits - 1))
        if (zeros != middle).any():
            moved = numbers.astype(np.int16) + _by_column(middle - zeros, codes, columns, group)
            if ((moved < 0) | (moved > top)).any():
                raise ValueError(f"a level beyond the range of {bits} bits")
            numbers = moved.astype(np.uint8)
        zeros = np.full_like(zeros, middle)
    if (numbers > top).any() or (zeros > top).any():
        raise ValueError(f"a code or zero beyond {bits} bits")
    return Regrouped(numbers, scales, zeros, offsets)


def _by_column(numbers: NDArray[np.float32], codes: Codes, columns: int, group: int) -> NDArray[np.int16]:
    """A number of each group repeated for its columns."""
    if codes.groups is not None and numbers.shape[1] == codes.scales.shape[1]:
        return numbers.astype(np.int16)[:, codes.groups]
    size = columns if group < 0 else group
    return np.repeat(numbers.astype(np.int16), size, axis=1)[:, :columns]
