"""Lanes as tables and as indices: what searching a codebook needs beside simd.py."""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from requant.kernels_cpu.cache import has
from requant.kernels_cpu.simd import address_of
from requant.kernels_cpu.simd_vectors import FLOATS, INTS, F32x8, F32x16, I32x8, I32x16, Mask8, spread

_LANE: Final = ir.IntType(32)
_BYTE: Final = ir.IntType(8)
_BYTES: Final = ir.VectorType(_BYTE, 32)
#: Bytes of `byte_tables`.
_LOW: Final = list(range(16))
_HIGH: Final = list(range(16, 32))
#: Where they lie in sixteen words.
_SPLIT: Final = [*range(0, 32, 2), *range(1, 32, 2)]
_AVX2: Final = has("avx2")
_AVX512: Final = has("avx512f")


@intrinsic
def permute(typing: Any, table: Any, index: Any) -> Any:
    """Lane k is `table[index[k]]`: a table of eight or sixteen numbers, looked up by every lane.

    Of an index the lowest three or four bits count. Sixteen lanes may look up a table of eight.
    """
    return _looking_up(table, index, _permuted)


@intrinsic
def permute_four(typing: Any, table: Any, index: Any) -> Any:
    """The same with a table of four numbers, which are in the table twice; of an index the lowest two bits count."""
    return _looking_up(table, index, _permuted_four) if table == F32x8 else None


def _looking_up(table: Any, index: Any, emit_lookup: Any) -> Any:
    fits = index in INTS.values() and table in (F32x8, F32x16) and table.lanes <= index.lanes <= 16
    if not fits:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit_lookup(builder, table.lanes, index.lanes, *args)

    return FLOATS[index.lanes](table, index), emit


def _called(builder: Any, instruction: str, table: Any, index: Any) -> Any:
    """One instruction, which LLVM does not find for a variable index."""
    kind = ir.FunctionType(table.type, [table.type, index.type])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{instruction}")
    return builder.call(function, [table, index])


def _in_halves(builder: Any, index: Any, look_up: Any) -> Any:
    parts = [look_up(_picked(builder, index, half)) for half in ([*range(8)], [*range(8, 16)])]
    return builder.shuffle_vector(*parts, _order([*range(16)]))


def _permuted(builder: Any, lanes: int, wide: int, table: Any, index: Any) -> Any:
    """lanes: of the table; wide: of the index."""
    if wide == 16 and _AVX512:
        twice = table if lanes == 16 else _picked(builder, table, [*range(8), *range(8)])
        return _called(builder, "avx512.permvar.sf.512", twice, index)
    if lanes == 16:
        tables = [_picked(builder, table, half) for half in ([*range(8)], [*range(8, 16)])]

        def look_up(few: Any) -> Any:
            low, high = (_permuted(builder, 8, 8, half, few) for half in tables)
            upper = builder.icmp_signed("!=", builder.and_(few, ir.Constant(few.type, [8] * 8)), few.type(None))
            return builder.select(upper, high, low)

        return _in_halves(builder, index, look_up)
    if wide == 16:
        return _in_halves(builder, index, lambda few: _permuted(builder, 8, 8, table, few))
    return _called(builder, "avx2.permps", table, index) if _AVX2 else _one_by_one(builder, table, index, 7)


def _permuted_four(builder: Any, lanes: int, wide: int, table: Any, index: Any) -> Any:
    if wide == 16 and _AVX512:
        twice = _picked(builder, table, [*range(8), *range(8)])
        return _called(builder, "avx512.vpermilvar.ps.512", twice, index)
    if wide == 16:
        return _in_halves(builder, index, lambda few: _permuted_four(builder, 8, 8, table, few))
    return _called(builder, "avx.vpermilvar.ps.256", table, index) if _AVX2 else _one_by_one(builder, table, index, 3)


def _one_by_one(builder: Any, table: Any, index: Any, bits: int) -> Any:
    wrapped = builder.and_(index, ir.Constant(index.type, [bits] * 8))
    result = ir.Constant(table.type, ir.Undefined)
    for k in range(8):
        lane = ir.Constant(_LANE, k)
        picked = builder.extract_element(table, builder.extract_element(wrapped, lane))
        result = builder.insert_element(result, picked, lane)
    return result


@intrinsic
def mask_of(typing: Any, number: Any) -> Any:
    """The mask whose lane k is bit k of an integer."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(builder.trunc(args[0], ir.IntType(8)), Mask8.llvm)

    return Mask8(types.int64), emit


@intrinsic
def bytes_of(typing: Any, number: Any) -> Any:
    """The eight bytes of an integer, lowest first."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.VectorType(ir.IntType(8), 8)), I32x8.llvm)

    return I32x8(types.uint64), emit


def _repeating(results: Any) -> Any:
    @intrinsic
    def function(typing: Any, array: Any, index: Any) -> Any:
        result = results[array.dtype]

        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            stored = context.get_data_type(array.dtype)
            value = builder.load(address_of(context, builder, sig.args[0], *args, stored), align=1)
            value = value if array.dtype == types.float32 else builder.zext(value, result.llvm.element)
            return spread(builder, result, None, value)

        return result(array, types.intp), emit

    return function


#: Eight or sixteen times one number of an array; like other loads they check no bounds, and take no negative index.
repeated8: Final = _repeating({types.float32: F32x8, types.uint16: I32x8})
repeated: Final = _repeating({types.float32: F32x16, types.uint16: I32x16})


@intrinsic
def lowest_bit(typing: Any, number: Any) -> Any:
    """Which bit of a number other than zero is its lowest one."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), emit


@intrinsic
def highest_bit(typing: Any, number: Any) -> Any:
    """Which bit of a number other than zero is its highest one."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        before = builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1))
        return builder.sub(ir.Constant(before.type, 63), before)

    return types.int64(types.int64), emit


@intrinsic
def bits_set(typing: Any, number: Any) -> Any:
    """How many bits of a number are set."""
    return types.int64(types.int64), lambda context, builder, sig, args: builder.ctpop(args[0])


@intrinsic
def byte_tables(typing: Any, words: Any) -> Any:
    """Sixteen 16-bit numbers as the tables of their bytes: the low ones in four lanes, the high ones in the others."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.trunc(args[0], ir.VectorType(ir.IntType(16), 16))
        return builder.bitcast(_picked(builder, builder.bitcast(words, _BYTES), _SPLIT), I32x8.llvm)

    return I32x8(I32x16), emit


@intrinsic
def look_up_words(typing: Any, tables: Any, codes: Any, index: Any, high_first: Any, out: Any, place: Any) -> Any:
    """Sixteen bytes of 4-bit codes to 32 numbers of `byte_tables`; a byte's first code is in its low or high bits."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        tables, array, index, high_first, out, place = args
        half = ir.VectorType(_BYTE, 16)
        stored = builder.load(address_of(context, builder, sig.args[1], array, index, half), align=1)
        low = builder.and_(stored, ir.Constant(half, [15] * 16))
        high = builder.lshr(stored, ir.Constant(half, [4] * 16))
        first, second = builder.select(high_first, high, low), builder.select(high_first, low, high)
        code = builder.shuffle_vector(first, second, _order([k // 2 + 16 * (k % 2) for k in range(32)]))
        tables = builder.bitcast(tables, _BYTES)
        parts = [_bytes_at(builder, _picked(builder, tables, [*each, *each]), code) for each in (_LOW, _HIGH)]
        numbers = builder.shuffle_vector(*parts, _order([k // 2 + 32 * (k % 2) for k in range(64)]))
        builder.store(numbers, address_of(context, builder, sig.args[4], out, place, numbers.type), align=1)
        return context.get_dummy_value()

    return types.void(tables, codes, types.intp, types.boolean, out, types.intp), emit


def _order(lanes: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_LANE, len(lanes)), lanes)


def _picked(builder: Any, value: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(value, value, _order(lanes))


def _bytes_at(builder: Any, table: Any, code: Any) -> Any:
    """Byte k is `table[code[k]]`; the table is there twice, once for each half."""
    if _AVX2:
        kind = ir.FunctionType(_BYTES, [_BYTES, _BYTES])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.pshuf.b"), [table, code]
        )
    result = ir.Constant(_BYTES, ir.Undefined)
    for k in range(32):
        lane = ir.Constant(_LANE, k)
        picked = builder.extract_element(table, builder.extract_element(code, lane))
        result = builder.insert_element(result, picked, lane)
    return result
