"""`tokenizer.*` metadata read without trust, and the parts of a tokenizer.json that all models share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from requant.errors import FormatError
from requant.ir import Json, Typed
from requant.tokenizers.keys import ADD_KEYS, ID_KEYS, MODEL, SCORES, TOKENS, TYPES
from requant.tokenizers.vocabulary import TokenType

PADDING = re.compile(r"\u2581?\[PAD[0-9]+\]")


@dataclass(frozen=True, slots=True)
class GgmlTokenizer:
    """Metadata whose tokens and types are there and of one length."""

    metadata: Mapping[str, Typed]
    tokens: list[str]
    types: list[int]

    @classmethod
    def of(cls, metadata: Mapping[str, Typed]) -> GgmlTokenizer:
        """Check what every model needs."""
        tokens = strings(metadata, TOKENS)
        types = integers(metadata, TYPES) if TYPES in metadata else [int(TokenType.NORMAL)] * len(tokens)
        if len(types) != len(tokens):
            raise broken(f"{TYPES} has {len(types)} items for {len(tokens)} tokens")
        if len(set(tokens)) != len(tokens):
            raise broken(f"{TOKENS} has {len(tokens) - len(set(tokens))} tokens twice")
        return cls(metadata, tokens, types)

    def text(self, key: str, default: str = "") -> str:
        """A string value."""
        value = self.metadata[key].value if key in self.metadata else default
        if isinstance(value, str):
            return value
        raise broken(f"{key} must be a string, found {self.metadata[key].kind}")

    def flag(self, key: str, default: bool) -> bool:
        """A boolean value."""
        value = self.metadata[key].value if key in self.metadata else default
        if isinstance(value, bool):
            return value
        raise broken(f"{key} must be a bool, found {self.metadata[key].kind}")

    def special_ids(self) -> dict[str, int]:
        """The id of each special token that the file names, by HF's word. Ids out of range count as not named."""
        found = {}
        for kind, key in ID_KEYS.items():
            value = self.metadata[key].value if key in self.metadata else None
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.tokens):
                found[kind] = value
        return found

    def is_padding(self, index: int) -> bool:
        """Whether a token only fills a row of the embedding."""
        return self.types[index] == TokenType.UNUSED and PADDING.fullmatch(self.tokens[index]) is not None


def _array(metadata: Mapping[str, Typed], key: str, item: type) -> list[object]:
    if key not in metadata:
        raise broken(f"{key} is missing")
    value = metadata[key].value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise broken(f"{key} must be an array, found {metadata[key].kind}")
    items = list(value)
    if set(map(type, items)) - {item}:
        raise broken(f"{key} must be an array of {item.__name__}, found {metadata[key].kind}")
    return items


def strings(metadata: Mapping[str, Typed], key: str) -> list[str]:
    """An array of strings."""
    return cast("list[str]", _array(metadata, key, str))


def integers(metadata: Mapping[str, Typed], key: str) -> list[int]:
    """An array of integers."""
    return cast("list[int]", _array(metadata, key, int))


def scores_of(tokenizer: GgmlTokenizer) -> list[float]:
    """The score of every token."""
    scores = cast("list[float]", _array(tokenizer.metadata, SCORES, float))
    if len(scores) != len(tokenizer.tokens):
        raise broken(f"{SCORES} has {len(scores)} items for {len(tokenizer.tokens)} tokens")
    return scores


def broken(message: str) -> FormatError:
    """The error for metadata that no tokenizer has."""
    return FormatError(Path("metadata"), message)


def added_token(index: int, text: str, special: bool) -> dict[str, Json]:
    """The declaration of a token that is looked for before the text is split."""
    return {
        "id": index,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def placed(tokenizer: GgmlTokenizer) -> tuple[dict[str, Json], list[Json]]:
    """Token texts with their ids, padding left out, and the declarations of the added ones.

    Added tokens stand in the vocabulary too: that is the only way to give them any id.
    """
    ids: dict[str, Json] = {text: index for index, text in enumerate(tokenizer.tokens)}
    added: list[Json] = []
    usual = (TokenType.NORMAL, TokenType.BYTE)
    for index, kind in enumerate(tokenizer.types):
        if kind in usual:
            continue
        text = tokenizer.tokens[index]
        if tokenizer.is_padding(index):
            del ids[text]
        elif kind != TokenType.UNUSED:
            added.append(added_token(index, text, special=kind != TokenType.USER_DEFINED))
    return ids, added


#: The special tokens llama.cpp assumes when a file does not name them (`llama_vocab::impl::load`).
_ASSUMED: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "gpt2": {"bos": 11, "eos": 11},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}


def assumed_ids(tokenizer: GgmlTokenizer) -> dict[str, int]:
    """The special tokens that llama.cpp will use, named by the file or not."""
    assumed = _ASSUMED.get(tokenizer.text(MODEL), {})
    known = {kind: index for kind, index in assumed.items() if index < len(tokenizer.tokens)}
    return {**known, **tokenizer.special_ids()}


def ends(tokenizer: GgmlTokenizer, add_bos: bool, add_eos: bool = False) -> tuple[int | None, int | None]:
    """The tokens put before and after a text. add_bos, add_eos: what llama.cpp does when the file does not say."""
    ids = assumed_ids(tokenizer)
    first = ids.get("bos") if tokenizer.flag(ADD_KEYS["bos"], add_bos) else None
    last = ids.get("eos") if tokenizer.flag(ADD_KEYS["eos"], add_eos) else None
    return first, last


def template(tokenizer: GgmlTokenizer, first: int | None, last: int | None) -> Json:
    """The post-processor that puts these tokens round a text, or null."""
    if first is None and last is None:
        return None

    def token(index: int, type_id: int) -> Json:
        return {"SpecialToken": {"id": tokenizer.tokens[index], "type_id": type_id}}

    def around(name: str, type_id: int, start: int | None, end: int | None) -> list[Json]:
        before = [] if start is None else [token(start, type_id)]
        after = [] if end is None else [token(end, type_id)]
        return [*before, {"Sequence": {"id": name, "type_id": type_id}}, *after]

    separator = assumed_ids(tokenizer).get("sep")
    if ADD_KEYS["sep"] not in tokenizer.metadata:
        pair = [*around("A", 0, first, None), *around("B", 1, None, last)]
    elif tokenizer.flag(ADD_KEYS["sep"], False) and separator is not None:
        pair = [*around("A", 0, first, last), token(separator, 0), *around("B", 1, None, last)]
    else:
        pair = [*around("A", 0, first, last), *around("B", 1, first, last)]
    used = {tokenizer.tokens[index]: index for index in (first, last, separator) if index is not None}
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0, first, last),
        "pair": pair,
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in used.items()},
    }


def bpe_model(vocab: dict[str, Json], merges: list[Json], **said: Json) -> dict[str, Json]:
    """The `model` of a tokenizer.json with BPE. said: what is not as usual: `unk_token`, `byte_fallback`, …"""
    usual: dict[str, Json] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
    }
    return usual | said


def document(
    added: list[Json],
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: dict[str, Json],
) -> dict[str, Json]:
    """A whole tokenizer.json."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    }
