"""The pickle of a torch file, read without running anything.

A pickle is a program for a small stack machine. This one knows only the instructions and the handful of functions that
`torch.save` needs for tensors, lists and dictionaries, and its own harmless stand-ins for them; it imports nothing. Any
other function is refused by name. Instructions: the comments of CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

#: Longest program, in instructions: a tensor takes about thirty-three.
MAX_STEPS: Final = 600_000
#: The dtypes a program may name.
DTYPES: Final = (
    *("bool", "uint8", "int8", "int16", "short", "uint16", "int32", "int", "uint32", "int64", "long", "uint64"),
    *("float16", "half", "bfloat16", "float32", "float", "float64", "double", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn_x2"),
)
MAX_DIMENSIONS: Final = 64


class PickleError(Exception):
    """The program is broken, or wants what it must not have."""


class UnknownGlobalError(PickleError):
    """The program asks for a function or class that no tensor needs."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name in a module, as the program spells it; never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers in a member of the archive.

    kind: the storage class ("torch.HalfStorage"). numel: numbers, or bytes of an untyped storage.
    """

    kind: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: a strided view of a storage, in elements. dtype: "torch.uint16", empty where the storage says it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str = ""


class Opaque:
    """A value that matters to nobody here."""


_MARK: Final = object()
_STOP: Final = ord(".")


def load(data: bytes) -> object:
    """The value that the program builds, of None, bool, int, float, str, bytes, list, tuple, dict, `View`, `Opaque`."""
    try:
        return _Machine(data).run()
    except UnicodeDecodeError:
        raise PickleError("text that is not UTF-8") from None


class _Machine:
    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.steps = data, 0, 0
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        while self.steps < MAX_STEPS:
            if self.at == len(self.data):
                raise PickleError("the program ends early")
            code = self.data[self.at]
            self.at, self.steps = self.at + 1, self.steps + 1
            if code == _STOP:
                return self.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise PickleError(f"instruction {code:#04x} at {self.at - 1}, which no tensor needs")
            instruction(self)
        raise PickleError(f"more than {MAX_STEPS} instructions")

    def take(self, count: int) -> bytes:
        """The next bytes of the program."""
        end = self.at + count
        if end > len(self.data):
            raise PickleError("the program ends early")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def integer(self, form: struct.Struct) -> int:
        (value,) = form.unpack(self.take(form.size))
        return int(value)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 1000)
        if end < 0:
            raise PickleError("a name without end")
        text = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return text

    def pop(self) -> object:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("the stack is empty")
        return self.stack.pop()

    def pop_to_mark(self) -> list[object]:
        start = len(self.stack) - 1
        while start >= 0 and self.stack[start] is not _MARK:
            start -= 1
        if start < 0:
            raise PickleError("no mark on the stack")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def top(self) -> object:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("the stack is empty")
        return self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError(f"nothing is remembered as {index}")
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def set_items(self, pairs: list[object]) -> None:
        target = self.top()
        if len(pairs) % 2 or not isinstance(target, dict | Opaque):
            raise PickleError("items for what is no dictionary")
        if isinstance(target, dict):
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                if not _is_key(key):
                    raise PickleError("a key that is neither text nor a small number")
                target[key] = value

    def append(self, items: list[object]) -> None:
        target = self.top()
        if not isinstance(target, list | Opaque):
            raise PickleError("items for what is no list")
        if isinstance(target, list):
            target.extend(items)

    def find(self, module: object, name: object) -> None:
        path = f"{module}.{name}"
        if path not in _FUNCTIONS and not _is_name_of_data(path):
            raise UnknownGlobalError(path)
        self.stack.append(Global(path))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.steps += _length(arguments, 3)
        self.stack.append(_call(function, arguments))

    def build(self) -> None:
        """Attributes, such as the `_metadata` of a state dictionary: they are nothing to us."""
        self.pop()
        self.top()

    def persistent(self) -> None:
        match self.pop():
            case ("storage", Global(kind), str(key), str(), int(numel)) if numel >= 0:
                self.stack.append(Storage(kind, key, numel))
            case _:
                raise PickleError("a reference that is no storage")

    def long(self, length: int) -> None:
        if length > 16:
            raise PickleError("an integer of more than 16 bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))


def _call(function: object, arguments: object) -> object:
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise PickleError("a call of what is no function")
    stand_in = _FUNCTIONS.get(function.name)
    if stand_in is None:
        raise UnknownGlobalError(function.name)
    return stand_in(*arguments[:8])


def _length(value: object, depth: int) -> int:
    """What a call may cost beyond one step: the same long list can be handed over again and again."""
    if isinstance(value, tuple) and depth:
        return len(value) + sum(_length(item, depth - 1) for item in value[:8])
    return len(value) if isinstance(value, list | tuple | str) else 0


def _is_key(value: object) -> bool:
    """Text or a small number: their hashes do not collide on purpose."""
    return value is None or isinstance(value, str) or (isinstance(value, int) and abs(value) < 1 << 31)


def _is_name_of_data(path: str) -> bool:
    """Classes of storages and names of dtypes: they are named, never called."""
    module, _, name = path.rpartition(".")
    if name.endswith("Storage"):
        return module in ("torch", "torch.storage", "torch.cuda")
    return (module == "torch" and name in DTYPES) or path in ("torch.nn.parameter.Parameter", "torch.Tensor")


def _rebuild(*arguments: object) -> object:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            return _view(storage, offset, shape, strides, "")
    raise PickleError("a tensor that is described wrongly")


def _rebuild_untyped(*arguments: object) -> object:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), _, _, Global(dtype), *_):
            return _view(storage, offset, shape, strides, dtype)
    raise PickleError("a tensor that is described wrongly")


def _view(storage: Storage, offset: int, shape: tuple[object, ...], strides: tuple[object, ...], dtype: str) -> View:
    if offset < 0 or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise PickleError("a tensor whose shape, strides and offset do not fit each other")
    sizes = tuple(n for n in shape if type(n) is int and n >= 0)
    steps = tuple(n for n in strides if type(n) is int and n >= 0)
    if len(sizes) != len(shape) or len(steps) != len(strides):
        raise PickleError("a tensor whose shape or strides are no sizes")
    return View(storage, offset, sizes, steps, dtype)


def _first(*arguments: object) -> object:
    if not arguments:
        raise PickleError("a call without arguments")
    return arguments[0]


def _from_type(*arguments: object) -> object:
    match arguments:
        case (Global() as function, _, tuple(inner), *_) if function.name != "torch._tensor._rebuild_from_type_v2":
            return _call(function, inner)
    raise PickleError("a tensor that is described wrongly")


def _dictionary(*arguments: object) -> object:
    if not arguments:
        return {}
    match arguments[0]:
        case list(pairs) if all(isinstance(p, tuple | list) and len(p) == 2 and _is_key(p[0]) for p in pairs):
            return dict(pairs)
    raise PickleError("a dictionary that is described wrongly")


def _encode(*arguments: object) -> object:
    match arguments:
        case (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1", "replace")
    raise PickleError("bytes that are described wrongly")


def _opaque(*arguments: object) -> object:
    return Opaque()


#: What a program may call, and what is done instead.
_FUNCTIONS: Final[Mapping[str, Callable[..., object]]] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_untyped,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _first,
    "torch.device": _opaque,
    "_codecs.encode": _encode,
    "numpy.dtype": _opaque,
    "numpy.core.multiarray.scalar": _opaque,
    "numpy._core.multiarray.scalar": _opaque,
}

_U8, _U16, _I32, _U32, _U64 = (struct.Struct(form) for form in ("<B", "<H", "<i", "<I", "<Q"))
_F64: Final = struct.Struct(">d")

_INSTRUCTIONS: Final[Mapping[int, Callable[[_Machine], object]]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("("): lambda m: m.stack.append(_MARK),
    ord("0"): lambda m: m.stack.pop() if m.stack else m.pop(),
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("K"): lambda m: m.stack.append(m.integer(_U8)),
    ord("M"): lambda m: m.stack.append(m.integer(_U16)),
    ord("J"): lambda m: m.stack.append(m.integer(_I32)),
    0x8A: lambda m: m.long(m.integer(_U8)),
    0x8B: lambda m: m.long(m.integer(_U32)),
    ord("G"): lambda m: m.stack.append(_F64.unpack(m.take(8))[0]),
    ord("X"): lambda m: m.stack.append(m.take(m.integer(_U32)).decode("utf-8", "surrogatepass")),
    0x8C: lambda m: m.stack.append(m.take(m.integer(_U8)).decode("utf-8", "surrogatepass")),
    0x8D: lambda m: m.stack.append(m.take(m.integer(_U64)).decode("utf-8", "surrogatepass")),
    ord("U"): lambda m: m.stack.append(m.take(m.integer(_U8)).decode("latin-1")),
    ord("T"): lambda m: m.stack.append(m.take(m.integer(_U32)).decode("latin-1")),
    ord("C"): lambda m: m.stack.append(m.take(m.integer(_U8))),
    ord("B"): lambda m: m.stack.append(m.take(m.integer(_U32))),
    ord(")"): lambda m: m.stack.append(()),
    0x85: lambda m: m.stack.append((m.pop(),)),
    0x86: lambda m: m.stack.append((m.pop(), m.pop())[::-1]),
    0x87: lambda m: m.stack.append((m.pop(), m.pop(), m.pop())[::-1]),
    ord("t"): lambda m: m.stack.append(tuple(m.pop_to_mark())),
    ord("]"): lambda m: m.stack.append([]),
    ord("l"): lambda m: m.stack.append(m.pop_to_mark()),
    ord("}"): lambda m: m.stack.append({}),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_to_mark()),
    ord("s"): lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    ord("q"): lambda m: m.put(m.integer(_U8)),
    ord("r"): lambda m: m.put(m.integer(_U32)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.integer(_U8)),
    ord("j"): lambda m: m.get(m.integer(_U32)),
    ord("c"): lambda m: m.find(m.line(), m.line()),
    0x93: lambda m: m.find(*[m.pop(), m.pop()][::-1]),
    ord("R"): lambda m: m.reduce(),
    ord("b"): lambda m: m.build(),
    ord("Q"): lambda m: m.persistent(),
}
