"""What is found along sixteen rows at once, in registers: a tree that folds two rows into one at every step."""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from requant.kernels_cpu.simd import address_of, shuffled
from requant.kernels_cpu.simd_vectors import F32x16

#: Which lanes of two vectors face which at each step: neighbours first, and last the quarters of a register, as
#: processors shuffle both in one instruction. At the end lane k is that of row k.
_FACING: Final = (
    [[4 * q + 16 * row + i for q in range(4) for i in two for row in (0, 1)] for two in ((0, 1), (2, 3))],
    [[4 * q + 16 * row + i for q in range(4) for row in (0, 1) for i in two] for two in ((0, 1), (2, 3))],
    [[4 * q + 16 * row + i for row in (0, 1) for q in two for i in range(4)] for two in ((0, 1), (2, 3))],
    [[4 * q + 16 * row + i for row in (0, 1) for q in two for i in range(4)] for two in ((0, 2), (1, 3))],
)


def _extreme(builder: Any, sign: str, left: Any, right: Any) -> Any:
    return builder.select(builder.fcmp_ordered(sign, left, right), left, right)


def _folded(builder: Any, rows: list[Any], step: int) -> tuple[Any, Any]:
    """The smallest and the largest of each of 2**step rows, so far as lanes go."""
    if step == 0:
        return rows[0]
    middle = len(rows) // 2
    before, after = (_folded(builder, part, step - 1) for part in (rows[:middle], rows[middle:]))
    found = []
    for sign, left, right in zip("<>", before, after, strict=True):
        found.append(_extreme(builder, sign, *(shuffled(builder, left, right, order) for order in _FACING[step - 1])))
    return found[0], found[1]


@intrinsic
def extremes_of_rows(typing: Any, source: Any, start: Any) -> Any:
    """The smallest and the largest of each of sixteen rows of 32 numbers; of zeros of both signs, either."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array, start = args
        rows = []
        for k in range(16):
            places = (builder.add(start, ir.Constant(start.type, 32 * k + half)) for half in (0, 16))
            pointers = [address_of(context, builder, sig.args[0], array, at, F32x16.llvm) for at in places]
            left, right = (builder.load(pointer, align=1) for pointer in pointers)
            rows.append(tuple(_extreme(builder, sign, left, right) for sign in "<>"))
        return context.make_tuple(builder, sig.return_type, _folded(builder, rows, 4))

    return types.UniTuple(F32x16, 2)(source, types.intp), emit
