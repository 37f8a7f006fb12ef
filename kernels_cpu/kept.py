"""Kernels as machine code that an earlier process kept, which is had without numba.

numba takes a third of a second to be imported and to begin, in which half a billion weights can be averaged, and
seconds to compile a kernel with a search. So kernels are asked for here, by name. Where a kernel's machine code is
kept, it is only linked, by llvmlite. Where it was compiled ahead, as a wheel has it, to what LLVM makes machine code
of, that takes LLVM hundredths of a second. Otherwise the kernel is compiled as always. Its machine code is kept for the
next process.

A file has a line of JSON, and the object or the bitcode. Its folder's name has a hash of everything the code depends
on, and a digest tells a file that was damaged. Only code that calls nothing but memory functions of the C library is
kept: of what numba's own runtime has, which allocates arrays and raises errors, there is nothing here.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import llvmlite.binding as llvm
import numpy as np

from requant.kernels_cpu.cache import ahead_folder, folder, processor

#: What kept code may call.
_KNOWN: Final = frozenset({"memcpy", "memset", "memmove"})
#: Called when nobody has an array any more, which never happens to arrays that belong to somebody else.
_UNUSED: Final = "NRT_MemInfo_call_dtor"
#: Of a contiguous array of one dimension, as compiled code takes it: who owns it and for whom, how many items of how
#: many bytes, where they are, and again how many at which distance (numba.core.types.Array, in numba's data model).
_ARRAY: Final = (*(ctypes.c_void_p,) * 2, *(ctypes.c_int64,) * 2, ctypes.c_void_p, *(ctypes.c_int64,) * 2)
#: An integer among the arguments; the others are dtypes of arrays.
_INTEGER: Final = "integer"

_lock = threading.Lock()
_engines: Final[list[Any]] = []  # they own the code


class Kept:
    """The kernel `name` of `requant.kernels_cpu.<module>`, had on its first call; it takes what the one there takes."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self._code: Callable[..., None] | None = None

    def __call__(self, *arguments: Any) -> None:
        """Run it; the global interpreter lock is free meanwhile."""
        if self._code is None:
            self._code = kept(self.module, self.name)
        self._code(*arguments)


class Code(NamedTuple):
    """A kernel without numba: the symbol of its function, what it takes, and object or bitcode.

    arguments: `integer`, or an array's dtype.
    """

    symbol: str
    arguments: list[str]
    data: bytes

    def write(self, path: Path) -> None:
        """Keep it, if there is a folder to keep it in."""
        about = {"symbol": self.symbol, "arguments": self.arguments, "digest": hashlib.sha256(self.data).hexdigest()}
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            partial.write_bytes(json.dumps(about).encode() + b"\n" + self.data)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)

    @staticmethod
    def read(path: Path) -> Code | None:
        """What was kept; None if there is none, or if it was damaged."""
        try:
            line, _, data = path.read_bytes().partition(b"\n")
            about = json.loads(line)
            whole = about["digest"] == hashlib.sha256(data).hexdigest()
            return Code(about["symbol"], about["arguments"], data) if whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


@cache
def machine() -> Any:
    """As numba has it: the processor's own instructions, and no liberty taken with floats."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    (name, features), target = processor(), llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=name, features=features, opt=3, reloc="static", codemodel="jitdefault", jit=True
    )


def kept(module: str, name: str) -> Callable[..., None]:
    """The kernel `name` of `requant.kernels_cpu.<module>`, which takes what the one there takes."""
    with _lock:
        return _kept(module, name)


@cache
def _kept(module: str, name: str) -> Callable[..., None]:
    path = folder() / f"{module}.{name}.object"
    if (found := Code.read(path)) is not None:
        return _linked(found)
    if (ahead := _ahead(module, name)) is not None:
        ahead.write(path)
        return _linked(ahead)
    kernel: Any = getattr(import_module(f"requant.kernels_cpu.{module}"), name)
    made = object_of(bitcode(*kernel.lowered()))
    if made is None:
        return kernel  # type: ignore[no-any-return]
    made.write(path)
    return _linked(made)


def _ahead(module: str, name: str) -> Code | None:
    """The object of a kernel that was compiled ahead."""
    place = ahead_folder()
    found = Code.read(place / f"{module}.{name}.bitcode") if place is not None else None
    try:
        return object_of(found) if found is not None else None
    except RuntimeError:  # of a newer LLVM
        return None


def bitcode(symbol: str, arguments: list[str], text: str) -> Code:
    """A kernel, of which LLVM's assembly language is given, without what it does not call."""
    code = llvm.parse_assembly(text)
    if any(function.name == _UNUSED for function in code.functions):
        code.link_in(llvm.parse_assembly(f"define void @{_UNUSED}(ptr %info) {{ ret void }}"))
        for function in code.functions:
            if function.name == _UNUSED:
                function.linkage = "internal"
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(code, llvm.create_pass_builder(machine(), llvm.create_pipeline_tuning_options()))
    return Code(symbol, arguments, code.as_bitcode())


def object_of(code: Code) -> Code | None:
    """Bitcode as machine code; None if that cannot be called without numba."""
    data = machine().emit_object(llvm.parse_bitcode(code.data))
    return code._replace(data=data) if undefined(data) <= _KNOWN else None


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


def _linked(code: Code) -> Callable[..., None]:
    """Machine code as a function."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.data))
    engine.finalize_object()
    _engines.append(engine)
    return _callable(engine.get_function_address(code.symbol), code.arguments)


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
