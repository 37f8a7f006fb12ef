"""Room for work inside kernels, on the stack.

numba takes arrays from its own runtime, which counts who uses them: code with such arrays cannot be called without
numba, and threads that ask for room at once wait for each other.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

_BYTE: Final = ir.IntType(8)
_LINE: Final = 64  # bytes of a line of the cache


def _making(cleared: bool) -> Any:
    @intrinsic(prefer_literal=True)
    def function(typing: Any, count: Any, dtype: Any) -> Any:
        if not isinstance(count, types.IntegerLiteral):
            return None
        array = types.Array(dtype.instance_type, 1, "C")

        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            item = context.get_data_type(array.dtype)
            with builder.goto_entry_block():  # numba's own helper would clear it, with every call
                data = builder.alloca(ir.ArrayType(item, count.literal_value))
            data.align = _LINE
            size = context.get_abi_sizeof(item)
            if cleared:
                nbytes = ir.Constant(context.get_value_type(types.intp), size * count.literal_value)
                cgutils.memset(builder, builder.bitcast(data, _BYTE.as_pointer()), nbytes, 0)
            made = context.make_array(array)(context, builder)
            shape, strides = ([context.get_constant(types.intp, n)] for n in (count.literal_value, size))
            first, each = builder.bitcast(data, item.as_pointer()), context.get_constant(types.intp, size)
            populate_array(made, first, shape, strides, each, meminfo=None)
            return made._getvalue()

        return array(count, dtype), emit

    return function


room: Final = _making(cleared=False)
zeros: Final = _making(cleared=True)
