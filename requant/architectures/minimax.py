"""MiniMax M2: experts chosen by sigmoids with a correction, norms over all heads, heads rotated in part.

Facts: llama.cpp's conversion/minimax.py, base.py and src/models/minimax-m2.cpp.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import LAYER, SIZES, decoder, head_norms, rms_norm_eps, trunk
from requant.architectures.llama import (
    MOE_EXPERTS,
    NORMS,
    SILU,
    heads_of,
)
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import Assumption, Config, Family, Key, Rule, always, same_as
from requant.ir import Json

#: `llama_expert_gating_func_type` of llama.cpp.
_SIGMOID: Final = 2


def _rotated(config: Config) -> Json:
    """`rotary_dim` of the release, or transformers 5's part of a head."""
    return config.get("rotary_dim") or rotary(1.0)(config)


MINIMAX_M2: Final[Family] = decoder(
    "MiniMaxM2",
    "minimax_m2",
    "minimax-m2",
    (
        *trunk(),
        *NORMS,
        *head_norms("q", "kv"),
        *MOE_EXPERTS,
        Rule(LAYER + "block_sparse_moe.e_score_correction_bias", "blk.{n}.exp_probs_b.bias", ("experts",)),
    ),
    (
        *SIZES,
        rms_norm_eps(1e-6),
        *heads_of(128),
        Key(("num_local_experts",), "expert_count", "u32", always(256)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(8)),
        Key((), "expert_feed_forward_length", "u32", default=same_as("intermediate_size")),
        Key((), "expert_gating_func", "u32", default=always(_SIGMOID), implied=always(_SIGMOID)),
        Key(("rotary_dim",), "rope.dimension_count", "u32", default=_rotated),
    ),
    (Rope(theta=5_000_000.0, in_part=1.0).pair(),),
    assumptions=(
        SILU,
        Assumption("scoring_func", ("sigmoid",), "sigmoid"),
        Assumption("use_qk_norm", (True,), True),
        Assumption("use_mtp", (False,), False, written=False, loss="llama.cpp has no layers that predict ahead here"),
    ),
)
