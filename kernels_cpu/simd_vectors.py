"""The vector types behind simd.py, and what Python's operators mean for them.

Operators take two vectors of one type, or a vector and a scalar (a float32 or an integer), which is spread.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

FLOAT: Final = ir.FloatType()
INT: Final = ir.IntType(32)
BYTE: Final = ir.IntType(8)
BIT: Final = ir.IntType(1)


class Vector(types.Type):
    """The numba type of one LLVM vector."""

    def __init__(self, name: str, element: ir.Type, lanes: int) -> None:
        self.llvm = ir.VectorType(element, lanes)
        self.lanes = lanes
        super().__init__(name)


F32x8: Final = Vector("F32x8", FLOAT, 8)
F32x16: Final = Vector("F32x16", FLOAT, 16)
F32x32: Final = Vector("F32x32", FLOAT, 32)
I32x8: Final = Vector("I32x8", INT, 8)
I32x16: Final = Vector("I32x16", INT, 16)
I32x32: Final = Vector("I32x32", INT, 32)
Mask8: Final = Vector("Mask8", BIT, 8)
Mask16: Final = Vector("Mask16", BIT, 16)
Mask32: Final = Vector("Mask32", BIT, 32)

FLOATS: Final = {8: F32x8, 16: F32x16, 32: F32x32}
INTS: Final = {8: I32x8, 16: I32x16, 32: I32x32}
MASKS: Final = {8: Mask8, 16: Mask16, 32: Mask32}


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


# Scalars beside vectors


def _operand(kind: Any) -> Any:
    """The type an operand is passed as: vectors as they are, float32, and integers of any width as int64."""
    kind = types.unliteral(kind)
    if isinstance(kind, Vector) or kind == types.float32:
        return kind
    return types.int64 if isinstance(kind, types.Integer) else None


def _fits(vector: Vector, other: Any) -> bool:
    scalars = {FLOAT: (types.float32, types.int64), INT: (types.int64,), BIT: ()}[vector.llvm.element]
    return other == vector or other in scalars


def spread(builder: Any, vector: Vector, kind: Any, value: Any) -> Any:
    """`value` of numba type `kind` as a whole vector."""
    if kind == vector:
        return value
    if kind == types.int64:
        value = builder.sitofp(value, FLOAT) if vector.llvm.element == FLOAT else builder.trunc(value, INT)
    undefined = ir.Constant(vector.llvm, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT, vector.lanes), [0] * vector.lanes))


def meet(args: tuple[Any, ...]) -> tuple[Vector, list[Any]] | None:
    """The common vector type of some operands, and the types they are passed as."""
    kinds = [_operand(a) for a in args]
    vectors = [k for k in kinds if isinstance(k, Vector)]
    if not vectors or not all(k is not None and _fits(vectors[0], k) for k in kinds):
        return None
    return vectors[0], kinds


# Operators


def _operator(op: Callable[..., Any], emitters: dict[Vector, tuple[Vector, Callable[..., Any]]]) -> None:
    @infer_global(op)
    class _Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
            met = meet(args)
            if met is None or met[0] not in emitters:
                return None
            return signature(emitters[met[0]][0], *met[1])

    def lowering(vector: Vector, emit: Callable[..., Any], left: Any, right: Any) -> None:
        @lower_builtin(op, left, right)
        def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(builder, *(spread(builder, vector, k, v) for k, v in zip(sig.args, args, strict=True)))

    for vector, (_, emit) in emitters.items():
        lowering(vector, emit, vector, vector)
        for scalar in (types.float32, types.int64):
            if _fits(vector, scalar):
                lowering(vector, emit, vector, scalar)
                lowering(vector, emit, scalar, vector)


def _arithmetic(op: Callable[..., Any], floats: str | None, ints: str | None) -> None:
    emitters = {}
    for lanes in FLOATS:
        for vector, name in ((FLOATS[lanes], floats), (INTS[lanes], ints)):
            if name:
                emitters[vector] = (vector, lambda b, x, y, name=name: getattr(b, name)(x, y))
    _operator(op, emitters)


def _comparison(op: Callable[..., Any], sign: str) -> None:
    emitters = {}
    for lanes, mask in MASKS.items():
        compare = "fcmp_unordered" if sign == "!=" else "fcmp_ordered"  # as in C: only != is true of NaN
        emitters[FLOATS[lanes]] = (mask, lambda b, x, y, compare=compare: getattr(b, compare)(sign, x, y))
        emitters[INTS[lanes]] = (mask, lambda b, x, y: b.icmp_signed(sign, x, y))
    _operator(op, emitters)


def _logic(op: Callable[..., Any], name: str) -> None:
    kinds = (*INTS.values(), *MASKS.values())
    _operator(op, {kind: (kind, lambda b, x, y: getattr(b, name)(x, y)) for kind in kinds})


_arithmetic(operator.add, "fadd", "add")
_arithmetic(operator.sub, "fsub", "sub")
_arithmetic(operator.mul, "fmul", "mul")
_arithmetic(operator.truediv, "fdiv", None)
_arithmetic(operator.lshift, None, "shl")
_arithmetic(operator.rshift, None, "ashr")
for _op, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    _comparison(_op, _sign)
_logic(operator.and_, "and_")
_logic(operator.or_, "or_")
_logic(operator.xor, "xor")
