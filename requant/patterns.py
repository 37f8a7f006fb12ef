"""Patterns that a model's files contain: the one door through which each is compiled and matched.

GPTQModel's `dynamic`, compressed-tensors' `re:` targets and a tokenizer's `Split` are regular expressions that a
stranger wrote, and a backtracking engine can be kept busy by a dozen characters. They need lookaround and all else
that Python's `re` has, for `re` is what their libraries match with, so an engine of linear time would refuse what
people publish. They are matched by `regex`, which has `re`'s grammar and takes a limit of processor time; what it
would unroll without bound while compiling is refused before. What users write on the command line is their own.
"""

from __future__ import annotations

import fnmatch
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

from requant.printable import printable

if TYPE_CHECKING:
    import regex

T = TypeVar("T")

#: Characters of the longest pattern that is compiled.
MAX_PATTERN: Final = 4096
#: Atoms of a pattern after its counted repetitions are written out, as the engine does.
MAX_UNROLLED: Final = 50_000
#: Groups inside each other.
MAX_DEPTH: Final = 50
#: Processor seconds for everything that one reader matches.
PATIENCE: Final = 2.0

_COUNT: Final = re.compile(r"\{(\d*)(?:,(\d*))?\}")
#: Comments and patterns with white space of no meaning hide from `unrolled` what the engine sees. None is published.
_HIDES: Final = re.compile(r"\(\?(?:#|[a-zA-Z]*x)")


class PatternError(ValueError):
    """A pattern that is not matched; the text quotes it and says why."""

    def __init__(self, pattern: str, why: str) -> None:
        super().__init__(f"the pattern {printable(pattern, 80)!r} {why}")
        self.why = why


@dataclass(slots=True)
class Patience:
    """What matching may cost, all together: each match takes of it, and the last of it ends in a `PatternError`.

    seconds: what is left, of `clock`.
    """

    seconds: float = PATIENCE
    clock: Callable[[], float] = field(default=time.process_time, repr=False)

    def spend(self, pattern: str, action: Callable[[float], T]) -> T:
        """The result of `action`, which is given what is left and raises `TimeoutError` when it has used that up."""
        started = self.clock()
        try:
            if self.seconds <= 0:
                raise TimeoutError
            return action(self.seconds)
        except TimeoutError:
            self.seconds = 0
            raise PatternError(pattern, "takes too long to match") from None
        finally:
            self.seconds -= self.clock() - started


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern of a stranger, and the patience it is matched with."""

    text: str
    patience: Patience
    _compiled: regex.Pattern[str] = field(repr=False, compare=False)

    def matches(self, text: str) -> bool:
        """Whether it matches at the beginning, as `re.match` does."""
        return self.patience.spend(self.text, lambda left: self._compiled.match(text, timeout=left)) is not None

    def matches_whole(self, text: str) -> bool:
        """Whether it matches all of `text`."""
        return self.patience.spend(self.text, lambda left: self._compiled.fullmatch(text, timeout=left)) is not None

    def found_in(self, text: str) -> bool:
        """Whether it matches anywhere."""
        return self.patience.spend(self.text, lambda left: self._compiled.search(text, timeout=left)) is not None

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where its matches lie, from left to right, none over another."""
        return iter(
            self.patience.spend(
                self.text, lambda left: [match.span() for match in self._compiled.finditer(text, timeout=left)]
            )
        )


def regular_expression(
    text: str, patience: Patience, *, multiline: bool = False, longest: int = MAX_PATTERN
) -> Pattern:
    """A regular expression in Python's grammar. Raises `PatternError` for what is none, or too large."""
    return Pattern(text, patience, _compile(text, multiline, longest))


def of_the_user(text: str, flags: int = 0) -> re.Pattern[str]:
    """A regular expression from the command line, which may take its time; raises `re.error`.

    Python warns of brackets and doubled signs in a set, which some later version of it may read otherwise: here they
    mean themselves, as they do to llama.cpp, and always will.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(text, flags)


def wildcard(text: str, patience: Patience) -> Pattern:
    """A pattern of `*`, `?` and `[…]`, as `fnmatch.fnmatchcase` reads it: for `matches_whole`."""
    return Pattern(text, patience, _compile(fnmatch.translate(text), False, MAX_PATTERN))


@lru_cache(1024)
def _compile(text: str, multiline: bool, longest: int) -> regex.Pattern[str]:
    import regex

    if len(text) > longest:
        raise PatternError(text, f"has more than {longest} characters")
    if _HIDES.search(text):
        raise PatternError(text, "has comments inside")
    if unrolled(text) > MAX_UNROLLED:
        raise PatternError(text, "repeats more often than any text is long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return regex.compile(text, regex.VERSION0 | (regex.MULTILINE if multiline else 0), cache_pattern=False)
    except regex.error as error:
        raise PatternError(text, f"is no regular expression: {error}") from None
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise PatternError(text, f"cannot be compiled: {error or type(error).__name__}") from None


def unrolled(text: str) -> int:
    """How many atoms a pattern has once every `{m,n}` is written out: at least so many as the engine makes.

    >>> unrolled("ab{3}"), unrolled("(ab{3}){10}"), unrolled("[{9}]{2}")
    (4, 50, 2)
    """
    sizes, last, at = [0], 0, 0
    while at < len(text):
        char = text[at]
        count = _COUNT.match(text, at) if char == "{" else None
        if count is not None:
            times = max(_number(count[1]), _number(count[2] or ""), 1)
            sizes[-1] += last * (times - 1)
            last, at = last * times, count.end()
            continue
        if char == "(":
            sizes.append(0)
            if len(sizes) > MAX_DEPTH:
                raise PatternError(text, f"has more than {MAX_DEPTH} groups inside each other")
            at += 1
            continue
        last = sizes.pop() + 1 if char == ")" and len(sizes) > 1 else 1
        sizes[-1] += last
        at = _end_of_class(text, at) if char == "[" else at + (2 if char == "\\" else 1)
    return sum(sizes)


def _number(digits: str) -> int:
    """A count; what has more digits is more than enough."""
    return int(digits[:12]) if digits else 0


def _end_of_class(text: str, at: int) -> int:
    """Behind the bracket expression that begins at `at`; the next character where it has no end."""
    place = at + 1
    place += text.startswith("^", place)
    place += text.startswith("]", place)  # a bracket that comes first is a member
    while place < len(text) and text[place] != "]":
        place += 2 if text[place] == "\\" else 1
    return place + 1 if place < len(text) else at + 1
