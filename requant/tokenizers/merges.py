"""Merge rules, as tokenizer.json, merges.txt and GGUF write them.

GGUF and old files have one string per rule, `left right`; newer tokenizer.json files have pairs, so that a token may
contain a space, which GGUF writes as `Ġ` (U+0120), the letter that stands for a space in byte-level vocabularies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from requant.errors import FormatError
from requant.ir import Json
from requant.tokenizers.files import Files, Item

_SPACE = chr(ord(" ") + 256)


def merges_of(merges: Item) -> list[tuple[str, str]]:
    """The `merges` of a tokenizer.json as pairs."""
    rules = [] if merges.value is None else merges.array()
    kinds = set(map(type, rules))
    if kinds <= {str}:
        pairs = [tuple(rule.split(" ")) for rule in cast("list[str]", rules)]
    elif kinds <= {list}:
        pairs = [tuple(rule) for rule in cast("list[list[str]]", rules)]
    else:
        raise merges.wrong("an array of strings or of pairs")
    if set(map(len, pairs)) - {2} or not all(type(a) is str and type(b) is str for a, b in pairs):
        _refuse(merges, rules)
    return cast("list[tuple[str, str]]", pairs)


def _refuse(merges: Item, rules: Sequence[Json]) -> None:
    for index, rule in enumerate(rules):
        pair = rule.split(" ") if isinstance(rule, str) else rule
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise Item(merges.path, f"{merges.where}[{index}]", rule).wrong("two tokens")


def merges_txt(files: Files, name: str = "merges.txt") -> list[tuple[str, str]]:
    """The rules of a merges.txt: a `#version` line, then one rule in each line."""
    lines = files.text(name).split("\n")
    pairs = []
    for number, line in enumerate(lines, 1):
        parts = line.rstrip("\r").split(" ")
        if line.strip() == "" or (number == 1 and line.startswith("#version")):
            continue
        if len(parts) != 2:
            raise FormatError(files.path(name), f"line {number}: a rule must be two tokens, found {line[:60]!r}")
        pairs.append((parts[0], parts[1]))
    return pairs


def checked(pairs: Sequence[tuple[str, str]], ids: Mapping[str, int], path: Path) -> Sequence[tuple[str, str]]:
    """Refuse rules that name, or make, a token that is not in the vocabulary."""
    known = ids.keys()
    used = {text for pair in pairs for text in pair}
    if used <= known and {a + b for a, b in pairs} <= known:
        return pairs
    for index, (a, b) in enumerate(pairs):
        for text in (a, b, a + b):
            if text not in ids:
                raise FormatError(path, f"merges[{index}], {a!r} + {b!r}: {text!r} is not in the vocabulary")
    return pairs


def joined(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Pairs as GGUF writes them."""
    rules = list(map(" ".join, pairs))
    if sum(rule.count(" ") for rule in rules) == len(rules):
        return rules
    return [f"{a.replace(' ', _SPACE)} {b.replace(' ', _SPACE)}" for a, b in pairs]
