"""How an embedding model makes one vector out of many: sentence-transformers' folders, and one GGUF key.

Facts: `_try_set_pooling_type` in llama.cpp's conversion/base.py; the numbers are llama.h's `llama_pooling_type`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from requant.architectures.general import json_file
from requant.architectures.rules import Config, Irregular, Sizes, ToGgml, ToHf
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.losses import Loss, LossKind
from requant.sources import Memory

#: sentence-transformers' name of each mode, in its old spelling (a flag for each) and its new one; ggml's number.
_MODES: Final = (
    ("pooling_mode_mean_tokens", "mean", 1),
    ("pooling_mode_cls_token", "cls", 2),
    ("pooling_mode_lasttoken", "lasttoken", 3),
)
_MODULES: Final = "modules.json"
_FOLDER: Final = "1_Pooling"
_CLASS: Final = "sentence_transformers.models."


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    modules = json_file(checkpoint, _MODULES)
    values: dict[str, Typed] = {}
    losses = []
    for module in modules if isinstance(modules, list) else ():
        kind, path = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            continue
        name = kind.rpartition(".")[2]
        if name == "Pooling" and not values:
            values["pooling_type"] = Typed("u32", _pooling(json_file(checkpoint, f"{path}/config.json"), path))
        elif name not in ("Transformer", "Normalize"):  # llama.cpp normalizes when it is asked for embeddings
            losses.append(Loss(LossKind.TENSOR_DROPPED, path, f"{name}: GGUF has no place for this module"))
    return ToGgml(values, losses=tuple(losses))


def _pooling(config: Json, path: str) -> int:
    if config is None:
        raise PlanError(f"{path}/config.json is missing, or no JSON", hint="modules.json names it: fetch it")
    if isinstance(config, dict):
        for flag, name, number in _MODES:
            if config.get(flag) is True or config.get("pooling_mode") == name:
                return number
    raise UnsupportedError(
        f"{path}/config.json: no way of pooling that llama.cpp knows", hint="supported: mean, cls, lasttoken"
    )


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    chosen = values.get("pooling_type")
    if chosen not in [number for _, _, number in _MODES]:
        return ToHf()  # the key, if there is one, is carried along
    pooling: Json = {
        "word_embedding_dimension": sizes["hidden"],
        **{flag: number == chosen for flag, _, number in _MODES},
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    modules: Json = [
        {"idx": 0, "name": "0", "path": "", "type": _CLASS + "Transformer"},
        {"idx": 1, "name": "1", "path": _FOLDER, "type": _CLASS + "Pooling"},
    ]
    files = {
        _MODULES: _json(modules),
        f"{_FOLDER}/config.json": _json(pooling),
        "sentence_bert_config.json": _json({"max_seq_length": sizes["positions"], "do_lower_case": False}),
    }
    return ToHf(files=files, keys=frozenset({"pooling_type"}))


def _json(value: Json) -> Memory:
    return Memory(json.dumps(value, indent=2).encode() + b"\n")


POOLING: Final = Irregular(_to_ggml, _to_hf)
