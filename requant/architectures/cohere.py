"""Command-R, Command-R7B and Aya: one norm before attention and feed-forward network, which work side by side.

Facts: llama.cpp's conversion/command_r.py and src/models/command-r.cpp, cohere2.cpp (which rotates only layers with
a window, as transformers does).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.decoders import (
    ATTN,
    LAYER,
    SIZES,
    TIED,
    UNSCALED,
    VOCABULARY_SIZE,
    decoder,
    layer_norm_eps,
    norm,
    trunk,
)
from requant.architectures.llama import HEAD_KEYS, MLP, SILU
from requant.architectures.numbers import number
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import Assumption, Config, Family, Key, Rule, always, same_as
from requant.architectures.windows import Windows
from requant.ir import Json

_LOGITS: Final = Key(("logit_scale",), "logit_scale", "f32", always(0.0625))
_RULES: Final = (*trunk(), *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"), *MLP)
_NO_BIAS: Final = Assumption("attention_bias", (False,), False)

COHERE: Final[Family] = decoder(
    "Cohere",
    "cohere",
    "command-r",
    (
        *_RULES,
        # llama.cpp looks for them in models of 64 layers and more
        Rule(ATTN + "q_norm.weight", "blk.{n}.attn_q_norm.weight", ("heads", "head"), when="use_qk_norm"),
        Rule(ATTN + "k_norm.weight", "blk.{n}.attn_k_norm.weight", ("kv_heads", "head"), when="use_qk_norm"),
    ),
    (*SIZES, layer_norm_eps("layer_norm_eps"), _LOGITS, UNSCALED),
    (Rope(theta=500000.0).pair(),),
    assumptions=(SILU, _NO_BIAS, TIED),
    tied=True,
    flags=(("use_qk_norm", False),),
)

COHERE2: Final[Family] = decoder(
    "Cohere2",
    "cohere2",
    "cohere2",
    _RULES,
    (
        *SIZES,
        layer_norm_eps("layer_norm_eps"),
        *HEAD_KEYS,
        _LOGITS,
        VOCABULARY_SIZE,
        Key((), "rope.dimension_count", "u32", default=rotary(1.0)),
        UNSCALED,
    ),
    (Rope(theta=10000.0, in_part=1.0).pair(), Windows(4, 4096, always=True).pair()),
    assumptions=(SILU, _NO_BIAS, TIED),
    tied=True,
)


def _shared(config: Config) -> Json:
    """None for no expert that every token goes to."""
    return config.get("num_shared_experts") or None


def _shared_width(config: Config) -> Json:
    count = int(number(config, "num_shared_experts", 0))
    return int(number(config, "intermediate_size")) * count or None


COHERE2_MOE: Final[Family] = replace(
    decoder(
        "Cohere2Moe",
        "cohere2_moe",
        "cohere2moe",
        (
            *trunk(),
            *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"),
            *mixture.DENSE_MLP,
            *mixture.SPARSE_EXPERTS,
            *(replace(rule, when="!dense+shared") for rule in mixture.shared_expert("shared_experts")),
        ),
        (
            *(key for key in SIZES if key.ggml != "feed_forward_length"),
            Key(("prefix_dense_intermediate_size", "intermediate_size"), "feed_forward_length", "u32"),
            Key(("layer_norm_eps",), "attention.layer_norm_epsilon", "f32", always(1e-5)),
            *HEAD_KEYS,
            _LOGITS,
            VOCABULARY_SIZE,
            Key((), "rope.dimension_count", "u32", same_as("head_dim"), same_as("attention.key_length")),
            UNSCALED,
            Key(("num_experts",), "expert_count", "u32", always(8)),
            Key(("num_experts_per_tok",), "expert_used_count", "u32", always(2)),
            Key(("intermediate_size",), "expert_feed_forward_length", "u32"),
            Key(("num_shared_experts",), "expert_shared_count", "u32", _shared, always(0)),
            Key((), "expert_shared_feed_forward_length", "u32", _shared_width),
            Key((), mixture.LEADING, "u32", mixture.leading_dense(0)),
            Key(("norm_topk_prob",), "expert_weights_norm", "bool", always(True), always(False)),
            mixture.gating(1),
        ),
        (Rope(theta=10000.0).pair(), Windows(4, 4096, always=True, listed=True).pair(), mixture.LISTED),
        assumptions=(
            SILU,
            _NO_BIAS,
            TIED,
            Assumption("expert_selection_fn", ("softmax",), "softmax"),
            Assumption("shared_expert_combination_strategy", ("average",), "average"),
            Assumption("rms_norm_eps", (None,), None, written=False),
        ),
        tied=True,
    ),
    layers=mixture.dense_layers(),
    present={"shared": r"\.mlp\.shared_experts\.up_proj\.weight"},
)
