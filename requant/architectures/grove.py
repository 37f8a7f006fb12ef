"""GroveMoE, whose experts share smaller ones by twos; SmallThinker, whose router sees what attention sees; Arctic, a
dense network beside its experts.

Facts: llama.cpp's conversion/grovemoe.py, smallthinker.py, arctic.py and src/models/grovemoe.cpp, smallthinker.cpp,
arctic.cpp. llama.cpp takes a window of 4096 for SmallThinker, in three layers of four, whatever a file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import LAYER, SIZES, VOCABULARY_SIZE, decoder, rms_norm_eps
from requant.architectures.experts import expert_rules
from requant.architectures.llama import (
    HEAD_KEYS,
    MOE_EXPERTS,
    NORMS,
    SILU,
    TRUNK,
    attention,
    head_width,
    head_width_implied,
)
from requant.architectures.qwen import QWEN3MOE
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed


def _chunk_width(config: Config) -> Json:
    return config.get("head_dim") or 128


_CHUNKS: Final = tuple(
    Rule(
        f"{LAYER}mlp.chunk_experts.{{e}}.{part}_proj.weight",
        f"blk.{{n}}.ffn_{part}_chexps.weight",
        ("hidden", "chunk_ffn") if part == "down" else ("chunk_ffn", "hidden"),
        each="chunk_experts",
    )
    for part in ("gate", "down", "up")
)

GROVE_MOE: Final[Family] = replace(
    QWEN3MOE,
    model_type="grove_moe",
    ggml="grovemoe",
    classes=("GroveMoeForCausalLM", "modeling_grove_moe.GroveMoeForCausalLM"),
    headless=frozenset(),
    rules=(*QWEN3MOE.rules, *_CHUNKS),
    keys=(
        *QWEN3MOE.keys,
        # all three as in the released code; config.json says none of them
        Key((), "expert_chunk_feed_forward_length", "u32", _chunk_width),
        Key((), "experts_per_group", "u32", always(2), always(2)),
        Key((), "expert_group_scale", "f32", always(0.05), always(0.05)),
    ),
    ignored=(*QWEN3MOE.ignored, Ignored(r".*\.mlp\.expert_bias", "the released code does not read it")),
)

_SMALL: Final = LAYER + "block_sparse_moe."
_WINDOW: Final = "attention.sliding_window"


def _windows(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    layout = config.get("sliding_window_layout")
    rope = config.get("rope_layout", layout)
    if not layout or not any(layout if isinstance(layout, list) else ()):
        return ToGgml()
    regular: list[Json] = [int(n % 4 != 0) for n in range(sizes["layers"])]
    if layout != regular or rope != regular or config.get("sliding_window_size") != 4096:
        raise PlanError(
            "config.json: sliding_window_layout, rope_layout or sliding_window_size; llama.cpp has a window of 4096 "
            "and rotation in all but the first of every four layers"
        )
    return ToGgml({_WINDOW: Typed("u32", 4096)})


def _windows_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    has = bool(values.get(_WINDOW))
    layout: list[Json] = [int(has and n % 4 != 0) for n in range(sizes["layers"])]
    rope: list[Json] = layout if has else [1] * sizes["layers"]
    config: dict[str, Json] = {
        "sliding_window_layout": layout,
        "rope_layout": rope,
        "sliding_window_size": 4096 if has else None,
        "moe_primary_router_apply_softmax": values.get("expert_gating_func") == 1,
    }
    return ToHf(config, keys=frozenset({_WINDOW}))


def _gating(config: Config) -> Json:
    return 1 if config.get("moe_primary_router_apply_softmax") else 2


SMALL_THINKER: Final[Family] = decoder(
    "SmallThinker",
    "smallthinker",
    "smallthinker",
    (
        *TRUNK,
        *NORMS,
        *attention(Order.SAME),
        replace(expert_rules(_SMALL, "expert_ffn")[0], hf=_SMALL + "primary_router.weight"),
        *expert_rules(_SMALL, "expert_ffn", ("gate", "down", "up"))[1:],
    ),
    (
        *(key for key in SIZES if key.ggml != "feed_forward_length"),
        rms_norm_eps(1e-6),
        *HEAD_KEYS,
        Key(("moe_num_primary_experts",), "expert_count", "u32"),
        Key(("moe_num_active_primary_experts",), "expert_used_count", "u32"),
        Key(("moe_ffn_hidden_size",), "expert_feed_forward_length", "u32"),
        Key((), "feed_forward_length", "u32", lambda config: config.get("moe_ffn_hidden_size")),
        Key((), "expert_gating_func", "u32", _gating),
    ),
    (Rope(theta=10000.0).pair(), Irregular(_windows, _windows_back)),
    assumptions=(
        Assumption("moe_enable_secondary_experts", (False, None), None, written=False),
        Assumption("norm_topk_prob", (True,), True),
    ),
)

_DENSE: Final = LAYER + "residual_mlp."
ARCTIC: Final[Family] = decoder(
    "Arctic",
    "arctic",
    "arctic",
    (
        *TRUNK,
        NORMS[0],
        Rule(LAYER + "residual_layernorm.weight", "blk.{n}.ffn_norm.weight", ("hidden",)),
        Rule(LAYER + "post_attention_layernorm.weight", "blk.{n}.ffn_norm_exps.weight", ("hidden",)),
        *attention(Order.ROPE),
        Rule(_DENSE + "w1.weight", "blk.{n}.ffn_gate.weight", ("hidden", "hidden")),
        Rule(_DENSE + "w3.weight", "blk.{n}.ffn_up.weight", ("hidden", "hidden")),
        Rule(_DENSE + "w2.weight", "blk.{n}.ffn_down.weight", ("hidden", "hidden")),
        *MOE_EXPERTS,
    ),
    (
        *SIZES,
        rms_norm_eps(1e-5),
        VOCABULARY_SIZE,
        Key((), "rope.dimension_count", "u32", default=head_width, implied=head_width_implied),
        Key(("num_local_experts",), "expert_count", "u32"),
        Key(("num_experts_per_tok",), "expert_used_count", "u32"),
    ),
    (Rope(theta=10000.0).pair(),),
    assumptions=(
        SILU,
        Assumption("attention_bias", (False,), False),
        Assumption("moe_layer_frequency", (1,), 1),
        Assumption("parallel_attn_mlp_res", (True,), True),
        Assumption("use_residual", (True,), True),
    ),
)
