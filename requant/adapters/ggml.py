"""Adapters as llama.cpp loads them: a GGUF whose tensors are `NAME.lora_a` and `NAME.lora_b`.

Source: `llama_adapter_lora_init_impl` and `llm_build_inp_embd` in llama.cpp's src/.
"""

from __future__ import annotations

from typing import Final

from requant.adapters.changes import Adapter, Change, Kind, Product, Whole
from requant.errors import PlanError, UnsupportedError
from requant.expressions import Stored
from requant.ir import Checkpoint, Naming, Tensor

EMBEDDING: Final = "token_embd.weight"
ALPHA: Final = "adapter.lora.alpha"
INVOCATION: Final = "adapter.alora.invocation_tokens"
_SUFFIXES: Final = (".lora_a", ".lora_b")


def ggml_adapter(source: Checkpoint[Tensor]) -> Adapter:
    """What it changes. Raises `UnsupportedError` for another kind than LoRA, and `PlanError` for half a pair."""
    kind = source.metadata.get("adapter.type")
    if kind is None or kind.value != "lora":
        said = "missing" if kind is None else repr(kind.value)
        raise UnsupportedError(f"{source.path}: adapter.type is {said}: only lora is understood")
    if INVOCATION in source.metadata:
        raise UnsupportedError(
            f"{source.path}: {INVOCATION}: it works only after certain tokens, and cannot be merged",
            hint="load it beside the model in llama.cpp (--lora)",
        )
    alpha = source.metadata.get(ALPHA)
    value = float(alpha.value) if alpha is not None and isinstance(alpha.value, (int, float)) else 0.0
    tensors = {tensor.name: tensor for tensor in source.tensors}
    changes: list[Change] = []
    for name, tensor in tensors.items():
        if name.endswith("_norm.weight"):
            changes.append(Whole(name, Stored(tensor), name))
        elif not name.endswith(_SUFFIXES):
            raise UnsupportedError(f"{source.path}: tensor {name!r} is neither lora_a nor lora_b of anything")
        elif name.endswith(".lora_a"):
            changes.append(_product(source, tensors, name, value))
        elif f"{name[:-1]}a" not in tensors:
            raise PlanError(f"{source.path}: there is {name!r}, but no {f'{name[:-1]}a'!r}")
    return Adapter(source.path, Naming.GGML, tuple(changes), "", source.architecture, opened=source.opened)


def _product(source: Checkpoint[Tensor], tensors: dict[str, Tensor], name: str, alpha: float) -> Product:
    target = name.removesuffix(".lora_a")
    a, b = tensors[name], tensors.get(f"{target}.lora_b")
    if b is None:
        raise PlanError(f"{source.path}: there is {name!r}, but no {f'{target}.lora_b'!r}")
    embedding = target == EMBEDDING
    rank = b.shape[-1] if b.shape else 0
    if len(a.shape) != len(b.shape) or len(a.shape) < 2 or a.shape[-1 if embedding else -2] != rank or not rank:
        raise PlanError(f"{source.path}: {name!r} has the shape {list(a.shape)}, its lora_b {list(b.shape)}")
    scale = alpha / rank if alpha else 1.0
    up, down = (Stored(a), Stored(b).turned()) if embedding else (Stored(b), Stored(a))
    return Product(target, up, down, (Kind("", rank, scale),), name, embedding=embedding)
