"""The one way a kernel is compiled, and where the compiled code is kept.

A kernel is compiled on its first call, for exactly one signature: inputs are declared read-only and unaligned, which
every contiguous array converts to, so that a mapped file does not cost a second compilation.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.core import config
from numpy.typing import NDArray

from requant.kernels_cpu import on_compile
from requant.kernels_cpu.cache import folder

F = TypeVar("F", bound=Callable[..., Any])

_EXACT: Final[dict[str, Any]] = {"nogil": True, "error_model": "numpy", "fastmath": False}
#: A piece is only ever called by compiled code.
_PIECE: Final[dict[str, Any]] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _input(dtype: types.Type) -> types.Array:
    return types.Array(dtype, 1, "C", readonly=True, aligned=False)


def _output(dtype: types.Type) -> types.Array:
    return types.Array(dtype, 1, "C", readonly=False, aligned=False)


# Argument types of kernels: contiguous one-dimensional arrays, outputs last.
FLOATS: Final = _input(types.float32)
DOUBLES: Final = _input(types.float64)
BYTES: Final = _input(types.uint8)
WORDS: Final = _input(types.uint16)
WORDS32: Final = _input(types.uint32)
WORDS64: Final = _input(types.uint64)
INTS: Final = _input(types.int32)
INTS64: Final = _input(types.int64)
OUT_FLOATS: Final = _output(types.float32)
OUT_DOUBLES: Final = _output(types.float64)
OUT_BYTES: Final = _output(types.uint8)
OUT_WORDS: Final = _output(types.uint16)
OUT_INTS: Final = _output(types.int32)
OUT_INTS64: Final = _output(types.int64)
OUT_WORDS32: Final = _output(types.uint32)
OUT_WORDS64: Final = _output(types.uint64)
NUMBER: Final = types.int64

# The same arrays in annotations.
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint16]
Words32 = NDArray[np.uint32]
Words64 = NDArray[np.uint64]
Ints = NDArray[np.int32]
Ints64 = NDArray[np.int64]


class Kernel:
    """A function compiled on its first call; a call takes arrays that are contiguous and of the declared dtypes."""

    def __init__(self, function: Callable[..., None], signature: tuple[Any, ...]) -> None:
        self.function = function
        self._signature = types.void(*signature)
        self._compiled: Callable[..., None] | None = None
        self._lock = threading.Lock()
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> None:
        """Run it; the global interpreter lock is free meanwhile."""
        (self._compiled or self._compile())(*arguments)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    def is_cold(self) -> bool:
        """Whether the first call will have to compile, rather than load what an earlier process compiled."""
        stem = self.function.__module__.rsplit(".", 1)[-1]
        return self._compiled is None and not any(folder().glob(f"*/{stem}.{self.name}-*.nbi"))

    def lowered(self) -> tuple[str, list[str], str]:
        """Compile it as `requant.kernels_cpu.kept.keep` takes it: its symbol, its arguments, and LLVM's text."""
        self._tell()
        dispatcher = numba.njit(**_PIECE, **_EXACT)(self.function)
        dispatcher.compile(self._signature.args)
        ((key, compiled),) = dispatcher.overloads.items()
        arguments = [str(a.dtype) if isinstance(a, types.Array) else "integer" for a in key]
        return compiled.fndesc.llvm_func_name, arguments, dispatcher.inspect_llvm(key)

    def _tell(self) -> None:
        for tell in on_compile:
            tell(self.name)

    def _compile(self) -> Callable[..., None]:
        with self._lock:
            if self._compiled is None:
                if self.is_cold():
                    self._tell()
                dispatcher = _dispatcher(self.function)
                dispatcher.compile(self._signature.args)
                dispatcher.disable_compile()
                self._compiled = dispatcher
            return self._compiled


#: numba reads where its cache is from a setting of the whole process, twice, while it decorates.
_decorating = threading.Lock()


def _dispatcher(function: Callable[..., None]) -> Any:
    with _decorating:
        before, config.CACHE_DIR = config.CACHE_DIR, str(folder())  # type: ignore[attr-defined]
        try:
            return numba.njit(cache=True, **_EXACT)(function)
        finally:
            config.CACHE_DIR = before  # type: ignore[attr-defined]


def kernel(*signature: Any) -> Callable[[Callable[..., None]], Kernel]:
    """Compile for bit-exact results: no fastmath, no contraction, cached on disk.

    Kernels release the GIL and use one thread: `requant.execution` owns the only
    thread pool and hands every worker its own run of rows.
    """
    return lambda function: Kernel(function, signature)


def _named(function: F) -> F:
    """Give a piece that a factory made a name of its own, by what it was made with.

    Compiled code names a piece by its qualified name and a number that counts pieces as they are compiled, which
    differs from process to process; a piece that is called, not spliced in, is looked up by that name among all loaded
    kernels. Two pieces of one factory, one in a kernel from the cache and one in a kernel compiled now, could share
    it, and the second kernel would run the first one's piece: on arrays of another size.
    """
    made_with = []
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        if isinstance(value, np.ndarray):
            made_with.append(hashlib.sha256(value.tobytes()).hexdigest())
        else:
            made_with.append(getattr(value, "py_func", value).__qualname__ if callable(value) else repr(value))
    if made_with:
        function.__qualname__ += "_" + hashlib.sha256("\n".join(made_with).encode()).hexdigest()[:16]
    return function


def inlined(function: F) -> F:
    """A piece of kernels; compiled into them."""
    return cast(F, numba.njit(**_PIECE, **_EXACT)(_named(function)))


def spliced(function: F) -> F:
    """As `inlined`, even where LLVM would rather call it: for what runs millions of times a second."""
    return cast(F, numba.njit(**_PIECE, forceinline=True, **_EXACT)(_named(function)))
