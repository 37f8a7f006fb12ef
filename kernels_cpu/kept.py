"""Kernels as machine code that an earlier process kept, which is had without the compiler.

numba takes a third of a second to be imported and to begin, in which half a billion weights can be averaged. So a
kernel on the way of something that takes little longer is asked for here, by name: where its machine code is kept, only
llvmlite is imported, to link it; where not, the kernel is compiled as always, and its machine code kept for the next.

A file has a line of JSON and the object. Its folder's name has a hash of everything the code depends on, and a digest
tells a file that was damaged. Only code that calls nothing but memory functions of the C library is kept: of what
numba's own runtime has, which allocates arrays and raises errors, there is nothing here.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import json
import os
import shutil
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import llvmlite
import llvmlite.binding as llvm
import numpy as np

_KEPT_DAYS: Final = 30
#: What kept code may call.
_KNOWN: Final = frozenset({"memcpy", "memset", "memmove"})
#: Of a contiguous array of one dimension, as compiled code takes it: who owns it and for whom, how many items of how
#: many bytes, where they are, and again how many at which distance (numba.core.types.Array, in numba's data model).
_ARRAY: Final = (*(ctypes.c_void_p,) * 2, *(ctypes.c_int64,) * 2, ctypes.c_void_p, *(ctypes.c_int64,) * 2)
#: An integer among the arguments; the others are dtypes of arrays.
_INTEGER: Final = "integer"

_lock = threading.Lock()
_engines: Final[list[Any]] = []  # they own the code


def cache_folder() -> Path:
    """Where compiled kernels are kept.

    numba's own cache does not notice that a kernel's imports changed, so the folder's name is a hash of every kernel
    source, of the compiler's versions and of the processor. `REQUANT_CACHE_DIR` moves it; where the user's cache
    cannot be written, it lies in the system's temporary folder, if nobody else can write into it there.
    """
    numba = find_spec("numba")
    assert numba is not None and numba.origin is not None
    digest = hashlib.sha256(Path(numba.origin).with_name("_version.py").read_bytes())
    seed = [llvmlite.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    digest.update("\n".join(seed).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    chosen = os.environ.get("REQUANT_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    fallback = Path(tempfile.gettempdir()) / f"requant-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    name = f"kernels-{digest.hexdigest()[:16]}"
    for root in (Path(chosen) / "requant", fallback):
        try:
            (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            os.utime(root / name)
        except OSError:
            continue
        if os.access(root / name, os.W_OK) and (root != fallback or _is_ours(root, root / name)):
            return root / name
    return _of_this_process(name)


def _is_ours(*folders: Path) -> bool:
    """Whether nobody else can put code there, which is run: in the system's temporary folder everybody may write."""
    if not hasattr(os, "getuid"):
        return True  # where that folder is each user's own
    found = [folder.lstat() for folder in folders]
    return all(stat.S_ISDIR(one.st_mode) and one.st_uid == os.getuid() and not one.st_mode & 0o022 for one in found)


@cache
def _of_this_process(name: str) -> Path:
    """A folder that goes with the process, where there is none to keep anything in."""
    place = Path(tempfile.mkdtemp(prefix="requant-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (place / name).mkdir()
    return place / name


def prune(folder: Path) -> None:
    """Delete the kernels of other versions that nobody has used for a month."""
    oldest = time.time() - _KEPT_DAYS * 86400
    for sibling in folder.parent.glob("kernels-*"):
        if sibling != folder and sibling.stat().st_mtime < oldest:
            shutil.rmtree(sibling, ignore_errors=True)


@cache
def folder() -> Path:
    """The cache folder of this process, whose neighbours have been pruned."""
    here = cache_folder()
    prune(here)
    return here


@cache
def _machine() -> Any:
    """As numba has it: the processor's own instructions, and no liberty taken with floats."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, reloc="static", codemodel="jitdefault", jit=True
    )


def kept(module: str, name: str) -> Callable[..., None]:
    """The kernel `name` of `requant.kernels_cpu.<module>`, which takes what the one there takes."""
    with _lock:
        return _kept(module, name)


@cache
def _kept(module: str, name: str) -> Callable[..., None]:
    path = folder() / f"{module}.{name}.object"
    found = _linked(path)
    if found is not None:
        return found
    kernel: Any = getattr(import_module(f"requant.kernels_cpu.{module}"), name)
    keep(path, *kernel.lowered())
    return _linked(path) or kernel


def keep(path: Path, symbol: str, arguments: list[str], text: str) -> None:
    """Write a kernel's machine code, if it can be called without numba; a cache that cannot be written is none.

    symbol: of its function in `text`, which is LLVM's assembly language. arguments: `integer`, or an array's dtype.
    """
    code = llvm.parse_assembly(text)
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(code, llvm.create_pass_builder(_machine(), llvm.create_pipeline_tuning_options()))
    data = _machine().emit_object(code)
    if not undefined(data) <= _KNOWN:
        return
    about = {"symbol": symbol, "arguments": arguments, "digest": hashlib.sha256(data).hexdigest()}
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(json.dumps(about).encode() + b"\n" + data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)


def undefined(data: bytes) -> set[str]:
    """Names that an ELF object of 64 bits uses and does not define; of anything else, a name that nothing has.

    Source: the System V ABI's chapters on object files: sections are listed at the offset in byte 40 of the header,
    64 bytes each, their number in byte 60; a symbol has 24 bytes, of which the first four are its name's place.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        return {""}
    (start,), (count,) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<H", data, 60)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + 64 * n) for n in range(count)]
    found = set()
    for _, kind, _, _, at, size, link, *_ in sections:
        for place in range(at, at + size, 24) if kind == 2 else ():
            name, _, _, section = struct.unpack_from("<IBBH", data, place)
            first = sections[link][4] + name
            if name and section == 0:
                found.add(data[first : data.index(0, first)].decode())
    return found


def _linked(path: Path) -> Callable[..., None] | None:
    """Kept machine code as a function; None if there is none, or if it was damaged."""
    try:
        line, _, data = path.read_bytes().partition(b"\n")
        about = json.loads(line)
        if about["digest"] != hashlib.sha256(data).hexdigest():
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    _engines.append(engine)
    return _callable(engine.get_function_address(about["symbol"]), about["arguments"])


def _callable(address: int, arguments: list[str]) -> Callable[..., None]:
    """What takes arrays and numbers as a `Kernel` does; the global interpreter lock is free meanwhile.

    Compiled functions have two arguments before their own, for what is returned and for what is raised.
    """
    kinds: list[Any] = [ctypes.c_void_p, ctypes.c_void_p]
    for kind in arguments:
        kinds += [ctypes.c_int64] if kind == _INTEGER else _ARRAY
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)
    dtypes = [None if kind == _INTEGER else np.dtype(kind) for kind in arguments]

    def call(*given: Any) -> None:
        returned, raised = ctypes.c_void_p(), ctypes.c_void_p()
        values: list[Any] = [ctypes.addressof(returned), ctypes.addressof(raised)]
        for value, dtype in zip(given, dtypes, strict=True):
            if dtype is None:
                values.append(value)
                continue
            if value.dtype != dtype or value.ndim != 1 or not value.flags.c_contiguous:
                raise TypeError(f"must be a contiguous array of {dtype}, found {value.dtype} {value.shape}")
            size, each, place = value.size, dtype.itemsize, value.__array_interface__["data"][0]
            values += [None, None, size, each, place, size, each]
        if status := function(*values):
            raise RuntimeError(f"a kernel ended with status {status}")

    return call
