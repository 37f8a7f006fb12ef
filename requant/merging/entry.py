"""Parts of a recipe that remember where they stand, so that what is wrong with one can say so."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from requant.errors import PlanError
from requant.printable import printable


@dataclass(frozen=True, slots=True)
class Entry:
    """A value inside a recipe. file: the recipe's name. where: `slices[0].sources[1]`; empty for the whole."""

    file: str
    where: str
    value: Any

    def wrong(self, what: str, hint: str = "") -> PlanError:
        """The error that says what is wrong here."""
        return PlanError(f"{self.file}: {self.where}: {what}" if self.where else f"{self.file}: {what}", hint=hint)

    def expected(self, what: str) -> PlanError:
        """The error that says what stands here instead."""
        return self.wrong(f"must be {what}, found {printable(_shown(self.value), 60)!r}")

    def members(self, allowed: Sequence[str]) -> dict[str, Entry]:
        """The members of a mapping, without those that say nothing; a key that is not `allowed` is an error."""
        if not isinstance(self.value, dict):
            raise self.expected("a mapping")
        for key in self.value:
            if key not in allowed:
                raise self.unknown(str(key), allowed)
        return {key: self.at(f".{key}", value) for key, value in self.value.items() if value is not None}

    def unknown(self, key: str, known: Sequence[str], what: str = "no key is called") -> PlanError:
        """The error for a name that is none, with those that look like it."""
        near = get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        return self.wrong(f"{what} {printable(key, 60)!r}", hint)

    def named(self) -> Iterator[tuple[str, Entry]]:
        """The members of a mapping with names of any kind."""
        if not isinstance(self.value, dict):
            raise self.expected("a mapping")
        for key, value in self.value.items():
            if not isinstance(key, str):
                raise self.wrong(f"{key!r} is no name; put it in quotes")
            if any("\ud800" <= letter <= "\udfff" for letter in key):
                raise self.wrong(f"{printable(key, 60)!r} has half of a surrogate pair")
            yield key, self.at(f".{key}", value)

    def items(self) -> list[Entry]:
        """The items of a list that is not empty."""
        if not isinstance(self.value, list) or not self.value:
            raise self.expected("a list with something in it")
        return [self.at(f"[{n}]", value) for n, value in enumerate(self.value)]

    def text(self) -> str:
        """A string that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.expected("a text")
        # names of files that are no Unicode have others (Python's surrogateescape)
        if any("\ud800" <= letter <= "\udfff" and not "\udc80" <= letter <= "\udcff" for letter in self.value):
            raise self.wrong(f"{printable(self.value, 60)!r} has half of a surrogate pair")
        return self.value

    def integer(self) -> int:
        """An integer that is not negative."""
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            raise self.expected("a number of 0, 1, 2, ...")
        return self.value

    def number(self) -> float:
        """A number that is not negative."""
        value = self.value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise self.expected("a number of at least 0")
        return float(value)

    def flag(self) -> bool:
        """true or false."""
        if not isinstance(self.value, bool):
            raise self.expected("true or false")
        return self.value

    def at(self, step: str, value: Any) -> Entry:
        """A value inside this one."""
        return Entry(self.file, f"{self.where}{step}".lstrip("."), value)


def _shown(value: Any) -> str:
    """The beginning of a value: aliases of YAML can say a list of lists ten thousand million items long."""
    short = reprlib.Repr()
    short.maxlevel = 2
    return short.repr(value) if isinstance(value, list | dict | set) else str(value)
