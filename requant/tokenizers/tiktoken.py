"""Files of ranks, as tiktoken has them: `tiktoken.model` of Kimi (Moonlight) and `qwen.tiktoken` of the first Qwen.

A line is a token in base64 and its rank, which is its id. The merge that makes a token is found by cutting the token
itself with the ranks below its own: two pieces are left. Neither how text is split nor the special tokens are in the
file, but in the code that comes with it; so only files of known code are read.

Facts: tokenization_kimi.py of Kimi K2, tokenization_qwen.py of Qwen 7B; llama.cpp's conversion/deepseek.py, qwen.py.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from requant.digits import whole
from requant.errors import FormatError, UnsupportedError
from requant.ir import Typed
from requant.printable import printable
from requant.tokenizers.byte_letters import written
from requant.tokenizers.files import Files
from requant.tokenizers.keys import MERGES, MODEL, PRE, TOKENS, TYPES
from requant.tokenizers.merges import Merges
from requant.tokenizers.pre_tokenizers import BY_NAME
from requant.tokenizers.recognize import unnormalized
from requant.tokenizers.vocabulary import AddedToken, ModelPart, laid_out

KIMI, QWEN = "tiktoken.model", "qwen.tiktoken"
_QWEN_SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205)))
_KIMI_SPECIAL: Final = 256
_NBYTES: Final = 1 << 26
#: Steps that finding all merges may take: the square of each token's length. Few tokens of a language are long.
_MAX_STEPS: Final = 1 << 27


def from_tiktoken(files: Files, added: dict[int, AddedToken], rows: int | None) -> ModelPart:
    """The tokenizer of a file of ranks. Raises `FormatError` for what is none, `UnsupportedError` for unknown code."""
    name = QWEN if QWEN in files else KIMI
    path = files.path(name)
    if name == KIMI and not _is_kimi(files):
        raise UnsupportedError(
            f"{path}: only Kimi's file of this name is known; how others split text is in their code, not in the file",
            hint="convert it to a tokenizer.json with transformers first",
        )
    ranks = _ranks(files, name)
    merges = _merges(ranks, files, name)
    ids = {written(token): rank for token, rank in ranks.items()}
    special = _special(path, len(ranks), added, rows)
    vocabulary = laid_out(ids, special.values(), rows, path)
    row = BY_NAME["qwen2" if name == QWEN else "kimi-k2"]
    metadata = {
        MODEL: Typed("str", "gpt2"),
        PRE: Typed("str", row.name),
        TOKENS: Typed("[str]", vocabulary.tokens),
        TYPES: Typed("[i32]", vocabulary.types),
        MERGES: Typed("[str]", merges.written()),
    }
    losses = (unnormalized(row.normalizer),) if row.normalizer else ()
    return ModelPart(metadata, ids, special, len(vocabulary.tokens), row.add_bos, losses)


def _is_kimi(files: Files) -> bool:
    declared = files.json("tokenizer_config.json").get("tokenizer_class").value
    return declared == "TikTokenTokenizer" or files.checkpoint.architecture.startswith("kimi")


def _special(path: Path, base: int, declared: Mapping[int, AddedToken], rows: int | None) -> dict[int, AddedToken]:
    """The special tokens after the ranks, all of them control tokens as in the code; those without a row left out."""
    reserved = (f"<|reserved_token_{base + n}|>" for n in range(_KIMI_SPECIAL))
    texts = _QWEN_SPECIAL if path.name == QWEN else reserved
    found = {base + n: AddedToken(base + n, text, special=True) for n, text in enumerate(texts)}
    if rows is not None:
        found = {index: token for index, token in found.items() if index < rows}
    for index, token in declared.items():
        if index < base:
            raise FormatError(
                path, f"token {index} is a rank here and {printable(token.content, 60)!r} in tokenizer_config.json"
            )
        found[index] = replace(token, special=True)
    return found


def _ranks(files: Files, name: str) -> dict[bytes, int]:
    """The tokens in the order of their ranks, which are all numbers from 0."""
    path = files.path(name)
    nbytes = files.checkpoint.files[name].nbytes
    if nbytes > _NBYTES:
        raise FormatError(path, f"{nbytes:,} bytes; at most {_NBYTES:,} are read")
    found: dict[bytes, int] = {}
    for number, line in enumerate(files.data(name).splitlines(), 1):
        if not line.strip():
            continue
        token, rank = _line(line)
        if not token or token in found or rank != len(found):
            shown = printable(line[:60].decode("utf-8", "replace"), 60)
            raise FormatError(
                path, f"line {number}, {shown!r}: must be a new token in base64 and its rank, {len(found)}"
            )
        found[token] = len(found)
    missing = next((byte for byte in range(256) if bytes([byte]) not in found), None)
    if missing is not None:
        raise FormatError(path, f"no token for the byte {missing}: every byte needs one")
    return found


def _line(line: bytes) -> tuple[bytes, int | None]:
    """No bytes for a line that is none."""
    parts = line.split()
    if len(parts) != 2:
        return b"", None
    try:
        return base64.b64decode(parts[0], validate=True), whole(parts[1].decode("ascii", "replace"))
    except (binascii.Error, ValueError):
        return b"", None


def _merges(ranks: Mapping[bytes, int], files: Files, name: str) -> Merges:
    """The merge that makes each token; tokens that no merge makes, which Kimi has, have none."""
    if sum(len(token) ** 2 for token in ranks) > _MAX_STEPS:
        raise FormatError(files.path(name), "its tokens are too long to be a tokenizer's")
    lefts: list[str] = []
    rights: list[str] = []
    for token, rank in ranks.items():
        parts = _cut(ranks, token, rank) if len(token) > 1 else []
        if len(parts) == 2:
            lefts.append(written(parts[0]))
            rights.append(written(parts[1]))
    return Merges(lefts, rights)


def _cut(ranks: Mapping[bytes, int], token: bytes, below: int) -> list[bytes]:
    """What is left of a token when pairs of a rank below its own are joined, the lowest and first of them first."""
    parts = [token[n : n + 1] for n in range(len(token))]

    def rank_of(left: bytes, right: bytes) -> int:
        return ranks.get(left + right, below)

    pairs = [rank_of(left, right) for left, right in itertools.pairwise(parts)]
    while pairs and (lowest := min(pairs)) < below:
        n = pairs.index(lowest)
        parts[n : n + 2] = [parts[n] + parts[n + 1]]
        del pairs[n]
        if n:
            pairs[n - 1] = rank_of(parts[n - 1], parts[n])
        if n < len(pairs):
            pairs[n] = rank_of(parts[n], parts[n + 1])
    return parts
