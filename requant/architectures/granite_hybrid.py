"""Granite 4: layers with the state of Mamba 2 and some that look back; with experts, or the shared network alone.

Facts: llama.cpp's conversion/granite.py and src/models/granite-hybrid.cpp; transformers' modeling_granitemoehybrid.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.attending import ATTENDING, key_value_heads, layers_of, listed_kinds
from requant.architectures.decoders import LAYER, SIZES, VOCABULARY_SIZE, decoder, rms_norm_eps
from requant.architectures.granite import SCALES
from requant.architectures.granite_moe import EXPERT_RULES, SHARED_RULES
from requant.architectures.llama import NORMS, SILU, TRUNK, attention, head_width, head_width_implied
from requant.architectures.mamba import UNLIMITED, grouped_scan
from requant.architectures.numbers import number
from requant.architectures.rope import Rope
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
)
from requant.architectures.states import check_width, expansion, width_of_heads
from requant.ir import Checkpoint, Json, Tensor, Typed

#: What config.json calls the two kinds of layers: on the hub, and as transformers 5 saves it.
_KINDS: Final = {"mamba": False, "attention": True, "linear_attention": False, "full_attention": True}
_ROTATED: Final = "rope.scaling.finetuned"


def _which(config: Config) -> list[bool]:
    return listed_kinds(config, _KINDS) or [False] * layers_of(config)


def _heads(config: Config) -> Json:
    said = config.get("num_key_value_heads")
    return config.get("num_attention_heads") if said is None else said


def _inner(config: Config) -> Json:
    return int(number(config, "mamba_expand", 2) * number(config, "hidden_size"))


def _used(config: Config) -> Json:
    return config.get("num_experts_per_tok", 2) if config.get("num_local_experts", 8) else 0


def _width(config: Config) -> Json:
    """Of each expert; without them, of the shared network, which is all there is."""
    return config.get("intermediate_size" if config.get("num_local_experts", 8) else "shared_intermediate_size")


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    check_width(config, sizes)
    return ToGgml({_ROTATED: Typed("bool", config.get("position_embedding_type") == "rope")})


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    types: Json = ["attention" if attends else "mamba" for attends in ATTENDING["attends"](values)]
    experts = sizes["experts"]
    config: dict[str, Json] = {
        "layer_types": types,
        "num_key_value_heads": sizes["kv_heads"],
        "position_embedding_type": "rope" if values.get(_ROTATED, True) else None,
        "mamba_n_heads": sizes["linear_heads"],
        "mamba_d_head": width_of_heads(sizes),
        "mamba_expand": expansion(sizes),
        "num_experts_per_tok": int(number(values, "expert_used_count", 0)),
        "intermediate_size": sizes["ffn"],
        "shared_intermediate_size": sizes["shared_ffn"] if experts else sizes["ffn"],
    }
    return ToHf(config, keys=frozenset({_ROTATED}))


_SHARED: Final = LAYER + "shared_mlp."
_GATE: Final = Rule(
    _SHARED + "input_linear.weight",
    "blk.{n}.ffn_gate.weight",
    ("ffn_pair", "hidden"),
    turn=0,
    among=("ffn", "ffn"),
    when="!experts",
)

GRANITE_HYBRID: Final[Family] = replace(
    decoder(
        "GraniteMoeHybrid",
        "granitemoehybrid",
        "granitehybrid",
        (
            *TRUNK,
            *NORMS,
            *(replace(rule, when="attends") for rule in attention(Order.ROPE)),
            *grouped_scan(LAYER + "mamba.", "!attends"),
            *(replace(rule, when="experts") for rule in (*EXPERT_RULES, *SHARED_RULES)),
            _GATE,
            replace(_GATE, ggml="blk.{n}.ffn_up.weight", turn=1),
            Rule(_SHARED + "output_linear.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn"), when="!experts"),
        ),
        (
            *(key for key in SIZES if key.ggml not in ("attention.head_count_kv", "feed_forward_length")),
            key_value_heads(_which, _heads),
            rms_norm_eps(1e-6),
            VOCABULARY_SIZE,
            Key((), "feed_forward_length", "u32", default=_width),
            Key((), "rope.dimension_count", "u32", default=head_width, implied=head_width_implied),
            *SCALES,
            Key(("num_local_experts",), "expert_count", "u32", always(8), always(0)),
            Key((), "expert_used_count", "u32", default=_used),
            Key(
                (),
                "expert_shared_feed_forward_length",
                "u32",
                lambda config: config.get("shared_intermediate_size", 1024),
            ),
            Key(("mamba_d_conv",), "ssm.conv_kernel", "u32", always(4)),
            Key(("mamba_d_state",), "ssm.state_size", "u32", always(256)),
            Key(("mamba_n_groups",), "ssm.group_count", "u32", always(1)),
            Key((), "ssm.inner_size", "u32", default=_inner),
            Key((), "ssm.time_step_rank", "u32", default=lambda config: config.get("mamba_n_heads", 128)),
        ),
        (Rope(theta=10000.0).pair(), Irregular(_to_ggml, _to_hf)),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("mamba_conv_bias", (True,), True),
            Assumption("mamba_proj_bias", (False,), False),
            UNLIMITED,
        ),
    ),
    layers=ATTENDING,
    present={"experts": r"\.block_sparse_moe\.output_linear\.weight"},
)
