"""The one way a kernel is compiled, and where the compiled code is kept.

A kernel is compiled on its first call, for exactly one signature: inputs are declared read-only and unaligned, which
every contiguous array converts to, so that a mapped file does not cost a second compilation.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba import types
from numba.core import config
from numpy.typing import NDArray

from requant.kernels_cpu import on_compile

F = TypeVar("F", bound=Callable[..., Any])

_EXACT: Final[dict[str, Any]] = {"nogil": True, "error_model": "numpy", "fastmath": False}
#: A piece is only ever called by compiled code.
_PIECE: Final[dict[str, Any]] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_KEPT_DAYS: Final = 30


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


def cache_folder() -> Path:
    """Where compiled kernels are kept.

    numba's own cache does not notice that a kernel's imports changed, so the folder's name is a hash of every kernel
    source, of the compiler's versions and of the processor. `REQUANT_CACHE_DIR` moves it; where the user's cache
    cannot be written, it lies in the system's temporary folder.
    """
    binding = llvmlite.binding
    seed = [
        numba.__version__,
        llvmlite.__version__,
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
    ]
    digest = hashlib.sha256("\n".join(seed).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    chosen = os.environ.get("REQUANT_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    fallback = Path(tempfile.gettempdir()) / f"requant-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    name = f"kernels-{digest.hexdigest()[:16]}"
    for root in (Path(chosen) / "requant", fallback):
        try:
            (root / name).mkdir(parents=True, exist_ok=True)
            os.utime(root / name)
        except OSError:
            continue
        if os.access(root / name, os.W_OK):
            return root / name
    return fallback / name


def _prune(folder: Path) -> None:
    """Delete the kernels of other versions that nobody has used for a month."""
    oldest = time.time() - _KEPT_DAYS * 86400
    for sibling in folder.parent.glob("kernels-*"):
        if sibling != folder and sibling.stat().st_mtime < oldest:
            shutil.rmtree(sibling, ignore_errors=True)


@cache
def _folder() -> Path:
    folder = cache_folder()
    _prune(folder)
    return folder


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
        return self._compiled is None and not any(_folder().glob(f"*/{stem}.{self.name}-*.nbi"))

    def _compile(self) -> Callable[..., None]:
        with self._lock:
            if self._compiled is None:
                if self.is_cold():
                    for tell in on_compile:
                        tell(self.name)
                dispatcher = _dispatcher(self.function)
                dispatcher.compile(self._signature.args)
                dispatcher.disable_compile()
                self._compiled = dispatcher
            return self._compiled


def _dispatcher(function: Callable[..., None]) -> Any:
    before, config.CACHE_DIR = config.CACHE_DIR, str(_folder())  # type: ignore[attr-defined]  # read when decorating
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
