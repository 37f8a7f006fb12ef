"""Compiles the kernels of conversions to LLVM's bitcode, for a wheel: `python -m requant.kernels_cpu.compile_ahead`.

Bitcode is what numba takes seconds to make and LLVM hundredths of a second to make machine code of. It is made for the
system and the kind of processor that it is made on, with what nearly all of these have (`cache.LEVEL_3`), and LLVM uses
whatever else the processor has that it ends on; all others have their kernels compiled by numba on first use.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

from requant.kernels_cpu.cache import LEVEL_3, ahead_folder


def names() -> Iterator[tuple[str, str]]:
    """Module and name of every kernel that is worth it: those of ggml's types and of plain numbers."""
    from requant.kernels_cpu._jit import Kernel

    here = Path(__file__).parent
    for path in sorted([*here.glob("ggml_*.py"), here / "casts.py", here / "largest.py", here / "sums.py"]):
        for name, value in vars(import_module(f"requant.kernels_cpu.{path.stem}")).items():
            if isinstance(value, Kernel) and value.function.__module__.endswith(f".{path.stem}"):
                yield path.stem, name


def compile_one(module: str, name: str) -> None:
    """Compile a kernel into the folder, if its code can be kept."""
    from requant.kernels_cpu.kept import bitcode, object_of

    code = bitcode(*getattr(import_module(f"requant.kernels_cpu.{module}"), name).lowered())
    if object_of(code) is not None:
        place = ahead_folder()
        assert place is not None
        code.write(place / f"{module}.{name}.bitcode")


def main() -> None:
    """Compile all, side by side."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    os.environ["NUMBA_CPU_NAME"] = "x86-64-v3" if x86 else "generic"
    os.environ["NUMBA_CPU_FEATURES"] = ",".join(f"+{feature}" for feature in LEVEL_3) if x86 else ""
    place = ahead_folder()
    assert place is not None
    place.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        for made in [pool.submit(compile_one, *one) for one in names()]:
            made.result()


if __name__ == "__main__":
    main()
