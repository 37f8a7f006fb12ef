"""PLaMo 2 and 3's `tokenizer.jsonl`: pieces with scores, the best way to cut a text found from its end. GGUF's model
`plamo2`.

A line is a list: the piece, its score, and its kind (NORMAL, BYTE, CONTROL, UNKNOWN). Facts: llama.cpp's
conversion/base.py (`_set_vocab_plamo`) and src/llama-vocab.cpp (`llm_tokenizer_plamo2`).
"""

from __future__ import annotations

from typing import Final

from requant.errors import FormatError
from requant.ir import Typed
from requant.json_values import TOKENIZER, Item, parse_json
from requant.tokenizers.files import Files
from requant.tokenizers.keys import ADD_SPACE_PREFIX, ID_KEYS, MODEL, PRE, SCORES, TOKENS, TYPES
from requant.tokenizers.vocabulary import PADDING_SCORE, AddedToken, ModelPart, TokenType, laid_out

NAME: Final = "tokenizer.jsonl"
_KINDS: Final = {"UNKNOWN": TokenType.UNKNOWN, "CONTROL": TokenType.CONTROL, "BYTE": TokenType.BYTE}
BYTES: Final = tuple(f"<0x{byte:02X}>" for byte in range(256))
#: What ends a turn.
_TURN: Final = "<|plamo:op|>"


def from_jsonl(files: Files, rows: int | None) -> ModelPart:
    """The tokenizer of the file. Raises `FormatError` for what is none."""
    path = files.path(NAME)
    ids: dict[str, int] = {}
    scores: list[float] = []
    kinds: list[TokenType] = []
    for number, line in enumerate(files.data(NAME).splitlines(), 1):
        if not line.strip():
            continue
        entry = parse_json(line, path, TOKENIZER)
        piece, score, kind = _entry(entry, number)
        if piece in ids:
            raise FormatError(path, f"line {number}: {piece!r} is token {ids[piece]} already")
        ids[piece] = len(ids)
        scores.append(score)
        kinds.append(kind)
    missing = next((text for text in BYTES if text not in ids or kinds[ids[text]] != TokenType.BYTE), None)
    if missing is not None:
        raise FormatError(path, f"no piece {missing!r} of the kind BYTE: llama.cpp needs one for every byte")
    added = {
        index: AddedToken(index, piece, special=True)
        for piece, index in ids.items()
        if kinds[index] == TokenType.CONTROL
    }
    vocabulary = laid_out(ids, added.values(), rows, path)
    for index, kind in enumerate(kinds):
        vocabulary.types[index] = int(kind)
    scores += [PADDING_SCORE] * (len(vocabulary.tokens) - len(scores))
    metadata = {
        MODEL: Typed("str", "plamo2"),
        PRE: Typed("str", "default"),
        TOKENS: Typed("[str]", vocabulary.tokens),
        SCORES: Typed("[f32]", scores),
        TYPES: Typed("[i32]", vocabulary.types),
        **({ID_KEYS["eot"]: Typed("u32", ids[_TURN])} if _TURN in ids else {}),
        ADD_SPACE_PREFIX: Typed("bool", False),
    }
    return ModelPart(metadata, ids, added, len(vocabulary.tokens))


def _entry(entry: Item, number: int) -> tuple[str, float, TokenType]:
    """A line's piece, score and kind."""
    parts = list(entry.items())
    if len(parts) < 2:
        raise entry.wrong(f"a piece and its score (line {number})")
    piece, score = parts[0].string(), parts[1].number()
    said = parts[2].string() if len(parts) > 2 else "NORMAL"
    kind = _KINDS.get(said, TokenType.NORMAL)
    control = kind == TokenType.NORMAL and piece.startswith("<|plamo:") and piece.endswith("|>")
    return piece, score, TokenType.CONTROL if control else kind
