"""What families with experts are put together from: leading dense layers, shared experts, a corrected choice.

Facts: llama.cpp's conversion/base.py and src/llama-hparams.h (`llama_expert_gating_func_type`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import LAYER
from requant.architectures.llama import MLP
from requant.architectures.numbers import number
from requant.architectures.qwen import EXPERTS
from requant.architectures.rules import (
    Config,
    Default,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToHf,
    always,
    unsaid,
)
from requant.errors import PlanError
from requant.ir import Json, Tensor

MLP_: Final = LAYER + "mlp."
SOFTMAX: Final = 1
SIGMOID: Final = 2
_SHARED_WIDTH: Final = "expert_shared_feed_forward_length"
#: The key that counts the layers before the first that has experts.
LEADING: Final = "leading_dense_block_count"


def dense_layers(absent: int = 0) -> Mapping[str, Callable[[Config], Sequence[bool]]]:
    """`Family.layers` of a model whose first layers are dense; `absent` of them where a GGUF does not say."""

    def dense(values: Config) -> Sequence[bool]:
        layers, leading = values.get("block_count"), values.get(LEADING, absent)
        if not isinstance(layers, int) or not isinstance(leading, int):
            return []  # which `sizes_of` reports
        return [n < leading for n in range(min(layers, 1 << 16))]

    return {"dense": dense}


DENSE_MLP: Final = tuple(replace(rule, when="dense") for rule in MLP)
SPARSE_EXPERTS: Final = tuple(replace(rule, when="!dense") for rule in EXPERTS)


def shared_expert(module: str) -> tuple[Rule, ...]:
    """The expert that every token goes to, in the layers that have experts."""
    return tuple(
        Rule(
            f"{MLP_}{module}.{part}_proj.weight",
            f"blk.{{n}}.ffn_{part}_shexp.weight",
            ("hidden", "shared_ffn") if part == "down" else ("shared_ffn", "hidden"),
            when="!dense",
        )
        for part in ("gate", "up", "down")
    )


def correction(hf: str, ggml: str = "exp_probs_b.bias", when: str = "!dense") -> Rule:
    """What is added to the scores of experts when they are chosen."""
    return Rule(LAYER + hf, "blk.{n}." + ggml, ("experts",), when=when)


def leading_dense(absent: int) -> Default:
    """Counted from transformers 5's `mlp_layer_types`, or as earlier releases say it; `absent` where neither does."""

    def count(config: Config) -> Json:
        types = config.get("mlp_layer_types")
        if isinstance(types, list):
            leading = next((n for n, kind in enumerate(types) if kind != "dense"), len(types))
            if "dense" in types[leading:]:
                raise PlanError(
                    "config.json: mlp_layer_types: llama.cpp knows dense layers before the first sparse one only"
                )
            return leading
        said = config.get("first_k_dense_replace")
        return absent if said is None else said

    return count


def _types(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    leading = int(number(values, LEADING, 1))
    layers = sizes["layers"] - int(number(values, "nextn_predict_layers", 0))
    types: Json = ["dense" if n < leading else "sparse" for n in range(layers)]
    return ToHf({"mlp_layer_types": types, "first_k_dense_replace": leading})


#: Leading dense layers on the way back, where transformers 5 lists the layers.
LISTED: Final = Irregular(unsaid, _types)


def shared_width(name: str, absent: int) -> tuple[Key, Irregular]:
    """The width of all shared experts together, which config.json counts under `name` (`absent` where it does not)."""

    def width(config: Config) -> Json:
        count = int(number(config, name, absent))
        return int(number(config, "moe_intermediate_size")) * count or None

    def counted(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
        width = int(number(values, _SHARED_WIDTH, 0))
        return ToHf({name: width // sizes["expert_ffn"]})

    return Key((), _SHARED_WIDTH, "u32", default=width), Irregular(unsaid, counted)


def gating(function: int) -> Key:
    """How scores become weights; one that is the same for every model of a family."""
    return Key((), "expert_gating_func", "u32", default=always(function), implied=always(function))


def counts(experts: int, used: int, *names: str, ffn: Default) -> tuple[Key, ...]:
    """Experts in all, in use, and their width. names: what config.json calls the first, and other names of it."""
    return (
        Key(names or ("num_experts", "num_local_experts", "n_routed_experts"), "expert_count", "u32", always(experts)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(used)),
        Key(("moe_intermediate_size",), "expert_feed_forward_length", "u32", ffn),
    )
