"""SentencePiece's `tokenizer.model`: a protocol buffer, of which a handful of fields matter.

Field numbers: sentencepiece_model.proto of github.com/google/sentencepiece. Wire format:
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from requant.errors import FormatError
from requant.tokenizers.vocabulary import ADDED_SCORE, PADDING_SCORE, TokenType, Vocabulary

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class SentencePiece:
    """What the model says. types: as `TokenType`. charsmap: the compiled normalizer, empty for none."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    model_type: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    def rank(self, vocabulary: Vocabulary, added: Container[int]) -> list[float]:
        """The score of every token of `vocabulary`, which gets the types of the model's pieces.

        added: ids of tokens that other files declare; their types stay.
        """
        scores = [PADDING_SCORE] * len(vocabulary.tokens)
        scores[: len(self.scores)] = self.scores
        for index, kind in enumerate(self.types):
            if index not in added and kind != TokenType.USER_DEFINED:
                vocabulary.types[index] = kind
        return [ADDED_SCORE if index in added else score for index, score in enumerate(scores)]


def parse(data: bytes, path: Path) -> SentencePiece:
    """Read a tokenizer.model; anything else is a `FormatError`."""
    try:
        return _parse(data, path)
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise FormatError(path, f"not a SentencePiece model: {error}") from None


def _parse(data: bytes, path: Path) -> SentencePiece:
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            text, score = piece.get(1, b""), piece.get(2, b"\0\0\0\0")
            if not isinstance(text, bytes) or not isinstance(score, bytes):
                raise ValueError(f"piece {len(pieces)} has fields of wrong types")
            pieces.append(text.decode())
            scores.append(struct.unpack("<f", score)[0])
            kind = piece.get(3, 1)
            types.append(kind if isinstance(kind, int) and 1 <= kind <= 6 else 1)
        elif number == 2 and isinstance(value, bytes):
            trainer.update(_fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer.update(_fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    model_type, charsmap = trainer.get(3, UNIGRAM), normalizer.get(2, b"")
    if not isinstance(model_type, int) or not isinstance(charsmap, bytes):
        raise ValueError("its specification has fields of wrong types")
    return SentencePiece(
        pieces, scores, types, model_type, charsmap, bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1))
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of one message; numbers come as int, everything else as bytes."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if length > end - at:
            raise ValueError(f"a field of {length} bytes at byte {at} runs past the end")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    value, shift = byte & 127, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + 1
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of more than ten bytes at byte {at}")
