"""Metadata values: their types, and how they become bytes.

Source: docs/gguf.md of ggml, ggml/src/gguf.cpp of llama.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final

from requant.errors import PlanError
from requant.formats.gguf.arrays import CODES, Arrays, Numbers, Strings
from requant.ir import Typed

STRING: Final = 8
ARRAY: Final = 9
#: The kind (see `Typed`) of each scalar type number.
KINDS: Final[Mapping[int, str]] = {
    0: "u8",
    1: "i8",
    2: "u16",
    3: "i16",
    4: "u32",
    5: "i32",
    6: "f32",
    7: "bool",
    STRING: "str",
    10: "u64",
    11: "i64",
    12: "f64",
}
_IDS: Final = {kind: number for number, kind in KINDS.items()}


_LENGTH: Final = struct.Struct("<Q").pack


def pack_string(text: str) -> bytes:
    """Length and UTF-8; surrogate escapes become the bytes they stand for."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise PlanError(f"{text!r} cannot be stored as UTF-8: {error.reason}") from None
    return _LENGTH(len(data)) + data


def pack_pair(key: str, typed: Typed) -> bytes:
    """One key-value pair as it stands in a file; `PlanError` names a key whose value is not of its kind."""
    try:
        return pack_string(key) + _number(typed.kind) + _value(typed.kind, typed.value)
    except (struct.error, OverflowError, TypeError) as error:
        raise PlanError(f"metadata {key!r}: {str(typed.value)[:60]!r} is not a {typed.kind}: {error}") from None
    except PlanError as error:
        raise PlanError(f"metadata {key!r}: {error}", hint=error.hint) from None


def _number(kind: str) -> bytes:
    """The type number of a value of `kind`."""
    scalar = kind.strip("[]")
    depth = kind.count("[")
    if scalar not in _IDS or kind != "[" * depth + scalar + "]" * depth:
        raise PlanError(f"{kind!r} is no GGUF type", hint=f"the types are {', '.join(_IDS)}, and arrays of them: [str]")
    return struct.pack("<I", ARRAY if depth else _IDS[scalar])


def _value(kind: str, value: object) -> bytes:
    """A value without its type; arrays begin with the type and number of their items."""
    if not kind.startswith("["):
        return _items(kind, [value])
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError("an array needs a sequence")
    item = kind[1:-1]
    head = _number(item) + struct.pack("<Q", len(value))
    if isinstance(value, Numbers | Strings | Arrays) and value.kind == item:
        return head + value.raw
    return head + _items(item, value)


def _strings(items: Sequence[object]) -> bytes:
    """Strings one after another; a vocabulary has hundreds of thousands of them."""
    try:
        encoded = [str.encode(item, "utf-8", "surrogateescape") for item in items]  # type: ignore[arg-type]
    except TypeError:
        raise TypeError("a string is needed") from None
    except UnicodeEncodeError:
        return b"".join(pack_string(item) for item in items if isinstance(item, str))  # says which one
    return b"".join(chain.from_iterable(zip(map(_LENGTH, map(len, encoded)), encoded, strict=True)))


def _items(kind: str, items: Sequence[object]) -> bytes:
    """Values of one kind, one after another."""
    if kind.startswith("["):
        return b"".join(_value(kind, item) for item in items)
    if kind == "str":
        return _strings(items)
    if kind == "bool" and any(not isinstance(item, bool) for item in items):
        raise TypeError("true or false is needed")
    return struct.pack(f"<{len(items)}{CODES[kind]}", *items)
