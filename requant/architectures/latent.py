"""Latent attention that ggml keeps as it is, keys and values in one matrix: MiniCPM 3 and PLM.

Facts: llama.cpp's conversion/minicpm.py, plm.py and src/models/minicpm3.cpp (which knows its three scales as
constants), plm.cpp; transformers' modeling_minicpm3.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import ATTN, PLAIN_MLP, SIZES, VOCABULARY_SIZE, decoder, norm, rms_norm_eps
from requant.architectures.llama import MLP, NORMS, SILU, TRUNK
from requant.architectures.numbers import number
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Default,
    Family,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    unless_null,
    unsaid,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor

_COMPRESSED: Final = (
    Rule(ATTN + "q_a_proj.weight", "blk.{n}.attn_q_a.weight", ("query_rank", "hidden")),
    *norm(ATTN + "q_a_layernorm", "blk.{n}.attn_q_a_norm", "query_rank"),
    Rule(ATTN + "q_b_proj.weight", "blk.{n}.attn_q_b.weight", ("queries", "query_rank")),
)
_PLAIN: Final = (Rule(ATTN + "q_proj.weight", "blk.{n}.attn_q.weight", ("queries", "hidden")),)
_KEYS_AND_VALUES: Final = (
    Rule(ATTN + "kv_a_proj_with_mqa.weight", "blk.{n}.attn_kv_a_mqa.weight", ("rank_and_rotary", "hidden")),
    *norm(ATTN + "kv_a_layernorm", "blk.{n}.attn_kv_a_norm", "rank"),
    Rule(ATTN + "kv_b_proj.weight", "blk.{n}.attn_kv_b.weight", ("keys_and_values", "rank")),
    Rule(ATTN + "o_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "all_values")),
)


def _key_length(unrotated: int, rotated: int) -> Default:
    return lambda config: (
        int(number(config, "qk_nope_head_dim", unrotated)) + int(number(config, "qk_rope_head_dim", rotated))
    )


def _keys(rank: int, unrotated: int, rotated: int) -> tuple[Key, ...]:
    return (
        Key(("kv_lora_rank",), "attention.kv_lora_rank", "u32", always(rank)),
        Key((), "attention.key_length", "u32", _key_length(unrotated, rotated)),
        Key(("qk_rope_head_dim",), "rope.dimension_count", "u32", always(rotated)),
        VOCABULARY_SIZE,
    )


def _scales(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    value = config.get("v_head_dim")
    if value not in (None, sizes["hidden"] // sizes["heads"]) or sizes["hidden"] % sizes["heads"]:
        raise PlanError(f"config.json: v_head_dim is {value!r}; llama.cpp has values of hidden size over heads")
    return ToGgml()


def _unrotated(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    config: dict[str, Json] = {"qk_nope_head_dim": sizes["unrotated"], "v_head_dim": sizes["value"]}
    return ToHf(config)


MINICPM3: Final[Family] = decoder(
    "MiniCPM3",
    "minicpm3",
    "minicpm3",
    (*TRUNK, *NORMS, *_COMPRESSED, *_KEYS_AND_VALUES, *MLP),
    (
        *SIZES,
        rms_norm_eps(1e-5),
        Key(("q_lora_rank",), "attention.q_lora_rank", "u32", unless_null("q_lora_rank", 768)),
        *_keys(256, 64, 32),
    ),
    (Rope(theta=10000.0).pair(), Irregular(_scales, _unrotated)),
    assumptions=(
        SILU,
        Assumption("attention_bias", (False,), False),
        Assumption("mlp_bias", (False,), False),
        Assumption("scale_emb", (12,), 12),
        Assumption("scale_depth", (1.4,), 1.4),
        Assumption("dim_model_base", (256,), 256),
    ),
    tied=True,
)
PLM: Final[Family] = replace(
    decoder(
        "PLM",
        "plm",
        "plm",
        (*TRUNK, *NORMS, *_PLAIN, *_KEYS_AND_VALUES, *PLAIN_MLP),
        (
            *SIZES,
            rms_norm_eps(1e-6),
            *_keys(512, 128, 64),
            Key(("v_head_dim",), "attention.value_length", "u32", always(128)),
        ),
        (Rope(theta=10000.0).pair(), Irregular(unsaid, _unrotated)),
        assumptions=(Assumption("hidden_act", ("relu2",), "relu2"), Assumption("attention_bias", (False,), False)),
        tied=True,
    ),
    classes=("PLMForCausalLM", "PLMModel"),
)
