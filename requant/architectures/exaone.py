"""EXAONE 4 and K-EXAONE: norms on what attention and feed-forward network add, and norms of each head.

Facts: llama.cpp's conversion/exaone.py and src/models/exaone4.cpp, which has windows in the model of 64 layers (32B)
and in no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.decoders import (
    OUTER_NORMS,
    SIZES,
    UNSCALED,
    VOCABULARY_SIZE,
    decoder,
    head_norms,
    rms_norm_eps,
    trunk,
)
from requant.architectures.llama import BUFFERS, HEAD_KEYS, MLP, NORMS, SILU
from requant.architectures.rope import Rope
from requant.architectures.rules import Config, Family, Ignored, Irregular, Key, Sizes, ToGgml, ToHf, always
from requant.architectures.windows import Windows
from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor

_LAYERS_32B: Final = 64
_WINDOWS: Final = Windows(4, 4096, listed=True)


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    said = _WINDOWS.to_ggml(checkpoint, config, sizes)
    if bool(said.values) != (sizes["layers"] == _LAYERS_32B):
        has = "sliding windows" if said.values else "no sliding window"
        raise PlanError(
            f"config.json: {sizes['layers']} layers with {has}; llama.cpp computes this architecture with windows "
            f"where it has {_LAYERS_32B} layers, and without everywhere else",
            hint="a conversion would give a model that computes something else",
        )
    return said


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return _WINDOWS.to_hf(values, tensors, sizes)


EXAONE4: Final[Family] = decoder(
    "Exaone4",
    "exaone4",
    "exaone4",
    (*trunk(), *head_norms(), *OUTER_NORMS, *MLP),
    (*SIZES, rms_norm_eps(1e-5), *HEAD_KEYS, VOCABULARY_SIZE),
    (Rope(theta=10000.0).pair(), Irregular(_to_ggml, _to_hf)),
    assumptions=(SILU,),
)


_SHARED, _COUNTED = mixture.shared_width("num_shared_experts", 1)

EXAONE_MOE: Final[Family] = replace(
    decoder(
        "ExaoneMoe",
        "exaone_moe",
        "exaone-moe",
        (
            *trunk(),
            *NORMS,
            *head_norms(),
            *mixture.DENSE_MLP,
            *mixture.SPARSE_EXPERTS,
            mixture.correction("mlp.e_score_correction_bias"),
            *mixture.shared_expert("shared_experts"),
        ),
        (
            *SIZES,
            rms_norm_eps(1e-5),
            *HEAD_KEYS,
            VOCABULARY_SIZE,
            *mixture.counts(128, 8, ffn=always(1024)),
            Key(("num_shared_experts",), "expert_shared_count", "u32", always(1), always(0)),
            _SHARED,
            Key((), mixture.LEADING, "u32", mixture.leading_dense(1)),
            mixture.gating(mixture.SIGMOID),
            Key(("routed_scaling_factor",), "expert_weights_scale", "f32", always(2.5), always(1.0)),
            Key(("norm_topk_prob",), "expert_weights_norm", "bool", always(True), always(False)),
            Key(("n_group",), "expert_group_count", "u32", always(1), always(1)),
            Key(("topk_group",), "expert_group_used_count", "u32", always(1), always(1)),
            Key((), "nextn_predict_layers", "u32", always(0), always(0)),
            UNSCALED,
        ),
        (Rope(theta=10000.0).pair(), Windows(4, 4096, always=True, listed=True).pair(), mixture.LISTED, _COUNTED),
        assumptions=(SILU,),
        more=("ExaoneMoEForCausalLM",),
    ),
    layers=mixture.dense_layers(),
    renamed=((".mlp.gate.e_score_correction_bias", ".mlp.e_score_correction_bias"),),
    ignored=(
        *BUFFERS,
        Ignored(r"mtp\..*", "a layer that predicts ahead; llama.cpp keeps it without running it", lost=True),
    ),
)
