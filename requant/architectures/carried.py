"""GGUF metadata that an HF folder has no place for is kept beside the weights, and comes back.

As JSON, `{"general.license": ["str", "apache-2.0"], …}`, it lies in `gguf_metadata.json`, where people see and change
it and what saves the weights anew leaves it; and under one key of the safetensors header, for weights without a folder.
The file counts where there are both.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from requant.architectures.general import SAMPLING, json_file
from requant.errors import FormatError
from requant.ir import Checkpoint, Tensor, Typed
from requant.json_values import parse_json
from requant.losses import Loss, LossKind
from requant.sources import Memory, Source

KEY: Final = "requant.gguf"
FILE: Final = "gguf_metadata.json"

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


@dataclass(frozen=True, slots=True)
class Kept:
    """Metadata of the safetensors header, files beside it, and what neither can hold."""

    metadata: dict[str, Typed]
    files: Mapping[str, Source]
    losses: tuple[Loss, ...]


def pack(metadata: Mapping[str, Typed], modelled: Collection[str]) -> Kept:
    """What keeps all that is neither in `modelled` nor about the file."""
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
    if not kept:
        return Kept(found, {}, tuple(losses))
    found[KEY] = Typed("str", json.dumps(kept, separators=(",", ":")))
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(pair)}" for key, pair in kept.items())
    return Kept(found, {FILE: Memory(f"{{\n{lines}\n}}\n".encode())}, tuple(losses))


def _in_tokenizer_files(key: str) -> bool:
    """Whether the tokenizer's files say it."""
    return key.startswith(_TEMPLATE) or (key.startswith(_TOKENIZER) and key.removeprefix(_TOKENIZER) in _WRITTEN)


def unpack(source: Checkpoint[Tensor], architecture: str, vocabulary: int) -> tuple[dict[str, Typed], list[Loss]]:
    """What `pack` kept, as far as it makes sense for a GGUF of `architecture`: not the hyperparameters of another, and
    no id of a token beyond the `vocabulary`. What people wrote into the file and is no key-value is told.

    Raises `FormatError` for a file that is no JSON.
    """
    stored = _stored(source)
    if not stored:
        return {}, []
    import gguf

    found: dict[str, Typed] = {}
    losses = []
    others = {*gguf.MODEL_ARCH_NAMES.values()} - {architecture}
    for key, pair in stored.items():
        if key.startswith(_OF_THE_FILE) or _in_tokenizer_files(key) or key.partition(".")[0] in others:
            continue
        if not (isinstance(pair, list) and len(pair) == 2 and _sound(*pair)):
            losses.append(Loss(LossKind.METADATA_DROPPED, key, f'{FILE}: not ["kind", value], such as ["u32", 1]'))
        elif not (key.startswith(_TOKENIZER) and key.endswith("_token_id")) or _is_id(pair[1], vocabulary):
            found[key] = Typed(pair[0], pair[1])
    return found, losses if FILE in source.files else []


def _stored(source: Checkpoint[Tensor]) -> Mapping[str, Any]:
    """The file's words, else the header's, which nobody but a program writes."""
    kept: Any = json_file(source, FILE)
    typed = source.metadata.get(KEY)
    if kept is None and typed is not None and isinstance(typed.value, str):
        with suppress(UnicodeEncodeError, FormatError):  # a copy that somebody has changed
            kept = parse_json(typed.value.encode(), Path(KEY)).value
    return kept if isinstance(kept, dict) else {}


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
