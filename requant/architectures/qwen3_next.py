"""Qwen3-Next: linear attention as in Qwen 3.5, with the projections of each key head side by side.

Facts: llama.cpp's conversion/qwen.py and src/models/qwen3next.cpp; transformers' modeling_qwen3_next.py
(`fix_query_key_value_ordering`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.changes import Grid, Negative
from requant.architectures.decoders import decoder, shifted
from requant.architectures.llama import SILU, TRUNK
from requant.architectures.qwen import EVERY_LAYER, EXPERTS, SHARED
from requant.architectures.qwen35 import AHEAD, KEYS, LINEAR_LAYERS, LINEAR_TYPES, LOOKING_BACK, NORMS, state
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Key, always, defaulting

#: Key heads of queries, keys, values and gates become those four, each with its heads in order.
_APART: Final = Grid(("linear_keys", "linear_units", "state"), (1, 0, 2))
_BY_KEY: Final = Grid((2, "linear_group", "linear_keys", "state"), (0, 2, 1, 3), after=(2, "linear_keys", "state"))
_MIXED: Final = replace(
    state("in_proj_qkvz.weight", "attn_qkv.weight", ("mixed", "hidden"), _APART, _BY_KEY),
    turn=0,
    among=("channels", "inner"),
)
_LINEAR_ATTENTION: Final = (
    _MIXED,
    replace(_MIXED, ggml="blk.{n}.attn_gate.weight", turn=1),
    replace(state("conv1d.weight", "ssm_conv1d.weight", ("channels", "one", "kernel")), flat=("channels", "kernel")),
    state("dt_bias", "ssm_dt.bias", ("linear_heads",)),
    state("A_log", "ssm_a", ("linear_heads",), Negative()),
    state("in_proj_ba.weight", "ssm_ba.weight", ("linear_heads_pair", "hidden")),
    state("norm.weight", "ssm_norm.weight", ("state",)),
    state("out_proj.weight", "ssm_out.weight", ("hidden", "inner")),
)

QWEN3_NEXT: Final[Family] = replace(
    decoder(
        "Qwen3Next",
        "qwen3_next",
        "qwen3next",
        (*shifted(TRUNK), *NORMS, *LOOKING_BACK, *_LINEAR_ATTENTION, *EXPERTS, *SHARED),
        (
            *defaulting(KEYS, num_key_value_heads=2, intermediate_size=5632),
            Key(("num_experts", "num_local_experts"), "expert_count", "u32", always(512)),
            Key(("num_experts_per_tok",), "expert_used_count", "u32", always(10)),
            Key(("moe_intermediate_size",), "expert_feed_forward_length", "u32", always(512)),
            Key(("shared_expert_intermediate_size",), "expert_shared_feed_forward_length", "u32", always(512)),
        ),
        (Rope(theta=10000.0, in_part=0.25).pair(), LINEAR_TYPES),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("norm_topk_prob", (True,), True),
            *EVERY_LAYER,
        ),
    ),
    layers=LINEAR_LAYERS,
    ignored=AHEAD,
)
