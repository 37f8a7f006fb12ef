"""Sizes by names that may be sums and products: `4*embd`, `q+kv+kv`, `3`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from requant.architectures.numbers import shown
from requant.architectures.rules import Config, Sizes
from requant.errors import PlanError


class Sums(Mapping[str, int]):
    """Sizes, and what can be reckoned from them.

    >>> sizes = Sums({"embd": 8, "kv": 2})
    >>> sizes["4*embd"], sizes["embd+kv+kv"], sizes["3"]
    (32, 12, 3)
    """

    def __init__(self, known: Sizes) -> None:
        self._known = dict(known)

    def __getitem__(self, name: str) -> int:
        if name not in self._known:
            if name.isdecimal():
                return int(name)
            if "+" not in name and "*" not in name:
                raise KeyError(name)
            self._known[name] = sum(prod(self[factor] for factor in term.split("*")) for term in name.split("+"))
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def count(values: Config, key: str) -> int:
    """A count above 0 among the GGUF keys."""
    value = values.get(key)
    if not isinstance(value, int) or not 0 < value < 1 << 31:
        raise PlanError(f"clip.{key} would be {shown(value)}, a number above 0 is needed")
    return value


def divided(of: int, by: int, what: str) -> int:
    """`of` in `by` equal parts; an error where they do not come out even."""
    if by < 1 or of % by:
        raise PlanError(f"{what}: {of} do not divide by {by}", hint="config and weights belong to different models")
    return of // by
