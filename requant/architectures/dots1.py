"""dots.llm1: leading dense layers, shared experts, norms of each head; as many key/value heads as heads.

Facts: llama.cpp's conversion/dots1.py, qwen.py and src/models/dots1.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.decoders import SIZES, decoder, head_norms, rms_norm_eps
from requant.architectures.llama import HEAD_KEYS, NORMS, SILU, TRUNK, attention
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Key, Order, always
from requant.architectures.windows import UNHEEDED

#: llama.cpp loads keys and values of as many heads as there are queries'.
_FULL: Final = {"kv": "q"}

DOTS1: Final[Family] = replace(
    decoder(
        "Dots1",
        "dots1",
        "dots1",
        (
            *TRUNK,
            *(
                replace(rule, shape=(_FULL.get(rule.shape[0], rule.shape[0]), *rule.shape[1:]))
                for rule in attention(Order.SAME)
            ),
            *NORMS,
            *head_norms(),
            *mixture.DENSE_MLP,
            *mixture.SPARSE_EXPERTS,
            mixture.correction("mlp.gate.e_score_correction_bias"),
            *mixture.shared_expert("shared_experts"),
        ),
        (
            *SIZES,
            rms_norm_eps(1e-6),
            *HEAD_KEYS,
            *mixture.counts(128, 6, "n_routed_experts", "num_experts", ffn=always(1408)),
            Key(("n_shared_experts",), "expert_shared_count", "u32", always(2)),
            Key(("first_k_dense_replace",), mixture.LEADING, "u32", always(0), always(0)),
            mixture.gating(mixture.SIGMOID),
            Key(("routed_scaling_factor",), "expert_weights_scale", "f32", always(1.0), always(1.0)),
            Key(("norm_topk_prob",), "expert_weights_norm", "bool", always(False), always(False)),
            Key(("n_group",), "expert_group_count", "u32", always(1), always(1)),
            Key(("topk_group",), "expert_group_used_count", "u32", always(1), always(1)),
        ),
        (Rope(theta=10000.0).pair(), UNHEEDED),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("use_sliding_window", (False, None), None, written=False),
        ),
    ),
    layers=mixture.dense_layers(),
)
