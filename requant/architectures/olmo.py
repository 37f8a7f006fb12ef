"""OLMo 1 to 3, and OLMoE.

Facts: llama.cpp's conversion/olmo.py and src/models/olmo.cpp, olmo2.cpp, olmoe.cpp. OLMo 1 has norms without weights.
llama.cpp gives heads of OLMo 2 and 3 the width of hidden size over heads, and OLMoE as many key/value heads as heads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.decoders import OUTER_NORMS, SIZES, decoder, head_norms, rms_norm_eps, trunk
from requant.architectures.llama import MLP, NORMS, SILU, TRUNK, attention
from requant.architectures.qwen import EXPERTS
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Key, Order, always
from requant.architectures.windows import Windows

_NO_BIAS: Final = Assumption("attention_bias", (False,), False)

OLMO: Final[Family] = decoder(
    "Olmo",
    "olmo",
    "olmo",
    (TRUNK[0], TRUNK[2], *attention(Order.ROPE), *MLP),
    (
        *SIZES,
        Key((), "attention.layer_norm_epsilon", "f32", default=always(1e-5), implied=always(1e-5)),
        Key(("clip_qkv",), "attention.clamp_kqv", "f32", default=always(None), implied=always(None)),
    ),
    (Rope(theta=10000.0).pair(),),
    assumptions=(SILU, _NO_BIAS),
    more=("OLMoForCausalLM",),
)

OLMO2: Final[Family] = decoder(
    "Olmo2",
    "olmo2",
    "olmo2",
    (*trunk(), *head_norms("q", "kv"), *OUTER_NORMS, *MLP),
    (*SIZES, rms_norm_eps(1e-5)),
    (Rope(theta=10000.0).pair(),),
    assumptions=(SILU, _NO_BIAS),
)

OLMO3: Final[Family] = replace(
    OLMO2,
    model_type="olmo3",
    classes=("Olmo3ForCausalLM", "Olmo3Model"),
    headless=frozenset({"Olmo3Model"}),
    irregular=(Rope(theta=500000.0, local=True).pair(), Windows(4, 4096, listed=True).pair()),
    claims=lambda values: "attention.sliding_window" in values,
)

OLMOE: Final[Family] = decoder(
    "Olmoe",
    "olmoe",
    "olmoe",
    (*trunk(), *NORMS, *head_norms("q", "q"), *EXPERTS),
    (
        *SIZES,
        rms_norm_eps(1e-5),
        Key(("num_experts",), "expert_count", "u32", always(64)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(8)),
    ),
    (Rope(theta=10000.0).pair(),),
    assumptions=(
        SILU,
        _NO_BIAS,
        Assumption("norm_topk_prob", (False,), False),
        Assumption("clip_qkv", (None,), None, written=False),
    ),
)
