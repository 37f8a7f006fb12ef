"""Merge rules, as tokenizer.json, merges.txt and GGUF write them.

GGUF and old files have one string per rule, `left right`; newer tokenizer.json files have pairs, so that a token may
contain a space, which GGUF writes as `Ġ` (U+0120), the letter that stands for a space in byte-level vocabularies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import add
from pathlib import Path
from typing import cast

from requant.errors import FormatError
from requant.ir import Json
from requant.json_values import Item
from requant.tokenizers.files import Files

_SPACE = chr(ord(" ") + 256)


@dataclass(frozen=True, slots=True)
class Merges:
    """Rules in order of rank: `lefts[i]` and `rights[i]` become one token. Columns, since there are 280,000 of them."""

    lefts: Sequence[str]
    rights: Sequence[str]

    def written(self) -> list[str]:
        """As GGUF writes them."""
        lefts, rights = self.lefts, self.rights
        if " " in "".join(lefts) or " " in "".join(rights):
            lefts = [text.replace(" ", _SPACE) for text in lefts]
            rights = [text.replace(" ", _SPACE) for text in rights]
        return list(map(" ".join, zip(lefts, rights, strict=True)))

    def products(self) -> list[str]:
        """What each rule makes."""
        return list(map(add, self.lefts, self.rights))

    def check(self, ids: Mapping[str, int], path: Path) -> None:
        """Refuse rules that name, or make, a token that is not in the vocabulary."""
        known = ids.__contains__
        if all(all(map(known, column)) for column in (self.lefts, self.rights, self.products())):
            return
        for index, (left, right) in enumerate(zip(self.lefts, self.rights, strict=True)):
            for text in (left, right, left + right):
                if text not in ids:
                    raise FormatError(path, f"merges[{index}], {left!r} + {right!r}: {text!r} is not in the vocabulary")


def split_rules(rules: Sequence[str]) -> Merges | None:
    """Rules written as strings; None when one of them is not two tokens."""
    if {rule.count(" ") for rule in rules} - {1}:
        return None
    flat = " ".join(rules).split(" ") if rules else []
    return Merges(flat[0::2], flat[1::2])


def merges_of(item: Item) -> Merges:
    """The `merges` of a tokenizer.json."""
    rules = [] if item.value is None else item.array()
    kinds = set(map(type, rules))
    merges = None
    if kinds <= {str}:
        merges = split_rules(cast("list[str]", rules))
    elif kinds == {list} and not set(map(len, cast("list[list[Json]]", rules))) - {2}:
        pairs = cast("list[list[str]]", rules)
        lefts, rights = [left for left, _ in pairs], [right for _, right in pairs]
        if not (set(map(type, lefts)) | set(map(type, rights))) - {str}:
            merges = Merges(lefts, rights)
    if merges is None:
        raise _wrong(item, rules)
    return merges


def _wrong(item: Item, rules: Sequence[Json]) -> FormatError:
    for index, rule in enumerate(rules):
        pair = rule.split(" ") if isinstance(rule, str) else rule
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            return Item(item.path, f"{item.where}[{index}]", rule).wrong("two tokens")
    return item.wrong("an array of strings or an array of pairs")


def merges_txt(files: Files, name: str = "merges.txt") -> Merges:
    """The rules of a merges.txt: a `#version` line, then one rule in each line."""
    lines = [line.rstrip("\r") for line in files.text(name).split("\n")]
    start = 1 if lines[0].startswith("#version") else 0
    rules = [line for line in lines[start:] if line.strip()]
    merges = split_rules(rules)
    if merges is not None:
        return merges
    number, line = next(
        (n, line) for n, line in enumerate(lines, 1) if n > start and line.strip() and line.count(" ") != 1
    )
    raise FormatError(files.path(name), f"line {number}: a rule must be two tokens, found {line[:60]!r}")
