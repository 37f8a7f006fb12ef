"""JSON read a window at a time, so that a header of 100 MB costs no more memory than what is kept of it."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.json_values import integer
from requant.printable import shorten
from requant.system import read_at

WINDOW: Final = 1 << 18
_SPACE: Final = re.compile(r"[ \t\n\r]*")
#: A key without escapes, up to the value: nearly every key, at a third of the cost of the general way.
_KEY: Final = re.compile(r'[ \t\n\r]*"([ !#-\[\]-~]{0,1024})"[ \t\n\r]*:')
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class JsonStream:
    """The JSON text in the bytes `[start, stop)` of an open file.

    Grammar and limits are those of serde_json, which the reference reader uses, where Python's own differ: no NaN, no
    lone surrogates, and `-0` is no integer. Objects come back as tuples of pairs, so that the caller sees a key
    that is there twice; arrays as lists. Every error is a `FormatError` with the byte it was found at.
    """

    def __init__(self, path: Path, descriptor: int, start: int, stop: int) -> None:
        self._path, self._descriptor, self._read, self._stop = path, descriptor, start, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0

    def error(self, message: str, *, at: int | None = None, hint: str = "") -> FormatError:
        """An error at this place of the file (`at`: a place in the window)."""
        rest = self._text[self._at if at is None else at :]
        offset = self._read - len(self._decoder.getstate()[0]) - len(rest.encode())
        return FormatError(self._path, message, offset=offset, hint=hint)

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        if self._at < len(self._text) and self._text[self._at] > " ":
            return self._text[self._at]
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def take(self, expected: str) -> str:
        """Step over the next character, which is one of `expected`."""
        found = self.peek()
        if not found or found not in expected:
            wanted = " or ".join(repr(character) for character in expected)
            raise self.error(f"{wanted} expected in the JSON text, found {repr(found) if found else 'its end'}")
        self._at += 1
        return found

    def end(self) -> None:
        """Only white space may follow."""
        if found := self.peek():
            raise self.error(f"{found!r} after the end of the JSON text")

    def value(self, limit: int) -> object:
        """The next value, of at most `limit` characters of JSON."""
        self.peek()
        while True:
            problem: Exception | None = None
            try:
                value, end = _scan(self._text, self._at)
            except RecursionError:
                raise self.error("JSON values are nested too deeply") from None
            except (ValueError, StopIteration) as error:
                problem, end = error, len(self._text)
            if problem is not None and _is_certain(problem, len(self._text)):
                raise self._invalid(problem)
            if end - self._at > limit:
                raise self.error(f"a JSON value of more than {limit} characters")
            # A value that touches the end of the window may go on behind it: 12 of 123.
            if problem is None and (end < len(self._text) or self._read == self._stop):
                self._at = end
                return value
            if not self._fill() and problem is not None:
                raise self._invalid(problem)

    def string(self, limit: int) -> str:
        """The next value, which is a string."""
        if self.peek() != '"':
            raise self.error(f"a string expected in the JSON text, found {self.peek() or 'its end'!r}")
        value = str(self.value(limit))
        if not is_text(value):
            raise self.error(f"half a surrogate pair in the string {shorten(value)}")
        return value

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Step over what `pattern` matches here, if it does within the window: a short cut, never the only way."""
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def keys(self, limit: int) -> Iterator[str]:
        """The keys of the object that begins here; the caller takes each value before the next key."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            plain = self.match(_KEY)
            if plain is not None:
                yield plain[1]
            else:
                key = self.string(limit)
                self.take(":")
                yield key
            if self.take(",}") == "}":
                return

    def _fill(self) -> bool:
        """Drop what was read and read on; the window doubles while one value does not fit. False at the end."""
        if self._read == self._stop:
            return False
        rest = self._text[self._at :]
        chunk = read_at(self._descriptor, min(max(WINDOW, len(rest)), self._stop - self._read), self._read)
        if not chunk:
            raise FormatError(self._path, "the file became shorter while it was read", offset=self._read)
        self._read += len(chunk)
        try:
            self._text = rest + self._decoder.decode(chunk, final=self._read == self._stop)
        except UnicodeDecodeError as error:
            offset = self._read - len(error.object) + error.start
            raise FormatError(self._path, "the JSON text is not UTF-8", offset=offset) from None
        self._at = 0
        return True

    def _invalid(self, problem: Exception) -> FormatError:
        if isinstance(problem, json.JSONDecodeError):
            return self.error(f"invalid JSON: {problem.msg}", at=problem.pos)
        if isinstance(problem, StopIteration):
            found = self._text[problem.value : problem.value + 1]
            return self.error(f"a JSON value expected, found {repr(found) if found else 'the end'}", at=problem.value)
        return self.error(f"invalid JSON: {problem}")


def is_text(value: str) -> bool:
    """Whether a string is Unicode text: no half of a surrogate pair."""
    return value.isascii() or not _SURROGATE.search(value)


def _is_certain(problem: Exception, window: int) -> bool:
    """Whether JSON is broken whatever follows the window, which may end in a string or in `\\ud83d\\ude00`."""
    match problem:
        case json.JSONDecodeError():
            return not problem.msg.startswith("Unterminated") and problem.pos + 12 < window
        case StopIteration():
            return int(problem.value) + 12 < window
        case _:
            return True


def _integer(text: str) -> int | float:
    return integer(text) if text != "-0" else -0.0


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON value")


_decoder: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_int=_integer, parse_constant=_no_constant)
_scan: Final = _decoder.scan_once  # type: ignore[attr-defined]  # in no stub
