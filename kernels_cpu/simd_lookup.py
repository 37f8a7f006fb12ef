"""Lanes as tables and as indices: what searching a codebook needs beside simd.py."""

from __future__ import annotations

from typing import Any, Final

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from requant.kernels_cpu.simd import F32x8, I32x8, Mask8

_LANE: Final = ir.IntType(32)
_AVX2: Final = bool(llvmlite.binding.get_host_cpu_features().get("avx2")) and not (
    config.CPU_NAME or config.CPU_FEATURES
)


@intrinsic
def permute(typing: Any, table: Any, index: Any) -> Any:
    """Lane k is `table[index[k] & 7]`: a table of eight numbers, looked up by every lane."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if _AVX2:  # one instruction, which LLVM does not find for a variable index
            kind = ir.FunctionType(F32x8.llvm, [F32x8.llvm, I32x8.llvm])
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.permps"), args)
        wrapped = builder.and_(args[1], ir.Constant(I32x8.llvm, [7] * 8))
        result = ir.Constant(F32x8.llvm, ir.Undefined)
        for k in range(8):
            lane = ir.Constant(_LANE, k)
            picked = builder.extract_element(args[0], builder.extract_element(wrapped, lane))
            result = builder.insert_element(result, picked, lane)
        return result

    return F32x8(F32x8, I32x8), emit


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


@intrinsic
def lane(typing: Any, value: Any, index: Any) -> Any:
    """One lane of I32x8, chosen at run time."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        picked = builder.extract_element(args[0], builder.trunc(args[1], _LANE))
        return builder.zext(picked, ir.IntType(64))

    return types.int64(I32x8, types.int64), emit
