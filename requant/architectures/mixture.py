"""What families with experts are put together from: leading dense layers, shared experts, a corrected choice.

Facts: llama.cpp's conversion/base.py and src/llama-hparams.h (`llama_expert_gating_func_type`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import LAYER
from requant.architectures.llama import MLP
from requant.architectures.qwen import EXPERTS
from requant.architectures.rules import Config, Default, Key, Rule, always
from requant.ir import Json

MLP_: Final = LAYER + "mlp."
SIGMOID: Final = 2
#: The key that counts the layers before the first that has experts.
LEADING: Final = "leading_dense_block_count"


def _dense(values: Config) -> Sequence[bool]:
    layers, leading = values.get("block_count"), values.get(LEADING, 0)
    if not isinstance(layers, int) or not isinstance(leading, int):
        return []  # which `sizes_of` reports
    return [n < leading for n in range(min(layers, 1 << 16))]


#: `Family.layers` of a model whose first layers are dense.
DENSE_LAYERS: Final[Mapping[str, Callable[[Config], Sequence[bool]]]] = {"dense": _dense}
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


def leading_dense(config: Config) -> Json:
    """Counted from transformers 5's `mlp_layer_types`, or as earlier releases say it."""
    types = config.get("mlp_layer_types")
    if isinstance(types, list):
        return next((n for n, kind in enumerate(types) if kind != "dense"), len(types))
    return config.get("first_k_dense_replace")


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
