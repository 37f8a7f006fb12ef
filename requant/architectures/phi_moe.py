"""Phi-3.5-MoE: norms with a mean and biases everywhere but in the experts.

The weights of its experts come of a sampling scheme of its own (SparseMixer); llama.cpp takes the softmax of the chosen
scores, which gives other weights wherever two scores are near. Facts: llama.cpp's conversion/phi.py and
src/models/phimoe.cpp (which asks for every bias); transformers' modeling_phimoe.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.decoders import BIASED_NORMS, norm
from requant.architectures.llama import MOE_EXPERTS, OUTPUT_BIAS, TRUNK, attention, attention_biases
from requant.architectures.phi3 import PHI3
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
    defaulting,
)
from requant.ir import Checkpoint, Tensor
from requant.losses import Loss, LossKind


def _told(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    detail = "SparseMixer makes the weights of experts in this model; llama.cpp takes the softmax of the chosen scores"
    return ToGgml(losses=(Loss(LossKind.METADATA_DROPPED, "router", detail),))


PHI_MOE: Final[Family] = replace(
    PHI3,
    model_type="phimoe",
    ggml="phimoe",
    classes=("PhimoeForCausalLM", "PhimoeModel", "PhiMoEForCausalLM"),
    headless=frozenset({"PhimoeModel"}),
    rules=(
        TRUNK[0],
        *norm("{base}norm", "output_norm", bias=True),
        TRUNK[2],
        Rule("lm_head.bias", "output.bias", ("vocab",)),
        *BIASED_NORMS,
        *attention(Order.SAME),
        *attention_biases(Order.SAME, ""),
        replace(OUTPUT_BIAS, when=""),
        *MOE_EXPERTS,
    ),
    keys=(
        *defaulting(PHI3.keys, num_key_value_heads=8),
        Key(("num_local_experts", "num_experts"), "expert_count", "u32", always(16)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(2)),
    ),
    irregular=(
        PHI3.irregular[0],
        Rope(theta=1_000_000.0, outer_original=True, in_part=1.0).pair(),
        Irregular(_told, lambda values, tensors, sizes: ToHf()),
    ),
    assumptions=(
        *PHI3.assumptions,
        Assumption("attention_bias", (True,), False),
        Assumption("lm_head_bias", (True,), False),
    ),
)
