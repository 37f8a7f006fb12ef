"""RWKV's `rwkv_vocab_v20230424.txt`: tokens of bytes, the longest first, without merges. GGUF's model `rwkv`.

A line is an id, the token as Python writes it ('text' or b'bytes'), and its length in bytes. llama.cpp has tokens as
Python's `repr` of their bytes without quotes. Id 0, which is no token of a text, begins and ends one; the model's
turns end with two line feeds.

Facts: llama.cpp's conversion/base.py (`_set_vocab_rwkv_world`) and src/llama-vocab.cpp (`llm_tokenizer_rwkv`).
"""

from __future__ import annotations

import ast
from typing import Final

from requant.digits import whole
from requant.errors import FormatError
from requant.ir import Typed
from requant.printable import printable
from requant.tokenizers.files import Files
from requant.tokenizers.keys import ID_KEYS, MODEL, TOKENS, TYPES
from requant.tokenizers.vocabulary import AddedToken, ModelPart, laid_out

NAME: Final = "rwkv_vocab_v20230424.txt"
_NBYTES: Final = 1 << 24
_LINE: Final = 4096


def from_vocabulary(files: Files, rows: int | None) -> ModelPart:
    """The tokenizer of the file. Raises `FormatError` for what is none."""
    nbytes = files.checkpoint.files[NAME].nbytes
    if nbytes > _NBYTES:
        raise FormatError(files.path(NAME), f"{nbytes:,} bytes; at most {_NBYTES:,} are read")
    ids: dict[str, int] = {}
    for number, line in enumerate(files.text(NAME).splitlines(), 1):
        if not line.strip():
            continue
        index, token = _line(line)
        text = repr(token)[2:-1]
        if index is None or not token or text in ids or index == 0:
            raise FormatError(
                files.path(NAME),
                f"line {number}, {printable(line, 60)!r}: must be an id above 0, a new token as Python writes it, and "
                "its length in bytes",
            )
        ids[text] = index
    if len(set(ids.values())) < len(ids):
        raise FormatError(files.path(NAME), "two tokens have one id")
    added = {0: AddedToken(0, "<s>", special=True)}
    vocabulary = laid_out(ids, added.values(), rows, files.path(NAME))
    metadata = {
        MODEL: Typed("str", "rwkv"),
        TOKENS: Typed("[str]", vocabulary.tokens),
        TYPES: Typed("[i32]", vocabulary.types),
        **{ID_KEYS[kind]: Typed("u32", 0) for kind in ("bos", "eos")},
    }
    turn = ids.get(r"\n\n")
    if turn is not None:
        metadata[ID_KEYS["eot"]] = Typed("u32", turn)
    return ModelPart(metadata, ids, added, len(vocabulary.tokens))


def _line(line: str) -> tuple[int | None, bytes]:
    """(id, token); no bytes for a line that is none."""
    index, _, rest = line.partition(" ")
    literal, _, length = rest.rstrip().rpartition(" ")
    if len(line) > _LINE:
        return None, b""
    try:
        said = ast.literal_eval(literal.strip())
        token = said.encode() if isinstance(said, str) else said
    except (ValueError, SyntaxError, MemoryError, RecursionError, UnicodeEncodeError):
        return None, b""
    fits = isinstance(token, bytes) and whole(length) == len(token)
    return whole(index), token if fits else b""
