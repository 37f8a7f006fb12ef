"""Two tokenizers beside each other: tokens, merges, special ids, how text is split, and templates.

Both are compared as GGUF keeps them; of a folder whose tokenizer files are those of the other, nothing is parsed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from requant import tokenizers
from requant.comparing.settings import Setting, Status, compared_key
from requant.comparing.words import Pair, Said, Words
from requant.errors import Error
from requant.ir import Json, Naming, Typed
from requant.merging.vocabulary import Vocabulary
from requant.sources import Source, read
from requant.tokenizers.keys import (
    CHARSMAP,
    CHAT_TEMPLATE,
    CHAT_TEMPLATES,
    MERGES,
    MODEL,
    SCORES,
    TOKENS,
    TYPE_COUNT,
    TYPES,
)
from requant.tokenizers.metadata import PADDING
from requant.tokenizers.vocabulary import TokenType

#: Files of a folder that say what tokens there are, and how text becomes them.
FILES: Final = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt|chat_template.*"
    r"|spiece\.model|sentencepiece\.bpe\.model|tekken\.json|(?:qwen|tiktoken)\.(?:tiktoken|model)"
)
#: What is compared item by item.
_LISTS: Final = (TOKENS, SCORES, TYPES, MERGES)
#: Items of a list that a document carries; the rest is counted.
LONGEST: Final = 1000


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is not on both sides with the same id. a, b: its ids; None where it is not."""

    text: str
    a: int | None
    b: int | None


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template that differs. name: "" for the one that is used. diff: as `diff -u` prints it."""

    name: str
    diff: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Merges:
    """Rules of byte pairs. only_a, only_b: those that the other side lacks. moved: whether the rest is in another
    order."""

    a: int
    b: int
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    moved: bool = False

    @property
    def differ(self) -> bool:
        """Whether they are not the same."""
        return bool(self.only_a or self.only_b or self.moved)


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """What differs between two tokenizers.

    tokens_a, tokens_b: how many, rows that are only filled up left out; None where there is no tokenizer. tokens: those
    that have not the same id on both sides. retyped: (token, type in A, type in B). rescored: how many with another
    score.
    settings: special ids, the pre-tokenizer, and the like. losses: what of a folder's has no place in these words.
    unread: why not everything was compared. same_files: whether nothing had to be, for all files are the same.
    """

    tokens_a: int | None = None
    tokens_b: int | None = None
    tokens: tuple[Token, ...] = ()
    retyped: tuple[tuple[str, str, str], ...] = ()
    rescored: int = 0
    merges: Merges = Merges(0, 0)
    settings: tuple[Setting, ...] = ()
    templates: tuple[Template, ...] = ()
    losses: tuple[str, ...] = ()
    unread: str = ""
    same_files: bool = False

    @property
    def differ(self) -> bool:
        """Whether anything does that both could hold."""
        return bool(
            self.tokens
            or self.retyped
            or self.rescored
            or self.merges.differ
            or any(row.is_difference for row in self.settings)
            or self.templates
            or (self.tokens_a is None) is not (self.tokens_b is None)
        )

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`; of long lists the beginning."""
        return {
            "tokens_a": self.tokens_a,
            "tokens_b": self.tokens_b,
            "differing_tokens": len(self.tokens),
            "tokens": [{"text": one.text, "a": one.a, "b": one.b} for one in self.tokens[:LONGEST]],
            "retyped": [{"text": text, "a": a, "b": b} for text, a, b in self.retyped[:LONGEST]],
            "rescored": self.rescored,
            "merges_a": self.merges.a,
            "merges_b": self.merges.b,
            "merges_only_a": list(self.merges.only_a[:LONGEST]),
            "merges_only_b": list(self.merges.only_b[:LONGEST]),
            "merges_moved": self.merges.moved,
            "settings": [row.to_json() for row in self.settings],
            "templates": [{"name": one.name, "diff": list(one.diff)} for one in self.templates],
            "lost": list(self.losses),
            "unread": self.unread,
            "same_files": self.same_files,
        }


def compared_vocabularies(pair: Pair) -> Vocabularies:
    """What differs between the tokenizers of two models; nothing is raised for one that cannot be read."""
    sources = (pair.a.source, pair.b.source)
    if all(source.naming is Naming.HF for source in sources) and _same_files(*(s.files for s in sources)):
        return Vocabularies(same_files=True)
    told: list[str] = []
    found: list[Mapping[str, Typed]] = []
    for side, said in (("A", pair.a), ("B", pair.b)):
        try:
            metadata, losses = _metadata(said)
        except Error as error:
            return _by_documents(pair, f"{side}: {error}")
        found.append(metadata)
        told += losses
    return _compared(found[0], found[1], tuple(told), kinds=pair.words is Words.GGUF and _alike(pair))


def _alike(pair: Pair) -> bool:
    return pair.a.source.naming is pair.b.source.naming


def _same_files(a: Mapping[str, Source], b: Mapping[str, Source]) -> bool:
    """Whether both folders have the same tokenizer files, byte by byte."""
    names = {name for name in (*a, *b) if FILES.fullmatch(name)}
    return bool(names) and all(
        name in a and name in b and a[name].nbytes == b[name].nbytes and _equal(a[name], b[name]) for name in names
    )


def _equal(one: Source, other: Source) -> bool:
    return bool((read(one) == read(other)).all())


def _by_documents(pair: Pair, why: str) -> Vocabularies:
    """Tokens alone, out of the tokenizer.json of both, where no GGUF has such tokenizers."""
    known: dict[bytes, Vocabulary] = {}
    try:
        found = [Vocabulary.of(said.source, said.source.files, known) for said in (pair.a, pair.b)]
    except Error:
        found = [None, None]
    one, other = found
    if one is None or other is None:
        return Vocabularies(unread=why)
    tokens = [Token(text, one.ids.get(text), other.ids.get(text)) for text in {**one.ids, **other.ids}]
    moved = tuple(token for token in tokens if token.a != token.b)
    return Vocabularies(len(one.ids), len(other.ids), moved, unread=f"{why}; tokens are those of tokenizer.json")


def _metadata(said: Said) -> tuple[Mapping[str, Typed], list[str]]:
    """A model's tokenizer as GGUF keeps it, and what has no place there."""
    source = said.source
    if source.naming is Naming.GGML:
        return _without_segments(source.metadata, said), []
    told = _without_segments(said.metadata, said) if said.translated else {}  # what the family's table says of them
    if not any(FILES.fullmatch(name) for name in source.files):
        return told, []
    embedding = said.moves.get("token_embd.weight") if said.translated else None
    outcome = tokenizers.to_ggml(source, None if embedding is None else embedding.shape[0])
    return told | outcome.metadata, [f"{loss.subject}: {loss.detail}" for loss in outcome.losses]


def _without_segments(metadata: Mapping[str, Typed], said: Said) -> dict[str, Typed]:
    """Keys of a tokenizer; in words of folders without the count of a BERT's segments, which config.json has."""
    left = {TYPE_COUNT} if said.naming is Naming.HF else set()
    return {key: typed for key, typed in metadata.items() if key.startswith("tokenizer.") and key not in left}


def _compared(a: Mapping[str, Typed], b: Mapping[str, Typed], losses: tuple[str, ...], *, kinds: bool) -> Vocabularies:
    tokens = [_items(side, TOKENS) for side in (a, b)]
    types = [_items(side, TYPES) for side in (a, b)]
    counts = [
        None if _has_none(side) else _tokens_of(texts, kind)
        for side, texts, kind in zip((a, b), tokens, types, strict=True)
    ]
    settings = tuple(_settings(a, b, kinds=kinds))
    templates = tuple(_templates(a, b))
    if any(_has_none(side) for side in (a, b)):  # one that is absent is no other than one of the model `none`
        shared = tuple(row for row in settings if row.key != MODEL) if counts[0] == counts[1] else ()
        return Vocabularies(counts[0], counts[1], settings=shared, losses=losses)
    same = tokens[0] == tokens[1] and types[0] == types[1]
    return Vocabularies(
        counts[0],
        counts[1],
        () if same else tuple(_moved(tokens[0], types[0], tokens[1], types[1])),
        () if same else tuple(_retyped(tokens[0], types[0], tokens[1], types[1])),
        _rescored(tokens[0], _items(a, SCORES), tokens[1], _items(b, SCORES)),
        _merges(_items(a, MERGES), _items(b, MERGES)),
        settings,
        templates,
        losses,
    )


def _has_none(metadata: Mapping[str, Typed]) -> bool:
    """Whether there is no tokenizer."""
    typed = metadata.get(MODEL)
    return typed is None or typed.value == "none"


def _items(metadata: Mapping[str, Typed], key: str) -> list[object]:
    typed = metadata.get(key)
    return list(typed.value) if typed is not None and isinstance(typed.value, Sequence) else []


def _tokens_of(texts: Sequence[object], types: Sequence[object]) -> int:
    return sum(not _is_padding(text, kind) for text, kind in _typed(texts, types))


def _typed(texts: Sequence[object], types: Sequence[object]) -> Iterator[tuple[str, object]]:
    """Tokens with their types, which a file may lack."""
    for index, text in enumerate(texts):
        yield str(text), types[index] if index < len(types) else int(TokenType.NORMAL)


def _is_padding(text: str, kind: object) -> bool:
    """Whether a token only fills a row of the embedding."""
    return kind == TokenType.UNUSED and PADDING.fullmatch(text) is not None


def _ids(texts: Sequence[object], types: Sequence[object]) -> dict[str, int]:
    return {text: index for index, (text, kind) in enumerate(_typed(texts, types)) if not _is_padding(text, kind)}


def _moved(
    texts: Sequence[object], types: Sequence[object], other_texts: Sequence[object], other_types: Sequence[object]
) -> Iterator[Token]:
    """Tokens that have not the same id on both sides, in the order of the ids."""
    ours, theirs = _ids(texts, types), _ids(other_texts, other_types)
    names = [text for text in {**ours, **theirs} if ours.get(text) != theirs.get(text)]
    for text in sorted(names, key=lambda text: (ours.get(text, theirs.get(text, 0)), text)):
        yield Token(text, ours.get(text), theirs.get(text))


def _retyped(
    texts: Sequence[object], types: Sequence[object], other_texts: Sequence[object], other_types: Sequence[object]
) -> Iterator[tuple[str, str, str]]:
    """Tokens of the same id with another type on the other side."""
    pairs = zip(_typed(texts, types), _typed(other_texts, other_types), strict=False)
    for (text, kind), (other, theirs) in pairs:
        if text == other and kind != theirs:
            yield text, _type_name(kind), _type_name(theirs)


def _type_name(kind: object) -> str:
    known = {int(one): one.name.lower().replace("_", " ") for one in TokenType}
    return known.get(kind, str(kind)) if isinstance(kind, int) else str(kind)


def _rescored(
    texts: Sequence[object], scores: Sequence[object], other_texts: Sequence[object], other_scores: Sequence[object]
) -> int:
    """How many tokens have another score; a list that one side lacks is nothing but that."""
    if not scores or not other_scores or (scores == other_scores and texts == other_texts):
        return 0
    ours = dict(zip(texts, scores, strict=False))
    theirs = dict(zip(other_texts, other_scores, strict=False))
    return sum(text in theirs and score != theirs[text] for text, score in ours.items())


def _merges(ours: Sequence[object], theirs: Sequence[object]) -> Merges:
    if ours == theirs:
        return Merges(len(ours), len(theirs))
    mine, others = dict.fromkeys(map(str, ours)), dict.fromkeys(map(str, theirs))
    only_a, only_b = [one for one in mine if one not in others], [one for one in others if one not in mine]
    common = [one for one in mine if one in others]
    moved = common != [one for one in others if one in mine]
    return Merges(len(ours), len(theirs), tuple(only_a), tuple(only_b), moved)


def _settings(a: Mapping[str, Typed], b: Mapping[str, Typed], *, kinds: bool) -> Iterator[Setting]:
    """Everything that is neither a list of tokens nor a template."""
    for key in dict.fromkeys((*a, *b)):
        if key not in _LISTS and not key.startswith(CHAT_TEMPLATE):
            row = compared_key(key, a.get(key), b.get(key), kinds=kinds)
            if row is not None:
                charsmap = key == CHARSMAP and row.status is Status.DIFFERS
                yield replace(row, a=None, b=None, detail="other bytes") if charsmap else row


def _templates(a: Mapping[str, Typed], b: Mapping[str, Typed]) -> Iterator[Template]:
    """Those that differ, line by line."""
    keys = [key for key in dict.fromkeys((*a, *b)) if key.startswith(CHAT_TEMPLATE) and key != CHAT_TEMPLATES]
    for key in keys:
        one, other = (str(side[key].value) if key in side else "" for side in (a, b))
        if one != other:
            lines = difflib.unified_diff(one.split("\n"), other.split("\n"), "A", "B", lineterm="")
            yield Template(key.removeprefix(CHAT_TEMPLATE).lstrip("."), tuple(lines))
