"""What a recipe needs to know about a model besides its tensors' names and shapes.

Source: the hyperparameters llama.cpp's quantizer reads (`load_hparams`, `n_gqa`, and where `LLM_TYPE_70B` is set).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from requant.errors import PlanError
from requant.ir import Typed
from requant.recipes.names import Role, role_of

#: Architectures with a 70B member, and how many layers mark it.
_LAYERS_OF_70B: Final = {"llama": 80, "llama-embed": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}


@dataclass(frozen=True, slots=True)
class Facts:
    """A GGUF's architecture and key-values, overrides already applied.

    `metadata` may lack any of the keys: llama.cpp's defaults stand in.
    """

    architecture: str
    metadata: Mapping[str, Typed]


@dataclass(frozen=True, slots=True)
class Model:
    """`Facts` as numbers.

    layers: `block_count`, or what an architecture makes of it. experts: 0 for a dense model. heads_per_kv: query heads
    that share one key head in the first layer. values: tensors that count as attention values. tied: there is no
    output matrix of its own.
    """

    architecture: str
    layers: int
    experts: int
    heads_per_kv: int
    is_70b: bool
    values: int
    tied: bool
    has_importance: bool


def model_of(facts: Facts, names: Iterable[str], has_importance: bool) -> Model:
    """What the rules ask about; `names` are all tensors of the output. Raises `PlanError` for a key of a wrong type."""
    roles = [role_of(name) for name in names]
    own_layers = _count(facts, "block_count") - _count(facts, "nextn_predict_layers")
    experts = _count(facts, "expert_count")
    if facts.architecture in ("hunyuan_vl", "hunyuan-dense") and experts <= 1:
        experts = 0
    heads = _count(facts, "attention.head_count")
    kv_heads = _count(facts, "attention.head_count_kv", heads)
    is_70b = _LAYERS_OF_70B.get(facts.architecture) == own_layers
    if facts.architecture.startswith("llama"):
        is_70b = is_70b and heads != kv_heads and experts != 8
    return Model(
        architecture=facts.architecture,
        layers=_layers(facts, own_layers),
        experts=experts,
        heads_per_kv=heads // kv_heads if kv_heads else 0,
        is_70b=is_70b,
        values=roles.count(Role.ATTENTION_V),
        tied=Role.OUTPUT not in roles,
        has_importance=has_importance,
    )


def _layers(facts: Facts, own: int) -> int:
    """How many layers llama.cpp counts, `own` of which predict no token ahead; two architectures have others."""
    if facts.architecture == "graniteswitch":
        return own + 1  # a router, which has no tensors
    loops = _count(facts, "num_loops", 1) if facts.architecture == "nanbeige" else 1
    return own * loops if loops > 1 else _count(facts, "block_count")


def _count(facts: Facts, key: str, default: int = 0) -> int:
    """A hyperparameter; of one that is given per layer, the first layer's."""
    name = f"{facts.architecture}.{key}"
    typed = facts.metadata.get(name)
    if typed is None:
        return default
    value: object = typed.value
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not len(value):
            return default
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlanError(f"{name} should be a count, not {value!r}")
    return value
