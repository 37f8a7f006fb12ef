"""Granite with windows and sinks, dense and with experts, whose gates stay in one tensor with what they gate.

Facts: llama.cpp's conversion/granite.py and src/models/granite-swa.cpp; transformers' modeling_granite_swa.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import ATTN, LAYER, decoder
from requant.architectures.granite import GRANITE
from requant.architectures.llama import MLP, NORMS, SILU, TRUNK, attention
from requant.architectures.numbers import number, shortest
from requant.architectures.rope import parameters
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    defaulting,
)
from requant.architectures.windows import FULL, SLIDING, Windows
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed

_COMMON: Final = (
    *TRUNK,
    *NORMS,
    *attention(Order.ROPE),
    Rule(ATTN + "sinks", "blk.{n}.attn_sinks.weight", ("heads",)),
)
_ASSUMED: Final = (
    SILU,
    Assumption("attention_bias", (False,), False),
    Assumption("no_rope_layers", (None,), None, written=False),
)
_WINDOWS: Final = Windows(4, 128, always=True, listed=True)
_PATTERN: Final = "attention.rope_pattern"
_THETAS: Final = "layer_rope_theta"


def _layers(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    """Windows in all but the first of every four layers where config.json does not list them; layers without rope."""
    usual: Json = [SLIDING if n % 4 else FULL for n in range(sizes["layers"])]
    said = _WINDOWS.to_ggml(checkpoint, {"layer_types": usual, **config}, sizes)
    thetas = config.get(_THETAS)
    if thetas is None:
        return said
    theta = parameters(config, 10000.0)["rope_theta"]
    if not isinstance(thetas, list) or len(thetas) != sizes["layers"] or any(x not in (0, theta) for x in thetas):
        raise PlanError(f"config.json: {_THETAS} is neither {theta} nor 0 in each layer; llama.cpp knows no other")
    if all(thetas):
        return said
    pattern: list[Json] = [bool(x) for x in thetas]
    return replace(said, values={**said.values, _PATTERN: Typed("[bool]", pattern)})


def _layers_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    said = _WINDOWS.to_hf(values, tensors, sizes)
    theta, pattern = shortest(number(values, "rope.freq_base", 10000.0)), values.get(_PATTERN)
    listed = pattern if isinstance(pattern, list) else [True] * sizes["layers"]
    thetas: Json = [theta if rotated else 0 for rotated in listed]
    config = {key: value for key, value in said.config.items() if key != "sliding_window_pattern"}
    return replace(said, config={**config, _THETAS: thetas}, keys=said.keys | {_PATTERN})


_LAYERS: Final = Irregular(_layers, _layers_back)


def _shared_width(config: Config) -> Json:
    """None for no expert that every token goes to."""
    return config.get("shared_intermediate_size") or None


def _shared_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"shared_intermediate_size": int(number(values, "expert_shared_feed_forward_length", 0))})


GRANITE_MOE_SWA: Final[Family] = replace(
    decoder(
        "GraniteMoeSWA",
        "granitemoe_swa",
        "granite_swa",
        (
            *_COMMON,
            Rule(LAYER + "block_sparse_moe.router.weight", "blk.{n}.ffn_gate_inp.weight", ("experts", "hidden")),
            Rule(
                LAYER + "block_sparse_moe.experts.gate_up_proj",
                "blk.{n}.ffn_gate_up_exps.weight",
                ("experts", "ffn_pair", "hidden"),
            ),
            Rule(
                LAYER + "block_sparse_moe.experts.down_proj",
                "blk.{n}.ffn_down_exps.weight",
                ("experts", "hidden", "ffn"),
            ),
            Rule(
                LAYER + "shared_mlp.input_linear.weight", "blk.{n}.ffn_up_shexp.weight", ("shared_ffn_pair", "hidden")
            ),
            Rule(
                LAYER + "shared_mlp.output_linear.weight",
                "blk.{n}.ffn_down_shexp.weight",
                ("hidden", "shared_ffn"),
                when="shared",
            ),
        ),
        (
            *defaulting(GRANITE.keys, num_key_value_heads=32),
            Key(("num_local_experts", "num_experts"), "expert_count", "u32", always(8)),
            Key(("num_experts_per_tok",), "expert_used_count", "u32", always(2)),
            Key((), "expert_shared_feed_forward_length", "u32", _shared_width),
        ),
        (*GRANITE.irregular, _LAYERS, Irregular(lambda checkpoint, config, sizes: ToGgml(), _shared_back)),
        assumptions=_ASSUMED,
    ),
    present={"shared": r"\.shared_mlp\.input_linear\.weight"},
    claims=lambda values: bool(values.get("expert_count")),
)

GRANITE_SWA: Final[Family] = decoder(
    "GraniteSWA",
    "granite_swa",
    "granite_swa",
    (*_COMMON, *MLP),
    defaulting(GRANITE.keys, rms_norm_eps=1e-5, num_key_value_heads=4),
    (*GRANITE.irregular, _LAYERS),
    assumptions=(*_ASSUMED, Assumption("mlp_bias", (False,), False)),
    tied=True,
)
