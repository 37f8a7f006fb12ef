"""Values as users write them for a key of a GGUF, in the type that llama.cpp reads, the file has, or the user names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from requant.errors import PlanError
from requant.ir import Json, Typed
from requant.json_values import parse_json
from requant.printable import printable
from requant.recipes.key_kinds import KIND_WORDS, holds, kind_of

#: Types as a GGUF has them, and the words of `--override-kv` for those whose width follows from the key.
SCALARS: Final = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "str")
_WORDS: Final = tuple(dict.fromkeys(KIND_WORDS.values()))
#: What a word means for a key that nobody knows.
_USUAL: Final = {"int": ("u32", "i32", "u64", "i64"), "float": ("f32",), "bool": ("bool",), "str": ("str",)}


def typed_value(
    key: str, text: str, metadata: Mapping[str, Typed], architecture: str, read: Callable[[Path], str]
) -> Typed:
    """What `KEY=text` sets: `text` is a value, or `TYPE:value`; a string may be `@FILE`, a list is written as JSON.

    Raises `PlanError` for what is no value of the key's type, and for a key of which no type is known.
    """
    named, value = _named_type(text)
    known = kind_of(key, architecture)
    current = metadata[key].kind if key in metadata else None
    if current is not None and current.startswith("[") and not named.startswith("[") and known is None:
        named = current
    if named in SCALARS or named.startswith("["):
        if known is not None and named != known and not named.startswith("["):
            raise PlanError(f"{key} is read as {known}; {named} is none", hint=f"write {key}={printable(value, 40)}")
        return _parsed(key, value, named, read)
    expected = known or current
    if expected is not None:
        if named and KIND_WORDS[expected[0]] != named and (named, expected[0]) not in {("int", "f"), ("int", "b")}:
            raise PlanError(f"{key} is read as {expected}; {named} is none", hint=f"write {key}={printable(value, 40)}")
        return _parsed(key, value, expected, read)
    if not named:
        raise PlanError(
            f"{key}: no type is known for this key",
            hint=f"say one: {key}=str:{printable(value, 40)}; types are {', '.join((*_WORDS, *SCALARS))}, [str]",
        )
    for kind in _USUAL[named][:-1]:
        try:
            return _parsed(key, value, kind, read)
        except PlanError:
            continue
    return _parsed(key, value, _USUAL[named][-1], read)


def _named_type(text: str) -> tuple[str, str]:
    """`TYPE:value` in its parts; no type where it begins with none."""
    word, colon, rest = text.partition(":")
    is_list = word.startswith("[") and word.endswith("]") and word[1:-1] in SCALARS
    return (word, rest) if colon and (is_list or word in SCALARS or word in _WORDS) else ("", text)


def _parsed(key: str, text: str, kind: str, read: Callable[[Path], str]) -> Typed:
    if kind == "str":
        return Typed("str", text_of(text, read))
    if kind.startswith("["):
        value: Json = parse_json(text_of(text, read).encode("utf-8", "surrogatepass"), Path(f"{key}=…")).value
        return of_json(key, value, kind)
    plain = text.strip().lower()
    if kind == "bool" and plain in ("true", "false", "1", "0"):
        return Typed("bool", plain in ("true", "1"))
    try:
        if kind[0] == "f" and plain.isascii() and "_" not in plain:
            return _real(key, float(plain), kind)
        if kind[0] in "ui" and re.fullmatch(r"-?[0-9]{1,20}", plain) and holds(kind, int(plain)):
            return Typed(kind, int(plain))
    except ValueError:
        pass
    raise PlanError(f"{key} is read as {kind}; {printable(text, 60)!r} is none")


def _real(key: str, value: float, kind: str) -> Typed:
    if not math.isfinite(value) or (kind == "f32" and abs(value) > 3.4028235e38):
        raise PlanError(f"{key} cannot be {value}: it is no number that {kind} has")
    return Typed(kind, value)


def text_of(text: str, read: Callable[[Path], str]) -> str:
    """A string as it stands, or what is in a file, where it is written `@FILE`; `@@` stands for an `@`."""
    if not text.startswith("@") or text.startswith("@@"):
        text = text.removeprefix("@") if text.startswith("@@") else text
    else:
        text = read(Path(text[1:]))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PlanError(f"{printable(text, 60)!r} is no text") from None
    return text


def of_json(key: str, value: Json, kind: str) -> Typed:
    """A value of JSON as `kind`; raises `PlanError` where it is none."""
    if not kind.startswith("["):
        fits = (
            (kind == "str" and isinstance(value, str))
            or (kind == "bool" and isinstance(value, bool))
            or (kind[0] == "f" and isinstance(value, int | float) and not isinstance(value, bool))
            or (kind[0] in "ui" and isinstance(value, int) and not isinstance(value, bool) and holds(kind, value))
        )
        if not fits:
            shown = printable(json.dumps(value), 60)
            raise PlanError(f"{key} is read as {kind}; {shown} is none")
        assert isinstance(value, str | bool | int | float)
        return _real(key, float(value), kind) if kind[0] == "f" else Typed(kind, value)
    if not isinstance(value, list):
        raise PlanError(f"{key} is a list of {kind[1:-1]}; {printable(json.dumps(value), 60)} is none")
    return Typed(kind, [of_json(key, item, kind[1:-1]).value for item in value])


def guessed_kind(value: Json) -> str | None:
    """The type of a value of JSON for a key that nobody knows; None for what a GGUF cannot hold."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return next((kind for kind in _USUAL["int"] if holds(kind, value)), None)
    if isinstance(value, float):
        return "f32"
    if isinstance(value, str):
        return "str"
    if isinstance(value, list) and value:
        kinds = {guessed_kind(item) for item in value}
        kind = kinds.pop() if len(kinds) == 1 else "f32" if kinds <= {"u32", "i32", "f32"} else None
        kind = "i32" if kinds and kinds | {kind} <= {"u32", "i32"} else kind
        return None if kind is None else f"[{kind}]"
    return None
