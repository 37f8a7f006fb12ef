"""GGUF metadata that an HF folder has no place for travels in the safetensors header, and comes back.

All of it lies under one key as JSON: `{"general.license": ["str", "apache-2.0"], …}`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from requant.architectures.general import SAMPLING
from requant.errors import FormatError
from requant.ir import Typed
from requant.json_values import parse_json
from requant.plan import Loss, LossKind

KEY: Final = "requant.gguf"

#: Keys about the file, not the model; each GGUF gets its own.
_OF_THE_FILE: Final = (
    "general.architecture",
    "general.type",
    "general.file_type",
    "general.quantization_version",
    "general.alignment",
    "general.size_label",
    "split.",
    "quantize.",
)
_TOKENIZER: Final = "tokenizer."
#: What `requant.tokenizers` makes files of, behind that prefix. Ids of other tokens have no place in them.
_WRITTEN: Final = (
    *("ggml.model", "ggml.pre", "ggml.tokens", "ggml.scores", "ggml.token_type", "ggml.token_type_count"),
    *("ggml.merges", "ggml.add_space_prefix", "ggml.remove_extra_whitespaces", "ggml.precompiled_charsmap"),
    *("ggml.normalizer.lowercase", "ggml.normalizer.strip_accents", "chat_templates"),
    *(f"ggml.{kind}_token_id" for kind in ("bos", "eos", "unknown", "seperator", "padding", "mask")),
    *(f"ggml.add_{kind}_token" for kind in ("bos", "eos", "sep")),
)
_TEMPLATE: Final = "tokenizer.chat_template"
#: Longer arrays and texts are not carried.
_LONGEST: Final = 10_000
_LONGEST_TEXT: Final = 1 << 20
_KINDS: Final = frozenset({"u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "str"})


def pack(metadata: Mapping[str, Typed], modelled: Collection[str]) -> tuple[dict[str, Typed], list[Loss]]:
    """The safetensors metadata that keeps what is neither in `modelled` nor about the file."""
    sampling = {key for _, key, _ in SAMPLING}
    kept: dict[str, list[object]] = {}
    losses = []
    for key, typed in metadata.items():
        if key in modelled or key in sampling or key.startswith(_OF_THE_FILE) or _in_tokenizer_files(key):
            continue
        if _fits(typed):
            kept[key] = [
                typed.kind,
                typed.value if isinstance(typed.value, bool | int | float | str) else [*typed.value],
            ]
        else:
            losses.append(Loss(LossKind.METADATA_DROPPED, key, f"{typed.kind}: too large to carry along"))
    found = {"format": Typed("str", "pt")}  # without it transformers 4 refuses the file
    if kept:
        found[KEY] = Typed("str", json.dumps(kept, separators=(",", ":")))
    return found, losses


def _in_tokenizer_files(key: str) -> bool:
    """Whether the tokenizer's files say it."""
    return key.startswith(_TEMPLATE) or (key.startswith(_TOKENIZER) and key.removeprefix(_TOKENIZER) in _WRITTEN)


def unpack(metadata: Mapping[str, Typed], architecture: str, vocabulary: int) -> dict[str, Typed]:
    """What `pack` kept, as far as it makes sense for a GGUF of `architecture`: not the hyperparameters of another, and
    no id of a token beyond the `vocabulary`."""
    text = metadata[KEY].value if KEY in metadata else None
    try:
        kept: Any = parse_json(text.encode(), Path(KEY)).value if isinstance(text, str) else {}
    except (UnicodeEncodeError, FormatError):
        return {}  # a copy that somebody has changed
    import gguf

    found = {}
    others = {*gguf.MODEL_ARCH_NAMES.values()} - {architecture}
    for key, pair in kept.items() if isinstance(kept, dict) else ():
        if key.startswith(_OF_THE_FILE) or _in_tokenizer_files(key) or key.partition(".")[0] in others:
            continue
        if not (isinstance(pair, list) and len(pair) == 2 and _sound(*pair)):
            continue
        if key.startswith(_TOKENIZER) and key.endswith("_token_id") and not _is_id(pair[1], vocabulary):
            continue
        found[key] = Typed(pair[0], pair[1])
    return found


def _is_id(value: object, vocabulary: int) -> bool:
    return isinstance(value, int) and 0 <= value < vocabulary


def _fits(typed: Typed) -> bool:
    """A scalar or a short flat array."""
    if isinstance(typed.value, str):
        return len(typed.value) <= _LONGEST_TEXT and not any("\ud800" <= letter <= "\udfff" for letter in typed.value)
    if isinstance(typed.value, bool | int | float):
        return True
    return typed.kind[1:-1] in _KINDS and isinstance(typed.value, Sequence) and len(typed.value) <= _LONGEST


def _sound(kind: object, value: object) -> bool:
    """Whether a value read from JSON is of its kind."""
    if not isinstance(kind, str):
        return False
    if kind.startswith("["):
        return isinstance(value, list) and kind[1:-1] in _KINDS and all(_sound(kind[1:-1], item) for item in value)
    if kind not in _KINDS or isinstance(value, bool) != (kind == "bool"):
        return False
    if kind == "str":
        return isinstance(value, str)
    if kind[0] == "f":
        return isinstance(value, int | float)
    if not isinstance(value, int):
        return False
    bits = int(kind[1:]) if kind != "bool" else 1
    low, high = (-(1 << bits - 1), 1 << bits - 1) if kind[0] == "i" else (0, 1 << bits)
    return kind == "bool" or low <= value < high
