"""ERNIE 4.5 with experts, which are behind the first layers, and some that every token goes to.

Facts: llama.cpp's conversion/ernie.py and src/models/ernie4-5.cpp, ernie4-5-moe.cpp; transformers'
modeling_ernie4_5_moe.py. The width of the experts for all is their number times an expert's; the converter divides the
dense width by the key heads, which is the same in the models that were published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.decoders import LAYER, SIZES, decoder, rms_norm_eps, trunk
from requant.architectures.llama import BUFFERS, NORMS, SILU
from requant.architectures.numbers import number
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    defaulting,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor

_LAST: Final = "moe_layer_end_index"
_WIDTH, _COUNTED = mixture.shared_width("moe_num_shared_experts", 2)


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    last = number(config, _LAST, -1)
    if last not in (-1, sizes["layers"] - 1):
        raise PlanError(f"config.json: {_LAST} is {last:g}; llama.cpp knows no dense layers behind those with experts")
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({_LAST: sizes["layers"] - 1})


ERNIE_MOE: Final[Family] = replace(
    decoder(
        "Ernie4_5_Moe",
        "ernie4_5_moe",
        "ernie4_5-moe",
        (
            *trunk(),
            *NORMS,
            *mixture.DENSE_MLP,
            *mixture.SPARSE_EXPERTS,
            Rule(
                LAYER + "mlp.moe_statics.e_score_correction_bias",
                "blk.{n}.exp_probs_b.bias",
                ("one", "experts"),
                when="!dense",
            ),
            *mixture.shared_expert("shared_experts"),
        ),
        (
            *defaulting(SIZES, num_key_value_heads=4),
            rms_norm_eps(1e-5),
            Key(("moe_num_experts", "num_experts"), "expert_count", "u32", always(64)),
            Key(("moe_k", "num_experts_per_tok"), "expert_used_count", "u32", always(6)),
            Key(("moe_intermediate_size",), "expert_feed_forward_length", "u32", always(1536)),
            Key(("moe_layer_interval",), "interleave_moe_layer_step", "u32", always(1), always(1)),
            Key(("moe_layer_start_index",), mixture.LEADING, "u32", always(1), always(0)),
            Key(("moe_num_shared_experts",), "expert_shared_count", "u32", always(2)),
            _WIDTH,
        ),
        (Rope(theta=500000.0).pair(), Irregular(_to_ggml, _to_hf), _COUNTED),
        assumptions=(
            SILU,
            Assumption("use_bias", (False,), False),
            Assumption("moe_layer_interval", (1,), 1, written=False),
            Assumption("moe_norm_min", (1e-12,), 1e-12, written=False),
        ),
        tied=True,
    ),
    layers=mixture.dense_layers(),
    ignored=(
        *BUFFERS,
        Ignored(r"(model\.)?mtp_.*", "what predicts more than one token ahead; llama.cpp does without", lost=True),
    ),
)
