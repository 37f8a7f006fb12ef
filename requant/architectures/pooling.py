"""How an embedding model makes one vector out of many: sentence-transformers' folders, and one GGUF key.

Facts: `_try_set_pooling_type` in llama.cpp's conversion/base.py; the numbers are llama.h's `llama_pooling_type`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Final

from requant.architectures import dense
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
_NO_PLACE: Final = "GGUF has no place for this module"


def pooling_of(architecture: str) -> Irregular:
    """For the families of a ggml architecture."""
    return Irregular(partial(_to_ggml, architecture), partial(_to_hf, architecture))


def _to_ggml(architecture: str, checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    modules = json_file(checkpoint, _MODULES)
    values: dict[str, Typed] = {}
    losses: list[Loss] = []
    matrices: dict[str, dense.Module] = {}
    for module in modules if isinstance(modules, list) else ():
        kind, path = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            continue
        name = kind.rpartition(".")[2]
        if name == "Pooling" and not values:
            values["pooling_type"] = Typed("u32", _pooling(json_file(checkpoint, f"{path}/config.json"), path))
        elif name not in ("Transformer", "Normalize"):  # llama.cpp normalizes when it is asked for embeddings
            found = dense.placed(checkpoint, architecture, path) if name == "Dense" else _NO_PLACE
            if isinstance(found, str):
                losses.append(Loss(LossKind.TENSOR_DROPPED, path, f"{name}: {found}"))
            else:
                matrices[path] = found
    dense.fitting(matrices, sizes["hidden"])
    for matrix in matrices.values():
        values |= matrix.values
    return ToGgml(values, losses=tuple(losses), moves=tuple(matrix.move for matrix in matrices.values()))


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


def _to_hf(architecture: str, values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    chosen, matrices = values.get("pooling_type"), dense.back(architecture, tensors)
    pooled = chosen in [number for _, _, number in _MODES]
    if not pooled and not matrices:
        return ToHf()  # the key, if there is one, is carried along
    pooling: Json = {
        "word_embedding_dimension": sizes["hidden"],
        **{flag: number == chosen for flag, _, number in _MODES},
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    kinds = {"": "Transformer", **({_FOLDER: "Pooling"} if pooled else {}), **dict.fromkeys(matrices, "Dense")}
    modules: Json = [
        {"idx": n, "name": str(n), "path": path, "type": _CLASS + kind} for n, (path, kind) in enumerate(kinds.items())
    ]
    files = {
        _MODULES: _json(modules),
        **({f"{_FOLDER}/config.json": _json(pooling)} if pooled else {}),
        **{f"{path}/config.json": _json(dense.config_of(tensor)) for path, tensor in matrices.items()},
        "sentence_bert_config.json": _json({"max_seq_length": sizes["positions"], "do_lower_case": False}),
    }
    return ToHf(
        files=files,
        keys=frozenset({"pooling_type"} if pooled else {}) | (dense.keys_of(architecture) if matrices else frozenset()),
        tensors=frozenset(tensor.name for tensor in matrices.values()),
        moves=dense.moved(matrices),
    )


def _json(value: Json) -> Memory:
    return Memory(json.dumps(value, indent=2).encode() + b"\n")
