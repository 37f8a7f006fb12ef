"""The one way a kernel is compiled, and where the compiled code is kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import llvmlite
import numba
from numba.core import config

F = TypeVar("F", bound=Callable[..., Any])

_EXACT: Final[dict[str, Any]] = {"nogil": True, "error_model": "numpy", "fastmath": False}


def cache_folder() -> Path:
    """Where compiled kernels are kept.

    numba's own cache does not notice that a kernel's imports changed, so the folder's name is a hash of
    every kernel source and of the compiler's versions. `REQUANT_CACHE_DIR` moves it.
    """
    root = os.environ.get("REQUANT_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return Path(root) / "requant" / f"kernels-{digest.hexdigest()[:16]}"


_CACHE: Final = str(cache_folder())


def kernel(function: F) -> F:
    """Compile for bit-exact results: no fastmath, no contraction, cached on disk.

    Kernels release the GIL and use one thread: `requant.execute` owns the only
    thread pool and hands every worker its own run of rows.
    """
    before, config.CACHE_DIR = config.CACHE_DIR, _CACHE  # type: ignore[attr-defined]  # read when a function is decorated
    try:
        return cast(F, numba.njit(cache=True, **_EXACT)(function))
    finally:
        config.CACHE_DIR = before  # type: ignore[attr-defined]


def inlined(function: F) -> F:
    """A piece of a kernel of the same file; compiled into it."""
    return cast(F, numba.njit(**_EXACT)(function))
