"""Mistral's `tekken.json`: byte-level BPE by ranks, as tiktoken has it, and control tokens before all others.

A token's id is its rank after the control tokens. There are no merges: two neighbours become one if what they make is
a token, that of the lowest rank first. So every way to cut a token in two is a merge, in the order of what it makes.

Facts: mistral-common's tokens/tokenizers/tekken.py; llama.cpp's gguf-py/gguf/vocab.py (`MistralVocab`).
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.ir import Json, Typed
from requant.json_values import Item
from requant.tokenizers.byte_letters import written
from requant.tokenizers.files import Files
from requant.tokenizers.keys import ADD_KEYS, MERGES, MODEL, PRE, TOKENS, TYPES
from requant.tokenizers.merges import Merges
from requant.tokenizers.recognize import recognize
from requant.tokenizers.vocabulary import AddedToken, ModelPart, laid_out

NAME: Final = "tekken.json"
#: Files before version 7 do not list the control tokens, of which these had a meaning.
_UNLISTED: Final = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"),
    *("[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)


def from_tekken(files: Files, rows: int | None) -> ModelPart:
    """The tokenizer of tekken.json. Raises `FormatError` for what is none."""
    document = files.json(NAME)
    config = document.get("config")
    count = config.get("default_num_special_tokens").integer()
    inner = config.get("default_vocab_size").integer() - count
    ranks = _ranks(document.get("vocab"), inner)
    special = _special(document.get("special_tokens"), count)
    words = [written(token) for token in ranks]
    ids = {text: count + n for n, text in enumerate(words)}
    added = {n: AddedToken(n, text, special=True) for n, text in enumerate(special)}
    vocabulary = laid_out(ids, added.values(), rows, document.path)
    recognized = recognize(_as_tokenizer(config.get("pattern").string()), Item(document.path, "", {}))
    metadata = {
        MODEL: Typed("str", "gpt2"),
        PRE: Typed("str", recognized.row.name),
        TOKENS: Typed("[str]", vocabulary.tokens),
        TYPES: Typed("[i32]", vocabulary.types),
        MERGES: Typed("[str]", _merges(ranks).written()),
        ADD_KEYS["bos"]: Typed("bool", True),
        ADD_KEYS["eos"]: Typed("bool", False),
    }
    ids |= {text: n for n, text in enumerate(special)}
    return ModelPart(metadata, ids, added, len(vocabulary.tokens), losses=recognized.losses)


def _ranks(vocab: Item, inner: int) -> dict[bytes, int]:
    """The first `inner` tokens, each with its rank: all bytes, and then what is made of them."""
    found: dict[bytes, int] = {}
    for place, entry in enumerate(vocab.array()[: max(inner, 0)]):
        known = isinstance(entry, dict) and entry.get("rank") == place
        token = _bytes(entry.get("token_bytes")) if known and isinstance(entry, dict) else b""
        if not token or token in found:
            shown = Item(vocab.path, f"{vocab.where}[{place}]", entry)
            raise shown.wrong(f"the token of rank {place}, in base64 and only here")
        found[token] = place
    if len(found) < inner or inner < 256 or set(map(len, list(found)[:256])) != {1}:
        raise FormatError(vocab.path, f"vocab: {inner} tokens are needed, of which the first 256 are the bytes")
    return found


def _bytes(text: Json) -> bytes:
    """Empty for what is no base64."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return b""


def _special(listed: Item, count: int) -> list[str]:
    """The control tokens by id; ids without a token of their own have the text that mistral-common gives them."""
    known = dict(enumerate(_UNLISTED)) if listed.value is None else {}
    for item in listed.items():
        known[item.get("rank").integer()] = item.get("token_str").string()
    if max(known, default=-1) >= count:
        raise FormatError(listed.path, f"special_tokens: rank {max(known)} where there are {count} control tokens")
    return [known.get(n, f"<SPECIAL_{n}>") for n in range(count)]


def _merges(ranks: dict[bytes, int]) -> Merges:
    """Every way to make a token of two others, in the order of its rank, then of theirs."""
    lefts: list[str] = []
    rights: list[str] = []
    for token in list(ranks)[256:]:
        cuts = [(token[:n], token[n:]) for n in range(1, len(token))]
        pairs = [(ranks[left], ranks[right], left, right) for left, right in cuts if left in ranks and right in ranks]
        for _, _, left, right in sorted(pairs):
            lefts.append(written(left))
            rights.append(written(right))
    return Merges(lefts, rights)


def _as_tokenizer(pattern: str) -> Item:
    """What a tokenizer.json says that splits as this file does."""
    split: Json = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    bytes_: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document: Json = {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]},
        "model": {"type": "BPE", "ignore_merges": True},
    }
    return Item(Path(NAME), "", document)
