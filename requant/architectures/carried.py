"""GGUF metadata that an HF folder has no place for travels in the safetensors header, and comes back.

All of it lies under one key as JSON: `{"general.license": ["str", "apache-2.0"], …}`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from requant.architectures.general import SAMPLING
from requant.ir import Typed
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
#: Read by `requant.tokenizers`.
_TOKENIZER: Final = "tokenizer."
#: Longer arrays are not carried.
_LONGEST: Final = 10_000
_KINDS: Final = frozenset({"u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "str"})


def pack(metadata: Mapping[str, Typed], modelled: Collection[str]) -> tuple[dict[str, Typed], list[Loss]]:
    """The safetensors metadata that keeps what is neither in `modelled` nor about the file."""
    sampling = {key for _, key, _ in SAMPLING}
    kept: dict[str, list[object]] = {}
    losses = []
    for key, typed in metadata.items():
        if key in modelled or key in sampling or key.startswith((*_OF_THE_FILE, _TOKENIZER)):
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


def unpack(metadata: Mapping[str, Typed], architecture: str) -> dict[str, Typed]:
    """What `pack` kept, as far as it makes sense for a GGUF of `architecture`."""
    text = metadata[KEY].value if KEY in metadata else None
    try:
        kept = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    found = {}
    for key, pair in kept.items() if isinstance(kept, dict) else ():
        ours = key.startswith(("general.", f"{architecture}.")) and not key.startswith(_OF_THE_FILE)
        if ours and isinstance(pair, list) and len(pair) == 2 and _sound(*pair):
            found[key] = Typed(pair[0], pair[1])
    return found


def _fits(typed: Typed) -> bool:
    """A scalar or a short flat array."""
    if isinstance(typed.value, bool | int | float | str):
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
