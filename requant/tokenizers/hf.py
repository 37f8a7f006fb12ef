"""`tokenizer.*` metadata -> HF tokenizer files that `tokenizers` and `AutoTokenizer` load."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from requant.errors import UnsupportedError
from requant.ir import Json, Typed
from requant.losses import Loss
from requant.sources import Memory, Source
from requant.tokenizers import bpe, escaped, spm, unigram, whitespace, wordpiece
from requant.tokenizers.keys import ADD_KEYS, ADD_SPACE_PREFIX, CHAT_TEMPLATE, CHAT_TEMPLATES, MODEL, PRE
from requant.tokenizers.metadata import GgmlTokenizer, broken, strings
from requant.tokenizers.pre_tokenizers import BY_NAME

_NAMED = ("bos", "eos", "unk", "sep", "pad", "mask")

_Writer = Callable[[GgmlTokenizer], tuple[dict[str, Json], tuple[Loss, ...]]]

#: What writes tokenizer.json for each `tokenizer.ggml.model`.
_WRITERS: Mapping[str, _Writer] = {
    "gpt2": bpe.to_json,
    "llama": spm.to_json,
    "gemma4": escaped.to_json,
    "bert": wordpiece.to_json,
    "t5": unigram.to_json,
    "whitespace": whitespace.to_json,
}


@dataclass(frozen=True, slots=True)
class HfTokenizer:
    """files: tokenizer files by name. config: what config.json must say, such as bos_token_id."""

    files: dict[str, Source]
    config: dict[str, Json] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()


def to_hf(metadata: Mapping[str, Typed]) -> HfTokenizer:
    """Write a GGUF's tokenizer as tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Arrays that are missing or of the wrong type are a `FormatError`; a model that has no tokenizer.json (RWKV's
    tries, PLaMo's) is an `UnsupportedError`.
    """
    model = _model(metadata)
    tokenizer = GgmlTokenizer.of(metadata)
    by_rules = tokenizer.text(PRE, "default") in escaped.NAMES
    document, losses = (escaped.to_json if by_rules else _WRITERS[model])(tokenizer)
    ids = {kind: index for kind, index in tokenizer.special_ids().items() if kind in _NAMED}
    texts = _texts(document)
    names: dict[str, Json] = {f"{kind}_token": texts[index] for kind, index in ids.items() if index in texts}
    if model == "bert":
        names["cls_token"] = names.pop("bos_token", texts.get(101, "[CLS]"))
        names.pop("eos_token", None)  # BERT has none; llama.cpp's is the separator
        ids.pop("bos", None)
        ids.pop("eos", None)
    config: dict[str, Json] = {
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
    return HfTokenizer(files, {f"{kind}_token_id": index for kind, index in ids.items()}, losses)


def _model(metadata: Mapping[str, Typed]) -> str:
    value = metadata[MODEL].value if MODEL in metadata else None
    if isinstance(value, str) and value in _WRITERS:
        return value
    raise UnsupportedError(
        f"{MODEL} is {value!r}: there is no tokenizer.json for it",
        hint=f"models that have one: {', '.join(_WRITERS)}",
    )


def _file(value: object, indent: int | None = 2) -> Memory:
    try:
        return Memory(json.dumps(value, ensure_ascii=False, indent=indent).encode())
    except UnicodeEncodeError as error:
        raise broken(
            f"{error.object[max(0, error.start - 20) : error.start]!r} goes on in bytes that are not UTF-8"
        ) from None


def _texts(document: dict[str, Json]) -> dict[int, str]:
    """The declared tokens by id, as the document writes them."""
    added = document["added_tokens"]
    assert isinstance(added, list)
    return {int(str(token["id"])): str(token["content"]) for token in added if isinstance(token, dict)}


def _prefix(tokenizer: GgmlTokenizer) -> dict[str, Json]:
    if ADD_SPACE_PREFIX in tokenizer.metadata:
        return {"add_prefix_space": tokenizer.flag(ADD_SPACE_PREFIX, False)}
    return {}


def _cleans(tokenizer: GgmlTokenizer) -> bool:
    """Whether " ." becomes "." in decoded text, as llama.cpp does it."""
    row = BY_NAME.get(tokenizer.text(PRE, "default"))
    model = tokenizer.text(MODEL)
    return model == "bert" or (model == "gpt2" and row is not None and row.clean_spaces)


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
