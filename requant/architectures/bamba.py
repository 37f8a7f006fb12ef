"""Bamba: Mamba 2, and some layers that look back and rotate half of each head.

A GGUF is one of Granite 4's hybrids, with rotation. Facts: llama.cpp's conversion/granite.py (which puts whole heads in
the order of rotation, and writes half of them only where config.json has `attn_rotary_emb`) and
src/models/granite-hybrid.cpp; transformers' modeling_bamba.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.attending import ATTENDING, KV_HEADS, key_value_heads, layers_of
from requant.architectures.changes import Rotated
from requant.architectures.decoders import LAYER, SIZES, VOCABULARY_SIZE, decoder, norm, rms_norm_eps
from requant.architectures.llama import MLP, SILU, TRUNK, attention, head_width
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
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor

_ROPE: Final = Rope(theta=10000.0, in_part=0.5)


def _which(config: Config) -> list[bool]:
    chosen = config.get("attn_layer_indices")
    return [isinstance(chosen, list) and n in chosen for n in range(layers_of(config))]


def _rotary(config: Config) -> Json:
    said, head = config.get("attn_rotary_emb"), head_width(config)
    return said if said is not None else head // 2 if isinstance(head, int) else None


def _inner(config: Config) -> Json:
    return int(number(config, "mamba_expand", 2) * number(config, "hidden_size"))


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    check_width(config, sizes)
    if 2 * sizes["rotary"] != sizes["head"]:
        raise PlanError(f"config.json: {sizes['rotary']} of {sizes['head']} numbers are rotated; Bamba rotates half")
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    chosen: Json = [n for n, attends in enumerate(ATTENDING["attends"](values)) if attends]
    config: dict[str, Json] = {
        "attn_layer_indices": chosen,
        "num_key_value_heads": sizes["kv_heads"],
        "mamba_d_head": width_of_heads(sizes),
        "mamba_expand": expansion(sizes),
        "attn_rotary_emb": sizes["rotary"],
    }
    return ToHf(config)


def _rotated(rule: Rule) -> Rule:
    heads = {"attn_q": "heads", "attn_k": "kv_heads"}.get(rule.ggml.split(".")[2])
    return replace(rule, when="attends", changes=(Rotated(heads),) if heads else ())


BAMBA: Final[Family] = replace(
    decoder(
        "Bamba",
        "bamba",
        "granitehybrid",
        (
            TRUNK[0],
            *norm("{base}final_layernorm", "output_norm"),
            TRUNK[2],
            *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"),
            *norm(LAYER + "pre_ff_layernorm", "blk.{n}.ffn_norm"),
            *map(_rotated, attention(Order.SAME)),
            *grouped_scan(LAYER + "mamba.", "!attends"),
            *(replace(rule, hf=rule.hf.replace(".mlp.", ".feed_forward.")) for rule in MLP),
        ),
        (
            *(key for key in SIZES if key.ggml != KV_HEADS),
            key_value_heads(_which, lambda config: config.get("num_key_value_heads", 8)),
            rms_norm_eps(1e-5),
            VOCABULARY_SIZE,
            Key((), "rope.dimension_count", "u32", _rotary),
            Key((), "rope.scaling.finetuned", "bool", always(True)),
            Key(("mamba_d_conv",), "ssm.conv_kernel", "u32", always(4)),
            Key(("mamba_d_state",), "ssm.state_size", "u32", always(256)),
            Key(("mamba_n_groups",), "ssm.group_count", "u32", always(1)),
            Key((), "ssm.inner_size", "u32", _inner),
            Key(("mamba_n_heads",), "ssm.time_step_rank", "u32", always(128)),
        ),
        (_ROPE.pair(), Irregular(_to_ggml, _to_hf)),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("mlp_bias", (False,), False),
            Assumption("mamba_conv_bias", (True,), True),
            Assumption("mamba_proj_bias", (False,), False),
            UNLIMITED,
        ),
    ),
    layers=ATTENDING,
    # Granite's hybrids scale what they add, and rotate nothing
    claims=lambda values: bool(values.get("rope.scaling.finetuned")) and "residual_scale" not in values,
)
