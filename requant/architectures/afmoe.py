"""AFMoE (Trinity), Mellum 2: windows, and experts chosen by scores; gated attention in the first.

llama.cpp scales the embedding of AFMoE by the root of its width and rotates layers with a window only, as the releases
do (`mup_enabled`). Facts: llama.cpp's conversion/afmoe.py, mellum.py and src/models/afmoe.cpp, mellum.cpp;
transformers' modeling_afmoe.py, modeling_mellum.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.decoders import (
    ATTN,
    LAYER,
    SIZES,
    VOCABULARY_SIZE,
    decoder,
    head_norms,
    norm,
    rms_norm_eps,
    trunk,
)
from requant.architectures.llama import (
    NORMS,
    SILU,
    heads_of,
)
from requant.architectures.qwen import EXPERTS
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    same_as,
)
from requant.architectures.windows import Windows
from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor

AFMOE: Final[Family] = replace(
    decoder(
        "Afmoe",
        "afmoe",
        "afmoe",
        (
            *trunk(),
            *head_norms(),
            Rule(ATTN + "gate_proj.weight", "blk.{n}.attn_gate.weight", ("q", "hidden")),
            *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"),
            *norm(LAYER + "post_attention_layernorm", "blk.{n}.post_attention_norm"),
            *norm(LAYER + "pre_mlp_layernorm", "blk.{n}.ffn_norm"),
            *norm(LAYER + "post_mlp_layernorm", "blk.{n}.post_ffw_norm"),
            *mixture.DENSE_MLP,
            replace(mixture.SPARSE_EXPERTS[0], hf=mixture.MLP_ + "router.gate.weight", apart=()),
            *mixture.SPARSE_EXPERTS[1:],
            mixture.correction("mlp.expert_bias"),
            *mixture.shared_expert("shared_experts"),
        ),
        (
            *SIZES,
            rms_norm_eps(1e-5),
            *heads_of(128),
            VOCABULARY_SIZE,
            Key((), "rope.dimension_count", "u32", same_as("head_dim"), same_as("attention.key_length")),
            *mixture.counts(64, 6, ffn=always(1024)),
            Key(("num_shared_experts",), "expert_shared_count", "u32", always(2), always(0)),
            Key(("num_dense_layers",), mixture.LEADING, "u32", always(1), always(0)),
            Key(("route_norm",), "expert_weights_norm", "bool", always(True), always(False)),
            Key(("route_scale",), "expert_weights_scale", "f32", always(1.0), always(1.0)),
            mixture.gating(mixture.SIGMOID),
        ),
        (Rope(theta=10000.0).pair(), Windows(4, 1024, always=True).pair()),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("mup_enabled", (True,), False),
            Assumption("score_func", ("sigmoid",), "sigmoid", written=False),
            Assumption("route_norm", (True,), True, written=False),
        ),
    ),
    layers=mixture.dense_layers(),
)

_MELLUM_ROPE: Final = Rope(theta=500000.0, local=True)


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    """One base for all layers: llama.cpp leaves out the scaling where there is a window, and takes no other base."""
    types = config.get("mlp_layer_types")
    if isinstance(types, list) and set(map(str, types)) - {"sparse"}:
        raise PlanError("config.json: mlp_layer_types: llama.cpp has experts in every layer of this model")
    said = _MELLUM_ROPE.to_ggml(checkpoint, config, sizes)
    base = said.values["rope.freq_base"]
    if said.values.get("rope.freq_base_swa", base) != base:
        raise PlanError("config.json: rope_theta differs between layers with a window and without; llama.cpp has one")
    return said


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    said = _MELLUM_ROPE.to_hf({"rope.freq_base_swa": values.get("rope.freq_base"), **values}, tensors, sizes)
    # the class is younger than the spelling of earlier releases
    older = ("rope_scaling", "rope_theta")
    return replace(said, config={key: value for key, value in said.config.items() if key not in older})


MELLUM: Final[Family] = decoder(
    "Mellum",
    "mellum",
    "mellum",
    (*trunk(), *NORMS, *head_norms(), *EXPERTS),
    (
        *SIZES,
        rms_norm_eps(1e-6),
        *heads_of(128),
        *mixture.counts(64, 8, ffn=always(896)),
    ),
    (Irregular(_to_ggml, _to_hf), Windows(4, 1024, listed=True).pair()),
    assumptions=(
        SILU,
        Assumption("attention_bias", (False,), False),
        Assumption("norm_topk_prob", (True,), True),
    ),
)
