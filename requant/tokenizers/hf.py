"""`tokenizer.*` metadata -> HF tokenizer files that `tokenizers` and `AutoTokenizer` load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from requant.errors import FormatError, UnsupportedError
from requant.ir import Json, Typed
from requant.plan import Loss, LossKind
from requant.sources import Memory, Source
from requant.tokenizers import bpe
from requant.tokenizers.pre_tokenizers import BY_NAME, GPT2, PreTokenizer
from requant.tokenizers.special import ADD_KEYS, CHAT_TEMPLATE, CHAT_TEMPLATES, ID_KEYS
from requant.tokenizers.vocabulary import TokenType


@dataclass(frozen=True, slots=True)
class HfTokenizer:
    """files: tokenizer files by name. config: what config.json must say, such as bos_token_id."""

    files: dict[str, Source]
    config: dict[str, Json] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True, slots=True)
class GgmlTokenizer:
    """The metadata with its types checked."""

    metadata: Mapping[str, Typed]
    tokens: list[str]
    types: list[int]

    @classmethod
    def of(cls, metadata: Mapping[str, Typed]) -> GgmlTokenizer:
        """Check that the arrays are there, of their types and of one length."""
        tokens = strings(metadata, bpe.TOKENS)
        types = integers(metadata, bpe.TYPES) if bpe.TYPES in metadata else [1] * len(tokens)
        if len(types) != len(tokens):
            raise _broken(f"{bpe.TYPES} has {len(types)} items for {len(tokens)} tokens")
        return cls(metadata, tokens, types)

    def text(self, key: str, default: str = "") -> str:
        """A string value."""
        value = self.metadata[key].value if key in self.metadata else default
        if isinstance(value, str):
            return value
        raise _broken(f"{key} must be a string, found {self.metadata[key].kind}")

    def flag(self, key: str, default: bool) -> bool:
        """A boolean value."""
        value = self.metadata[key].value if key in self.metadata else default
        if isinstance(value, bool):
            return value
        raise _broken(f"{key} must be a bool, found {self.metadata[key].kind}")

    def special_ids(self) -> dict[str, int]:
        """The id of each special token that the file names, by HF's word."""
        found = {}
        for kind, key in ID_KEYS.items():
            value = self.metadata[key].value if key in self.metadata else None
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.tokens):
                found[kind] = value
        return found


def _array(metadata: Mapping[str, Typed], key: str, item: type) -> list[object]:
    if key not in metadata:
        raise _broken(f"{key} is missing")
    value = metadata[key].value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _broken(f"{key} must be an array, found {metadata[key].kind}")
    items = list(value)
    if set(map(type, items)) - {item}:
        raise _broken(f"{key} must be an array of {item.__name__}, found {metadata[key].kind}")
    return items


def strings(metadata: Mapping[str, Typed], key: str) -> list[str]:
    """An array of strings."""
    return cast("list[str]", _array(metadata, key, str))


def integers(metadata: Mapping[str, Typed], key: str) -> list[int]:
    """An array of integers."""
    return cast("list[int]", _array(metadata, key, int))


def _broken(message: str) -> FormatError:
    return FormatError(Path("metadata"), message)


def to_hf(metadata: Mapping[str, Typed]) -> HfTokenizer:
    """Write a GGUF's tokenizer as tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    tokenizer = GgmlTokenizer.of(metadata)
    model = tokenizer.text(bpe.MODEL)
    if model == "gpt2":
        document, losses = byte_level(tokenizer)
    else:
        raise UnsupportedError(f"{bpe.MODEL} is {model!r}: there is no tokenizer.json for it")
    ids = tokenizer.special_ids()
    names: dict[str, Json] = {f"{kind}_token": tokenizer.tokens[index] for kind, index in ids.items() if kind in _NAMED}
    config = {
        **{key.rpartition(".")[2]: tokenizer.flag(key, False) for key in ADD_KEYS.values() if key in metadata},
        **_prefix(tokenizer),
        "added_tokens_decoder": _decoder(document),
        **names,
        "clean_up_tokenization_spaces": _cleans(tokenizer),
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_chat(tokenizer),
    }
    files: dict[str, Source] = {
        "tokenizer.json": _file(document, indent=None),
        "tokenizer_config.json": _file(config),
        "special_tokens_map.json": _file(names),
    }
    return HfTokenizer(files, {f"{kind}_token_id": index for kind, index in ids.items() if kind in _NAMED}, losses)


_NAMED = ("bos", "eos", "unk", "sep", "pad", "mask")


def _file(value: object, indent: int | None = 2) -> Memory:
    return Memory(json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8", "surrogateescape"))


def _prefix(tokenizer: GgmlTokenizer) -> dict[str, Json]:
    key = "tokenizer.ggml.add_space_prefix"
    return {"add_prefix_space": tokenizer.flag(key, False)} if key in tokenizer.metadata else {}


def _cleans(tokenizer: GgmlTokenizer) -> bool:
    row = BY_NAME.get(tokenizer.text(bpe.PRE, "default"))
    return tokenizer.text(bpe.MODEL) == "gpt2" and row is not None and row.clean_spaces


def _decoder(document: dict[str, Json]) -> dict[str, Json]:
    added = document["added_tokens"]
    assert isinstance(added, list)
    tokens = [token for token in added if isinstance(token, dict)]
    return {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens}


def _chat(tokenizer: GgmlTokenizer) -> dict[str, Json]:
    names = strings(tokenizer.metadata, CHAT_TEMPLATES) if CHAT_TEMPLATES in tokenizer.metadata else []
    default = tokenizer.text(CHAT_TEMPLATE)
    if not names:
        return {"chat_template": default} if default else {}
    templates: list[Json] = [{"name": "default", "template": default}] if default else []
    templates += [{"name": name, "template": tokenizer.text(f"{CHAT_TEMPLATE}.{name}")} for name in names]
    return {"chat_template": templates}


def byte_level(tokenizer: GgmlTokenizer) -> tuple[dict[str, Json], tuple[Loss, ...]]:
    """tokenizer.json of the model `gpt2`."""
    name = tokenizer.text(bpe.PRE, "default")
    row = BY_NAME.get(name)
    losses: tuple[Loss, ...] = ()
    if row is None:
        row = BY_NAME["gpt-2"]
        losses = (Loss(LossKind.TOKENIZER_CHANGED, bpe.PRE, f"{name!r} is not known here; written as GPT-2's"),)
    merges: list[Json] = list(strings(tokenizer.metadata, bpe.MERGES))
    ids, added = placed(tokenizer)
    document: dict[str, Json] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": row.normalizer} if row.normalizer else None,
        "pre_tokenizer": pre_tokenizer_json(row),
        "post_processor": template(tokenizer, row),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": row.ignore_merges,
            "vocab": ids,
            "merges": merges,
        },
    }
    return document, losses


def placed(tokenizer: GgmlTokenizer) -> tuple[dict[str, Json], list[Json]]:
    """Token texts with their ids, padding left out, and the declarations of those to be found before splitting.

    Added tokens stand in the vocabulary too: that is the only way to give them any id.
    """
    ids: dict[str, Json] = {}
    added: list[Json] = []
    special = (TokenType.CONTROL, TokenType.UNKNOWN)
    for index, (text, kind) in enumerate(zip(tokenizer.tokens, tokenizer.types, strict=True)):
        if kind == TokenType.UNUSED and text == f"[PAD{index}]":
            continue
        ids[text] = index
        if kind in special or kind == TokenType.USER_DEFINED:
            added.append(
                {
                    "id": index,
                    "content": text,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": kind in special,
                }
            )
    return ids, added


def pre_tokenizer_json(row: PreTokenizer) -> Json:
    """The cuts of a row, then bytes written as letters."""
    if row.splits == (GPT2,):
        return _bytes(use_regex=True)
    steps: list[Json] = []
    for pattern in row.splits[:-1] if row.splits[-1] == GPT2 else row.splits:
        if pattern in (r"\p{N}", r"\p{N}+"):
            steps.append({"type": "Digits", "individual_digits": pattern == r"\p{N}"})
        else:
            steps.append({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
    return {"type": "Sequence", "pretokenizers": [*steps, _bytes(use_regex=row.splits[-1] == GPT2)]}


def _bytes(use_regex: bool) -> dict[str, Json]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def template(tokenizer: GgmlTokenizer, row: PreTokenizer) -> Json:
    """The post-processor that puts the first and last token round a text, or null."""
    ids = tokenizer.special_ids()
    first = ids.get("bos") if tokenizer.flag(ADD_KEYS["bos"], row.add_bos) else None
    last = ids.get("eos") if tokenizer.flag(ADD_KEYS["eos"], False) else None
    if first is None and last is None:
        return None

    def token(index: int, type_id: int) -> Json:
        return {"SpecialToken": {"id": tokenizer.tokens[index], "type_id": type_id}}

    def around(name: str, type_id: int) -> list[Json]:
        before = [] if first is None else [token(first, type_id)]
        after = [] if last is None else [token(last, type_id)]
        return [*before, {"Sequence": {"id": name, "type_id": type_id}}, *after]

    pair = around("A", 0) + around("B", 1)
    if ADD_KEYS["sep"] not in tokenizer.metadata:
        pair = [*around("A", 0)[: None if last is None else -1], *around("B", 1)[0 if first is None else 1 :]]
    elif tokenizer.flag(ADD_KEYS["sep"], False) and "sep" in ids:
        pair = [*around("A", 0), token(ids["sep"], 0), *around("B", 1)[0 if first is None else 1 :]]
    used = {tokenizer.tokens[index]: index for index in (first, last, ids.get("sep")) if index is not None}
    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in used.items()},
    }
