"""Granite 3 with experts, and with an expert that every token goes to: gate and up of all experts are one tensor in HF.

Facts: llama.cpp's conversion/granite.py and src/models/granite.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.changes import Grid
from requant.architectures.decoders import LAYER, decoder
from requant.architectures.granite import GRANITE
from requant.architectures.llama import NORMS, OUTPUT_BIAS, SILU, TRUNK, attention, attention_biases
from requant.architectures.rules import Family, Key, Order, Rule, always

_EXPERTS: Final = LAYER + "block_sparse_moe."
_SHARED: Final = LAYER + "shared_mlp."
_GATE: Final = Rule(
    _EXPERTS + "input_linear.weight",
    "blk.{n}.ffn_gate_exps.weight",
    ("experts", "ffn_pair", "hidden"),
    turn=0,
    changes=(Grid(("experts", 2, "ffn"), (1, 0, 2)),),
    among=("expert_rows", "expert_rows"),
    flat=("experts", "ffn", "hidden"),
)
_SHARED_GATE: Final = Rule(
    _SHARED + "input_linear.weight",
    "blk.{n}.ffn_gate_shexp.weight",
    ("shared_ffn_pair", "hidden"),
    turn=0,
    among=("shared_ffn", "shared_ffn"),
)
#: The experts.
EXPERT_RULES: Final = (
    Rule(_EXPERTS + "router.layer.weight", "blk.{n}.ffn_gate_inp.weight", ("experts", "hidden")),
    _GATE,
    replace(_GATE, ggml="blk.{n}.ffn_up_exps.weight", turn=1),
    Rule(_EXPERTS + "output_linear.weight", "blk.{n}.ffn_down_exps.weight", ("experts", "hidden", "ffn")),
)
#: The expert that every token goes to.
SHARED_RULES: Final = (
    _SHARED_GATE,
    replace(_SHARED_GATE, ggml="blk.{n}.ffn_up_shexp.weight", turn=1),
    Rule(_SHARED + "output_linear.weight", "blk.{n}.ffn_down_shexp.weight", ("hidden", "shared_ffn")),
)
_RULES: Final = (
    *TRUNK,
    *NORMS,
    *attention(Order.ROPE),
    *attention_biases(Order.ROPE, "attention_bias"),
    OUTPUT_BIAS,
    *EXPERT_RULES,
)

GRANITE_MOE: Final[Family] = decoder(
    "GraniteMoe",
    "granitemoe",
    "granitemoe",
    _RULES,
    (
        *GRANITE.keys,
        Key(("num_local_experts", "num_experts"), "expert_count", "u32", always(8)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(2)),
    ),
    GRANITE.irregular,
    assumptions=(SILU,),
    flags=(("attention_bias", False),),
)
GRANITE_MOE_SHARED: Final[Family] = replace(
    GRANITE_MOE,
    model_type="granitemoeshared",
    classes=("GraniteMoeSharedForCausalLM", "GraniteMoeSharedModel"),
    headless=frozenset({"GraniteMoeSharedModel"}),
    rules=(*_RULES, *SHARED_RULES),
    keys=(
        *GRANITE_MOE.keys,
        Key(("shared_intermediate_size",), "expert_shared_feed_forward_length", "u32"),
    ),
    claims=lambda values: "expert_shared_feed_forward_length" in values,
)
