"""What every tokenizer has: tokens with an id, a type and perhaps a score.

Token types are those of `llama_token_type` in llama.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import cast

from requant.digits import whole
from requant.errors import FormatError, PlanError
from requant.ir import Typed
from requant.json_values import Item
from requant.losses import Loss
from requant.printable import printable
from requant.tokenizers.files import Files

ADDED_SCORE, PADDING_SCORE = -1000.0, -10000.0  #: what convert_hf_to_gguf.py gives them


class TokenType(IntEnum):
    """How llama.cpp treats a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # never made from plain text, never printed
    USER_DEFINED = 4  # found in the text before anything else is done
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is looked for in the text before the text is split.

    lstrip, rstrip: swallow the white space on that side. normalized: looked for after normalization.
    """

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id, and how llama.cpp is to treat each."""

    tokens: list[str]
    types: list[int]


@dataclass(frozen=True, slots=True)
class ModelPart:
    """What one kind of model makes of its files.

    metadata: its keys, special tokens left out. ids: of every text, as HF writes it. add_bos: whether llama.cpp puts
    a first token before the text when the file does not say.
    """

    metadata: dict[str, Typed]
    ids: Mapping[str, int]
    added: Mapping[int, AddedToken]
    rows: int
    add_bos: bool = False
    losses: tuple[Loss, ...] = ()


#: Texts that are control tokens even where the checkpoint forgot to say so (conversion/base.py of llama.cpp).
_LOOK_SPECIAL = frozenset(["<pad>", "<mask>", "<2mass>", "[@BOS@]"])
_SPECIAL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))

SPACE = "\u2581"  # SentencePiece's visible space


def looks_special(text: str) -> bool:
    """Whether a token that is not marked special is meant to be."""
    return text in _LOOK_SPECIAL or any(text.startswith(a) and text.endswith(b) for a, b in _SPECIAL_BRACKETS)


def type_of_added(token: AddedToken) -> TokenType:
    """Special ones are control tokens, the others are found in plain text too."""
    return TokenType.CONTROL if token.special or looks_special(token.content) else TokenType.USER_DEFINED


def ids_of(vocab: Item) -> dict[str, int]:
    """The `vocab` object of a model, checked as a whole: 150,000 tokens pass in a few milliseconds."""
    found = vocab.object()
    ids = cast("dict[str, int]", found)
    if set(map(type, found.values())) - {int} or min(ids.values(), default=0) < 0:
        for name, value in found.items():
            Item(vocab.path, f"{vocab.where}[{name!r}]", value).integer()
    if len(set(ids.values())) != len(ids):
        seen: dict[int, str] = {}
        for name, index in ids.items():
            if index in seen:
                raise FormatError(vocab.path, f"{vocab.where}: {seen[index]!r} and {name!r} have the same id {index}")
            seen[index] = name
    return ids


def added_tokens(files: Files, tokenizer_json: bool = True) -> dict[int, AddedToken]:
    """The added tokens that the embedding has a row for."""
    return {index: token for index, token in _declared(files, tokenizer_json).items() if _has_row(files, index)}


def rowless(files: Files) -> tuple[AddedToken, ...]:
    """Added tokens beyond the embedding: no text is made of them, so that a vocabulary may do without.

    The published text model of Gemma 3 1B has one, for images.
    """
    return tuple(token for index, token in _declared(files, True).items() if not _has_row(files, index))


def _has_row(files: Files, index: int) -> bool:
    return files.rows is None or index < files.rows


def _declared(files: Files, tokenizer_json: bool) -> dict[int, AddedToken]:
    """The added tokens of tokenizer.json, tokenizer_config.json and added_tokens.json; the first named wins."""
    found: dict[int, AddedToken] = {}
    for item in files.json("tokenizer.json").get("added_tokens").items() if tokenizer_json else ():
        token = _added(item, item.get("id").integer())
        if token.id in found:
            raise FormatError(item.path, f"{item.where}: id {token.id} is already {found[token.id].content!r}")
        found[token.id] = token
    decoder = files.json("tokenizer_config.json").get("added_tokens_decoder")
    for key in decoder.object() if decoder.value is not None else ():
        index = whole(key)
        if index is None:
            raise FormatError(decoder.path, f"{decoder.where}: {printable(key, 60)!r} is not a token id")
        found.setdefault(index, _added(decoder.get(key), index))
    texts = {token.content for token in found.values()}
    for text, index in ids_of(files.json("added_tokens.json")).items():
        if text not in texts:
            found.setdefault(index, AddedToken(index, text, special=False))
    return found


def with_named(
    names: Iterable[str], ids: Mapping[str, int], added: Mapping[int, AddedToken], rows: int | None
) -> dict[int, AddedToken]:
    """`added`, and the special tokens that are named but not declared, which `transformers` makes control tokens.

    One that is in no vocabulary gets the next free id, as there, if the embedding has a row for it.
    """
    found = dict(added)
    texts = {token.content for token in added.values()}
    for name in dict.fromkeys(names):
        if name in texts:
            continue
        index = ids.get(name, max([len(ids) - 1, *found]) + 1)
        if index not in found and (name in ids or (rows is not None and index < rows)):
            found[index] = AddedToken(index, name, special=True)
    return found


def _added(item: Item, index: int) -> AddedToken:
    return AddedToken(
        id=index,
        content=item.get("content").string(),
        special=item.get("special").flag(),
        lstrip=item.get("lstrip").flag(),
        rstrip=item.get("rstrip").flag(),
        single_word=item.get("single_word").flag(),
        normalized=item.get("normalized").flag(),
    )


def laid_out(
    ids: Mapping[str, int],
    added: Iterable[AddedToken],
    rows: int | None,
    path: Path,
    without: Iterable[AddedToken] = (),
) -> Vocabulary:
    """All tokens by id, holes and the rest of the embedding filled with unused `[PADn]` tokens.

    without: added tokens that are left out (see `rowless`), even if the vocabulary has their texts. Other ids past the
    embedding are a `PlanError`: llama.cpp would read past the matrix. Two ids of one text are a `FormatError`:
    llama.cpp stops on them.
    """
    added, gone = list(added), {token.id: token.content for token in without}
    if gone:
        ids = {text: index for text, index in ids.items() if gone.get(index) != text}
    size = max([*ids.values(), *(token.id for token in added)], default=-1) + 1
    if rows is not None and size > rows:
        over = {index: text for text, index in ids.items() if index >= rows}
        over.update((token.id, token.content) for token in added if token.id >= rows)
        first = min(over)
        raise PlanError(
            f"{path}: the vocabulary has ids up to {size - 1} but the token embedding only {rows} rows"
            f" (token {first}, {over[first]!r}, has none)",
            hint="are the tokenizer files another checkpoint's, or was the embedding not resized after adding tokens?",
        )
    if size > 2 * (len(ids) + len(added)) + 65536:
        raise FormatError(path, f"token ids go up to {size - 1} for {len(ids) + len(added)} tokens")
    count = size if rows is None else rows
    tokens: list[str | None] = [None] * count
    types = [int(TokenType.NORMAL)] * count
    for text, index in ids.items():
        tokens[index] = text
    for token in added:
        kind = type_of_added(token)
        # llama.cpp looks for these in the text as it is, where a space is a space
        text = token.content.replace(SPACE, " ") if kind is TokenType.USER_DEFINED else token.content
        tokens[token.id], types[token.id] = text, int(kind)
    for index, text_or_hole in enumerate(tokens):
        if text_or_hole is None:
            tokens[index], types[index] = f"[PAD{index}]", int(TokenType.UNUSED)
    filled = [text for text in tokens if text is not None]
    _refuse_twins(filled, path)
    return Vocabulary(filled, types)


def _refuse_twins(tokens: list[str], path: Path) -> None:
    if len(set(tokens)) == len(tokens):
        return
    seen: dict[str, int] = {}
    for index, text in enumerate(tokens):
        if text in seen:
            raise FormatError(
                path, f"tokens {seen[text]} and {index} are both {text!r}; llama.cpp needs every token to be unique"
            )
        seen[text] = index
