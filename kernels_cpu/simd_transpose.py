"""Eight rows of eight numbers to eight columns, in registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from requant.kernels_cpu.simd import address_of, shuffled
from requant.kernels_cpu.simd_vectors import F32x8


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of eight rows: pairs of rows, then pairs of pairs, then halves."""
    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    twos = [shuffled(builder, rows[k], rows[k + 1], order) for k in (0, 2, 4, 6) for order in (low, high)]
    low, high = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    fours = [shuffled(builder, twos[a], twos[a + 2], order) for a in (0, 1, 4, 5) for order in (low, high)]
    low, high = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
    return [shuffled(builder, fours[a], fours[a + 4], order) for order in (low, high) for a in range(4)]


@intrinsic
def transpose(typing: Any, source: Any, start: Any, stride: Any, target: Any, place: Any, step: Any) -> Any:
    """Eight rows of eight float32, `source[start + stride * k + i]`, to `target[place + step * i + k]`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array, start, stride, out, place, step = args
        rows = []
        for k in range(8):
            at = builder.add(start, builder.mul(stride, ir.Constant(start.type, k)))
            rows.append(builder.load(address_of(context, builder, sig.args[0], array, at, F32x8.llvm)))
            rows[-1].align = 1
        for i, column in enumerate(_transposed(builder, rows)):
            at = builder.add(place, builder.mul(step, ir.Constant(place.type, i)))
            builder.store(column, address_of(context, builder, sig.args[3], out, at, F32x8.llvm)).align = 1
        return context.get_dummy_value()

    n = types.intp
    return types.void(source, n, n, target, n, n), emit


@intrinsic
def transpose_words(typing: Any, source: Any, start: Any, target: Any, place: Any, step: Any) -> Any:
    """Eight rows of sixteen uint16, `source[start + 16 * k + i]`, to `target[place + step * i + k]`."""
    row, half = ir.VectorType(ir.IntType(16), 16), ir.VectorType(ir.IntType(16), 8)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array, start, out, place, step = args
        rows = []
        for k in range(8):
            at = builder.add(start, ir.Constant(start.type, 16 * k))
            rows.append(builder.load(address_of(context, builder, sig.args[0], array, at, row), align=1))
        low = [number + side for number in (0, 1, 2, 3, 8, 9, 10, 11) for side in (0, 16)]
        high = [number + 4 for number in low]
        for _ in range(3):  # rows by turns, thrice, in each half: as a deck of 64 cards is turned
            rows = [shuffled(builder, rows[k], rows[k + 4], order) for k in range(4) for order in (low, high)]
        for i in range(16):
            column = shuffled(builder, rows[i % 8], rows[i % 8], list(range(i // 8 * 8, i // 8 * 8 + 8)))
            at = builder.add(place, builder.mul(step, ir.Constant(place.type, i)))
            builder.store(column, address_of(context, builder, sig.args[2], out, at, half), align=1)
        return context.get_dummy_value()

    n = types.intp
    return types.void(source, n, target, n, n), emit


@intrinsic
def transpose_rows(typing: Any, source: Any, starts: Any, first: Any, offset: Any, target: Any, place: Any) -> Any:
    """Eight rows of eight float32, `source[starts[first + k] + offset + i]`, to `target[place + 16 * i + k]`.

    starts: int64 indices of the rows.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array, starts, first, offset, out, place = args
        rows = []
        for k in range(8):
            at = builder.add(first, ir.Constant(first.type, k))
            start = builder.load(address_of(context, builder, sig.args[1], starts, at, first.type))
            row = address_of(context, builder, sig.args[0], array, builder.add(start, offset), F32x8.llvm)
            rows.append(builder.load(row))
            rows[-1].align = 1
        for i, column in enumerate(_transposed(builder, rows)):
            at = builder.add(place, ir.Constant(place.type, 16 * i))
            builder.store(column, address_of(context, builder, sig.args[4], out, at, F32x8.llvm)).align = 1
        return context.get_dummy_value()

    n = types.intp
    return types.void(source, starts, n, n, target, n), emit
