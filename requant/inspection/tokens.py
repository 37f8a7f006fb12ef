"""What a tokenizer is like, said as llama.cpp has it, whatever files it lies in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Naming, Tensor, Typed
from requant.tokenizers.byte_letters import LETTERS
from requant.tokenizers.keys import ADD_KEYS, ID_KEYS, MERGES, MODEL, PRE, SCORES, TOKENS, TYPES
from requant.tokenizers.vocabulary import TokenType

_PADDING: Final = re.compile(r"\u2581?\[PAD[0-9]+\]")


@dataclass(frozen=True, slots=True)
class Token:
    """One token; score: None where the tokenizer has none."""

    id: int
    text: str
    kind: str
    score: float | None

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {"id": self.id, "text": self.text, "type": self.kind, "score": self.score}


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """model, pre: llama.cpp's names. types: how many tokens are of which. padding: of them, how many only fill up.

    special: what a token is for -> it. adds: what is put before or after a text, as far as the files say.
    """

    model: str
    pre: str
    types: Mapping[str, int]
    padding: int
    merges: int
    special: Mapping[str, Token]
    adds: Mapping[str, bool]
    longest: Token | None
    tokens: Sequence[Token]

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "model": self.model,
            "pre": self.pre,
            "tokens": len(self.tokens),
            "types": dict(self.types),
            "padding": self.padding,
            "merges": self.merges,
            "special": {name: token.to_json() for name, token in self.special.items()},
            "adds": dict(self.adds),
            "longest": None if self.longest is None else self.longest.to_json(),
        }

    def matching(self, pattern: re.Pattern[str]) -> list[Token]:
        """Tokens whose text, as it is stored or as it is read, contains a match."""
        return [one for one in self.tokens if pattern.search(one.text) or pattern.search(self.read(one))]

    def read(self, token: Token) -> str:
        """The text that a token stands for, where it is stored otherwise: blanks as signs, bytes as letters."""
        if self.model == "gpt2":
            letters = _bytes_of_letters()
            if all(letter in letters for letter in token.text):
                return bytes(letters[letter] for letter in token.text).decode("utf-8", "replace")
        return token.text.replace("\u2581", " ")


def tokenizer_of(checkpoint: Checkpoint[Tensor]) -> TokenizerFacts:
    """Raises `PlanError` where there is none, and what `requant.tokenizers.to_ggml` raises."""
    metadata = checkpoint.metadata
    if checkpoint.naming is Naming.HF:
        from requant.tokenizers import to_ggml

        metadata = to_ggml(checkpoint, None).metadata
    texts = _items(metadata, TOKENS)
    if not texts:
        raise PlanError(f"{checkpoint.path}: there is no tokenizer in it", hint="a vocabulary may lie in another file")
    types, scores = _items(metadata, TYPES), _items(metadata, SCORES)
    tokens = tuple(_tokens(texts, types, scores))
    special = {
        word: tokens[at]
        for word, key in ID_KEYS.items()
        if isinstance(at := _value(metadata, key), int) and 0 <= at < len(tokens)
    }
    return TokenizerFacts(
        str(_value(metadata, MODEL) or ""),
        str(_value(metadata, PRE) or ""),
        dict(Counter(one.kind for one in tokens).most_common()),
        sum(bool(_PADDING.fullmatch(one.text)) for one in tokens),
        len(_items(metadata, MERGES)),
        special,
        {word: value for word, key in ADD_KEYS.items() if isinstance(value := _value(metadata, key), bool)},
        max((one for one in tokens if one.kind == "normal"), key=lambda one: len(one.text), default=None),
        tokens,
    )


def _tokens(texts: Sequence[object], types: Sequence[object], scores: Sequence[object]) -> Iterator[Token]:
    names = {int(kind): kind.name.lower().replace("_", "-") for kind in TokenType}
    for n, text in enumerate(texts):
        kind = types[n] if n < len(types) else int(TokenType.NORMAL)
        score = scores[n] if n < len(scores) else None
        named = names.get(kind, f"type {kind}") if isinstance(kind, int) else "no type"
        yield Token(n, str(text), named, float(score) if isinstance(score, int | float) else None)


@cache
def _bytes_of_letters() -> Mapping[str, int]:
    return {letter: byte for byte, letter in enumerate(LETTERS)}


def _value(metadata: Mapping[str, Typed], key: str) -> object:
    return metadata[key].value if key in metadata else None


def _items(metadata: Mapping[str, Typed], key: str) -> Sequence[object]:
    value = _value(metadata, key)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
