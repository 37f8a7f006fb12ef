"""JSON that others wrote: one way to parse it, and values that know where they stand.

Python's parser takes more than JSON (NaN), less than it seems (a key twice, the last counts), and leaves to its user
what breaks later and elsewhere: numbers of a thousand digits, halves of surrogate pairs, objects a thousand deep. Every
JSON text of a model but the headers of safetensors, which are streamed, comes in through `parse_json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.ir import Json
from requant.printable import printable

#: Objects and arrays inside each other.
MAX_DEPTH: Final = 64
#: Digits of a number: those of the largest float.
MAX_DIGITS: Final = 310
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Limits:
    """The longest text that is parsed: bytes, and commas and brackets, which bound the memory that its values take."""

    nbytes: int
    items: int


#: config.json and its kind; the largest known have 2 MB.
CONFIG: Final = Limits(1 << 23, 200_000)
#: Tokenizers; the largest known have 33 MB, 1.5 million tokens and merges.
TOKENIZER: Final = Limits(1 << 27, 12_000_000)


@dataclass(frozen=True, slots=True)
class Item:
    """A value inside a JSON file that remembers where it is, so that a wrong type can say so."""

    path: Path
    where: str
    value: Json

    def get(self, key: str) -> Item:
        """The member `key` of an object; null when it is absent."""
        return Item(self.path, f"{self.where}.{key}".lstrip("."), self.object().get(key))

    def object(self) -> dict[str, Json]:
        """A JSON object."""
        if isinstance(self.value, dict):
            return self.value
        raise self.wrong("an object")

    def array(self) -> list[Json]:
        """A JSON array."""
        if isinstance(self.value, list):
            return self.value
        raise self.wrong("an array")

    def items(self) -> Iterator[Item]:
        """The members of an array; none when it is null."""
        for index, value in enumerate([] if self.value is None else self.array()):
            yield Item(self.path, f"{self.where}[{index}]", value)

    def string(self, default: str | None = None) -> str:
        """A string; `default` stands for null."""
        value = default if self.value is None else self.value
        if isinstance(value, str):
            return value
        raise self.wrong("a string")

    def integer(self) -> int:
        """An integer that is not negative."""
        if isinstance(self.value, int) and not isinstance(self.value, bool) and self.value >= 0:
            return self.value
        raise self.wrong("a non-negative integer")

    def number(self) -> float:
        """A number, which is finite."""
        if isinstance(self.value, int | float) and not isinstance(self.value, bool) and abs(self.value) <= 1.7e308:
            return float(self.value)
        raise self.wrong("a number")

    def flag(self, default: bool = False) -> bool:
        """A boolean; `default` stands for null."""
        value = default if self.value is None else self.value
        if isinstance(value, bool):
            return value
        raise self.wrong("true or false")

    def wrong(self, expected: str) -> FormatError:
        """The error that says what stands here instead of `expected`."""
        shown = printable(json.dumps(self.value, ensure_ascii=False), 60)
        return FormatError(self.path, f"{self.where or 'the file'} must be {expected}, found {shown}")


def parse_json(data: bytes, path: Path, limits: Limits = CONFIG) -> Item:
    """The JSON text of the file at `path`; raises `FormatError` for what is none, or too large.

    NaN and Infinity are numbers, as transformers reads them: `"time_step_limit": [0.0, Infinity]` is common. A key may
    be there twice if it says the same. Numbers have at most 310 digits, strings no half of a surrogate pair, and
    values lie at most 64 deep.
    """
    if len(data) > limits.nbytes:
        raise FormatError(path, f"more than {limits.nbytes:,} bytes", hint="is this the file that its name says?")
    if sum(map(data.count, (b",", b"[", b"{"))) > limits.items:
        raise FormatError(path, f"more than {limits.items:,} items")
    try:
        text = data.decode("utf-8-sig")
        value: Json = json.loads(text, object_pairs_hook=_object, parse_int=integer)
    except UnicodeDecodeError as error:
        raise FormatError(path, "the JSON text is not UTF-8", offset=error.start) from None
    except json.JSONDecodeError as error:
        offset = len(data) - len(text[error.pos :].encode())
        what = f"invalid JSON in line {error.lineno}: {error.msg}"
        raise FormatError(path, what, offset=offset, hint="is the download complete?") from None
    except RecursionError:
        raise FormatError(path, "JSON values are nested too deeply") from None
    except ValueError as error:
        raise FormatError(path, f"invalid JSON: {error}") from None
    if not _is_shallow(value):
        raise FormatError(path, "JSON values are nested too deeply")
    if _SURROGATE.search(data) and not _is_text(value):
        raise FormatError(path, "half of a surrogate pair in a string")
    return Item(path, "", value)


def integer(text: str) -> int:
    """An integer of JSON, unless it is beyond even 64 bits of floating point."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"number out of range: {len(text)} digits")
    return int(text)


def _is_shallow(value: Json) -> bool:
    """Whether values lie at most `MAX_DEPTH` deep; level by level, which is fast for a million merges."""
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH):
        members = chain.from_iterable(
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)
        )
        level = [member for member in members if type(member) is list or type(member) is dict]
        if not level:
            return True
    return False


def _is_text(value: Json) -> bool:
    """Whether all strings can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) < len(pairs):
        for key, value in pairs:
            if result[key] != value:
                raise ValueError(f"two values for {printable(key, 80)!r}")
    return result
