"""Matrices behind the pooling: sentence-transformers' Dense modules, each in a subfolder with weights of its own.

llama.cpp multiplies with them where the architecture has a place for them. Its converter takes those of EmbeddingGemma
with `--sentence-transformers-dense-modules` only. Facts: llama.cpp's conversion/gemma.py and lfm2.py, and
src/models/gemma-embedding.cpp and lfm2.cpp; sentence-transformers' models/Dense.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from requant.architectures.general import json_file
from requant.architectures.numbers import shown
from requant.errors import PlanError
from requant.expressions import Stored
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.plan import Move
from requant.sources import FileSlice

#: For a ggml architecture: what the tensor of a module in a folder is called.
PLACES: Final[Mapping[str, Mapping[str, str]]] = {
    "gemma-embedding": {"2_Dense": "dense_2", "3_Dense": "dense_3"},
    "lfm2": {"1_Dense": "dense_2"},
}
#: The key that has the rows of the one matrix, where an architecture has no keys for each.
_WIDTH: Final = {"lfm2": "embedding_length_out"}
_PLAIN: Final = "torch.nn.modules.linear.Identity"
_WEIGHT: Final = "linear.weight"


@dataclass(frozen=True, slots=True)
class Module:
    """One that has a place in a GGUF: the tensor, and what it is called there."""

    move: Move
    values: Mapping[str, Typed]


def placed(checkpoint: Checkpoint[Tensor], architecture: str, path: str) -> Module | str:
    """The module in `path`; or why a GGUF has no place for it. Raises `PlanError` if its files contradict each other.

    Its shape must be [out_features, in_features], as its config.json says.
    """
    from requant.formats.safetensors.header import read_header

    name = PLACES.get(architecture, {}).get(path)
    if name is None:
        return "GGUF has no place for this module"
    source, config = checkpoint.files.get(f"{path}/model.safetensors"), json_file(checkpoint, f"{path}/config.json")
    if not isinstance(source, FileSlice) or not isinstance(config, dict):
        raise PlanError(
            f"{path}/model.safetensors or {path}/config.json is missing", hint="modules.json names it: fetch it"
        )
    tensors = {tensor.name: tensor for tensor in read_header(source.path).tensors}
    if tensors.keys() != {_WEIGHT} or config.get("activation_function", _PLAIN) != _PLAIN:
        return "llama.cpp multiplies with a matrix only, without a bias or what torch does behind it"
    weight, shape = tensors[_WEIGHT], (config.get("out_features"), config.get("in_features"))
    if weight.shape != shape:
        raise PlanError(
            f"{path}/model.safetensors: {_WEIGHT} has the shape {list(weight.shape)}, "
            f"{path}/config.json says {shown(list(shape))}"
        )
    rows, columns = (Typed("u32", count) for count in weight.shape)
    if architecture in _WIDTH:
        return Module(Move(f"{name}.weight", Stored(weight)), {_WIDTH[architecture]: rows})
    return Module(Move(f"{name}.weight", Stored(weight)), {f"{name}_feat_in": columns, f"{name}_feat_out": rows})


def fitting(modules: Mapping[str, Module], hidden: int) -> None:
    """Each takes what the one before it gives, the first what the model does; raises `PlanError` if not."""
    width = hidden
    for path, module in modules.items():
        rows, columns = module.move.shape
        if columns != width:
            raise PlanError(f"{path}: in_features is {columns}, where {width} numbers come in")
        width = rows


def back(architecture: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a GGUF that are modules of a folder, by the name of the subfolder."""
    named = {path: f"{name}.weight" for path, name in PLACES.get(architecture, {}).items()}
    return {path: tensors[name] for path, name in named.items() if name in tensors and len(tensors[name].shape) == 2}


def keys_of(architecture: str) -> frozenset[str]:
    """The keys of a GGUF that say the sizes of modules."""
    if architecture in _WIDTH:
        return frozenset({_WIDTH[architecture]})
    names = PLACES.get(architecture, {}).values()
    return frozenset(f"{name}_feat_{end}" for name in names for end in ("in", "out"))


def moved(modules: Mapping[str, Tensor]) -> tuple[Move, ...]:
    """Modules as tensors of subfolders."""
    return tuple(Move(f"{path}/{_WEIGHT}", Stored(tensor)) for path, tensor in modules.items())


def config_of(tensor: Tensor) -> Json:
    """config.json of a module."""
    rows, columns = tensor.shape
    return {"in_features": columns, "out_features": rows, "bias": False, "activation_function": _PLAIN}
