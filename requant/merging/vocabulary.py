"""Vocabularies of models: what their tokens are, whether two are the same, and what the result's is.

Ids of the first model stay, and no row of its embedding is left out: padding rows stay where they are. Tokens of
others follow after the last token, as added tokens. mergekit 0.1.5 cuts the embedding to the tokens there are instead,
which trims padding that some runtimes count on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from requant.errors import FormatError
from requant.expressions import Node
from requant.ir import Checkpoint, Naming, Tensor
from requant.json_values import TOKENIZER, parse_json
from requant.merging.precision import Precision
from requant.merging.token_rows import AVERAGE, MEAN, ZERO, Rows, TokenRows
from requant.merging.vocabulary_rules import TokenRule
from requant.sources import Memory, Source, read

FILE: Final = "tokenizer.json"
#: Files that say a tokenizer a second time, and would contradict a changed one.
_OTHERS: Final = (
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "vocab.txt",
    "tekken.json",
    "tiktoken.model",
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """ids: of every token, added ones included. document: tokenizer.json. files: what goes along with the result."""

    ids: Mapping[str, int]
    document: Mapping[str, Any]
    files: Mapping[str, Source] = field(default_factory=dict)

    @classmethod
    def of(
        cls, checkpoint: Checkpoint[Tensor], files: Mapping[str, Source], known: dict[bytes, Vocabulary]
    ) -> Vocabulary | None:
        """The tokenizer of a model whose `files` are in Hugging Face's words; None if it has none.

        known: by the bytes of tokenizer.json, those of other models, which are mostly the same. A tokenizer without
        that file is said in one first. Raises `FormatError` and `UnsupportedError`.
        """
        if FILE not in files:
            files = _with_document(replace(checkpoint, files=files)) if checkpoint.naming is Naming.HF else files
        if FILE not in files:
            return None
        path, data = checkpoint.folder / FILE, read(files[FILE]).tobytes()
        if data in known:
            return replace(known[data], files=files)
        try:
            document: Any = parse_json(data, path, TOKENIZER).object()
            vocab = document["model"]["vocab"]
            pairs = vocab.items() if isinstance(vocab, dict) else ((piece[0], n) for n, piece in enumerate(vocab))
            ids = {str(text): int(index) for text, index in pairs}
            ids |= {str(token["content"]): int(token["id"]) for token in document.get("added_tokens") or ()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise FormatError(path, f"no vocabulary is found in it: {type(error).__name__} {error}") from None
        known[data] = cls(ids, document, files)
        return known[data]

    def added(self) -> dict[str, dict[str, Any]]:
        """Added tokens by their text."""
        return {token["content"]: token for token in self.document.get("added_tokens") or ()}


def _with_document(checkpoint: Checkpoint[Tensor]) -> Mapping[str, Source]:
    """The files of a tokenizer that has only other files, with tokenizer.json."""
    from requant import tokenizers

    known = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
    if not any(name in checkpoint.files for name in known):
        return checkpoint.files
    made = tokenizers.to_hf(tokenizers.to_ggml(checkpoint, None).metadata)
    return {**made.files, **checkpoint.files, FILE: made.files[FILE]}


def differences(one: Vocabulary, other: Vocabulary, rows: int) -> list[str]:
    """Tokens that have another id, or none, in the other vocabulary; those beyond `rows` count for nothing."""
    if one.ids is other.ids or one.ids == other.ids:
        return []
    mine = {text for text, index in one.ids.items() if index < rows and other.ids.get(text) != index}
    theirs = {text for text, index in other.ids.items() if index < rows and one.ids.get(text) != index}
    return sorted(mine | theirs, key=lambda text: (one.ids.get(text, rows), text))


def union(first: Vocabulary, others: Sequence[Vocabulary], rows: Sequence[int], more: Sequence[str]) -> Vocabulary:
    """The first vocabulary, and after its last token what the others have besides.

    rows: of the embeddings; tokens beyond have none. more: tokens that rules name and no model has.
    """
    ids = dict(first.ids)
    added = list(first.document.get("added_tokens") or ())
    following = max(ids.values(), default=-1) + 1
    plain = [text for one, count in zip(others, rows, strict=True) for text, n in one.ids.items() if n < count]
    known = {text: token for one in reversed(others) for text, token in one.added().items()}
    # the plain tokens first, as mergekit has them
    for text in [*(t for t in plain if t not in known), *(t for t in plain if t in known), *more]:
        if text in ids:
            continue
        ids[text] = following
        added.append({**known.get(text, _PLAIN), "id": following, "content": text})
        following += 1
    if len(ids) == len(first.ids):
        return first
    document = {**first.document, "added_tokens": added}
    files = {name: source for name, source in first.files.items() if name not in _OTHERS}
    files[FILE] = Memory(json.dumps(document, ensure_ascii=False).encode())
    files |= _declared(files, added)
    return Vocabulary(ids, document, files)


#: A token that is added as plain text.
_PLAIN: Final = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


def _declared(files: Mapping[str, Source], added: Sequence[Mapping[str, Any]]) -> dict[str, Source]:
    """tokenizer_config.json with all added tokens, where it lists any."""
    name = "tokenizer_config.json"
    if name not in files:
        return {}
    config = parse_json(read(files[name]).tobytes(), Path(name)).object()
    if "added_tokens_decoder" not in config:
        return {}
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
    return {
        name: Memory(json.dumps({**config, "added_tokens_decoder": decoder}, ensure_ascii=False, indent=2).encode())
    }


@dataclass(frozen=True, slots=True)
class Alignment:
    """How the rows of every model's embedding become those of the result's vocabulary.

    vocabularies, rows: of the models that are merged, and how many rows their embeddings have. base: the number of the
    base model, or None. wanted: the result's ids. count: rows of the result.
    """

    vocabularies: tuple[Vocabulary, ...]
    rows: tuple[int, ...]
    base: int | None
    wanted: Mapping[str, int]
    count: int
    rules: Mapping[str, tuple[int, TokenRule]]  # by token: the number of the model that the rule names, or -1
    keeper: int  # the model whose rows stay where no token is

    def aligned(self, embeddings: tuple[Node, ...], own: int, precision: Precision) -> Node:
        """The embedding of model `own` as the result's vocabulary has it; as it is where nothing changes."""
        where = self._where(own)
        same = self.count == self.rows[own] and (where.models == own).all()
        if same and (where.rows == np.arange(self.count)).all():
            return embeddings[own]
        return TokenRows(embeddings, where, own, precision)

    def _where(self, own: int) -> Rows:
        models, rows = np.full(self.count, MEAN, np.int32), np.zeros(self.count, np.int64)
        kept = min(self.count, self.rows[self.keeper])  # padding: one model's rows, in every model
        models[:kept], rows[:kept] = self.keeper, np.arange(kept)
        averages: list[tuple[tuple[int, int], ...]] = []
        for text, index in self.wanted.items():
            if index >= self.count:
                continue
            model, row = self._row(text, own, averages)
            models[index], rows[index] = model, row
        return Rows(models, rows, tuple(averages))

    def _row(self, text: str, own: int, averages: list[tuple[tuple[int, int], ...]]) -> tuple[int, int]:
        """The model and the row that a token's row comes from, as mergekit chooses."""
        mine = self._index(text, own)
        named, rule = self.rules.get(text, (-1, None))
        if mine is not None and not (rule is not None and rule.force):
            return own, mine
        if rule is not None and (rule.zero or named >= 0):
            return (ZERO, 0) if rule.zero else (named, self._named(text, named, rule))
        have = [(n, index) for n in range(len(self.rows)) if (index := self._index(text, n)) is not None]
        if not have:
            return ZERO, 0
        if len(have) == 1:
            return have[0]
        if self.base is not None and (index := self._index(text, self.base)) is not None:
            return self.base, index
        averages.append(tuple(have))
        return AVERAGE, len(averages) - 1

    def _index(self, text: str, model: int) -> int | None:
        index = self.vocabularies[model].ids.get(text)
        return index if index is not None and index < self.rows[model] else None

    def _named(self, text: str, model: int, rule: TokenRule) -> int:
        """The row that a rule names."""
        index = rule.index if rule.index is not None else self._index(rule.token or text, model)
        if index is None or index >= self.rows[model]:
            raise rule.entry.wrong(f"{rule.model} has no row for {rule.token or rule.index or text!r}")
        return index
