"""IEEE halves to float32 and back, in instructions where the processor has them and in integers where it has not.

LLVM turns what a processor has no instruction for into calls of functions that no library in the process need have,
and gives up the whole process where there is none.
"""

from __future__ import annotations

from typing import Any, Final

import llvmlite.binding as llvm
from llvmlite import ir

from requant.kernels_cpu.cache import has

#: x86-64 has them since F16C, 64-bit Arm always.
NATIVE: Final = has("f16c") or llvm.get_default_triple().startswith(("aarch64", "arm64"))

WORD: Final = ir.IntType(16)
_INT: Final = ir.IntType(32)


def _like(value: Any, element: ir.Type) -> ir.Type:
    """The type of `element` with as many lanes as `value`, which may be a single number."""
    return ir.VectorType(element, value.type.count) if isinstance(value.type, ir.VectorType) else element


def _constant(kind: ir.Type, number: float) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def widened(builder: Any, bits: Any) -> Any:
    """Halves, as their bits, to float32."""
    if NATIVE:
        return builder.fpext(builder.bitcast(bits, _like(bits, ir.HalfType())), _like(bits, ir.FloatType()))
    ints, floats = _like(bits, _INT), _like(bits, ir.FloatType())

    def number(n: int) -> ir.Constant:
        return _constant(ints, n)

    wide = builder.zext(bits, ints)
    size = builder.shl(builder.and_(wide, number(0x7FFF)), number(13))  # the exponent is 112 too small
    sign = builder.shl(builder.and_(wide, number(0x8000)), number(16))
    finite = builder.bitcast(builder.fmul(builder.bitcast(size, floats), _constant(floats, 2.0**112)), ints)
    quiet = builder.select(builder.icmp_unsigned(">", size, number(0x0F800000)), number(0x7FC00000), number(0x7F800000))
    special = builder.icmp_unsigned(">=", size, number(0x0F800000))
    return builder.bitcast(builder.or_(builder.select(special, builder.or_(size, quiet), finite), sign), floats)


def narrowed(builder: Any, value: Any) -> Any:
    """Float32 to the nearest halves, ties to even, as their bits."""
    words = _like(value, WORD)
    if NATIVE:
        return builder.bitcast(builder.fptrunc(value, _like(value, ir.HalfType())), words)
    ints, floats = _like(value, _INT), value.type

    def number(n: int) -> ir.Constant:
        return _constant(ints, n)

    bits = builder.bitcast(value, ints)
    size = builder.and_(bits, number(0x7FFFFFFF))
    sign = builder.and_(builder.lshr(bits, number(16)), number(0x8000))
    odd = builder.and_(builder.lshr(size, number(13)), number(1))
    rounded = builder.add(builder.add(size, number(0xFFF - 0x38000000)), odd)
    normal = builder.lshr(rounded, number(13))
    half = _constant(floats, 0.5)  # whose last bit is the least half
    small = builder.sub(builder.bitcast(builder.fadd(builder.bitcast(size, floats), half), ints), number(0x3F000000))
    fraction = builder.and_(builder.lshr(size, number(13)), number(0x3FF))
    nan = builder.icmp_unsigned(">", size, number(0x7F800000))
    large = builder.select(nan, builder.or_(fraction, number(0x7E00)), number(0x7C00))
    found = builder.select(builder.icmp_unsigned("<", size, number(0x38800000)), small, normal)
    found = builder.select(builder.icmp_unsigned(">=", size, number(0x47800000)), large, found)
    return builder.trunc(builder.or_(found, sign), words)
