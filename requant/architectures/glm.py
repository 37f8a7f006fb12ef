"""GLM-4 to 4.7: gate and up in one matrix, which llama.cpp keeps; half of each head rotated, in pairs.

Facts: llama.cpp's conversion/chatglm.py, glm.py and src/models/chatglm.cpp, glm4.cpp. For the first llama.cpp's
converter takes the context from a key that transformers has not, and writes the hidden size without it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures import ahead, mixture
from requant.architectures.changes import Rotated
from requant.architectures.decoders import LAYER, SIZES, decoder, head_norms, norm, rms_norm_eps, trunk
from requant.architectures.llama import (
    HEAD_KEYS,
    MLP,
    NORMS,
    SILU,
    attention_biases,
    heads_of,
)
from requant.architectures.mrope import SECTIONS, Sections
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import Family, Ignored, Key, Order, Rule, always, defaulting, never
from requant.architectures.seeing import SEEING

_FUSED: Final = (Rule(LAYER + "mlp.gate_up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn_pair", "hidden")), MLP[2])
_ROTARY: Final = Key((), "rope.dimension_count", "u32", default=rotary(0.5))

GLM: Final[Family] = decoder(
    "Glm",
    "glm",
    "chatglm",
    (*trunk(), *NORMS, *attention_biases(Order.SAME, "attention_bias"), *_FUSED),
    (*defaulting(SIZES, num_key_value_heads=2), rms_norm_eps(0.00000015625), *heads_of(128), _ROTARY),
    (Rope(theta=10000.0, in_part=0.5).pair(),),
    assumptions=(SILU,),
    flags=(("attention_bias", True),),
)

GLM4: Final[Family] = decoder(
    "Glm4",
    "glm4",
    "glm4",
    (
        *trunk(),
        *NORMS,
        *attention_biases(Order.SAME, "attention_bias"),
        *norm(LAYER + "post_self_attn_layernorm", "blk.{n}.post_attention_norm"),
        *_FUSED,
        *norm(LAYER + "post_mlp_layernorm", "blk.{n}.post_ffw_norm"),
    ),
    (*defaulting(SIZES, num_key_value_heads=2), rms_norm_eps(0.00000015625), *heads_of(128), _ROTARY),
    (Rope(theta=10000.0, in_part=0.5).pair(),),
    assumptions=(SILU,),
    flags=(("attention_bias", True),),
)

GLM4_MOE: Final[Family] = replace(
    decoder(
        "Glm4Moe",
        "glm4_moe",
        "glm4moe",
        (
            *trunk(),
            NORMS[0],
            Rule(NORMS[1].hf, "blk.{n}.post_attention_norm.weight", ("hidden",)),
            *attention_biases(Order.SAME, "attention_bias"),
            *(replace(rule, when="use_qk_norm") for rule in head_norms()),
            *mixture.DENSE_MLP,
            *mixture.SPARSE_EXPERTS,
            mixture.correction("mlp.gate.e_score_correction_bias"),
            *mixture.shared_expert("shared_experts"),
            *ahead.RULES,
        ),
        (
            ahead.BLOCKS,
            *SIZES[1:],
            rms_norm_eps(1e-5),
            *HEAD_KEYS,
            _ROTARY,
            *mixture.counts(128, 8, "n_routed_experts", "num_local_experts", "num_experts", ffn=always(1408)),
            Key(("n_shared_experts",), "expert_shared_count", "u32", always(1)),
            Key(("first_k_dense_replace",), mixture.LEADING, "u32", always(1), always(0)),
            mixture.gating(mixture.SIGMOID),
            Key(("routed_scaling_factor",), "expert_weights_scale", "f32", always(1.0), always(1.0)),
            Key(("norm_topk_prob",), "expert_weights_norm", "bool", always(True), always(False)),
            Key(("n_group",), "expert_group_count", "u32", always(1), always(1)),
            Key(("topk_group",), "expert_group_used_count", "u32", always(1), always(1)),
            ahead.AHEAD,
        ),
        (Rope(theta=10000.0, in_part=0.5).pair(), ahead.COUNTED),
        assumptions=(SILU,),
        flags=(("attention_bias", False), ("use_qk_norm", False)),
    ),
    present=ahead.PRESENT,
    layers={**mixture.dense_layers(), **ahead.AHEAD_LAYERS},
)

#: Heads rotated as a whole, and experts in every layer; a GGUF of it is one of a GLM-4.5.
SOLAR_OPEN: Final[Family] = replace(
    GLM4_MOE,
    model_type="solar_open",
    classes=("SolarOpenForCausalLM", "SolarOpenModel"),
    headless=frozenset({"SolarOpenModel"}),
    keys=tuple(
        Key((), key.ggml, "u32", default=rotary(1.0))
        if key.ggml == "rope.dimension_count"
        else replace(key, default=always(0))
        if key.ggml == mixture.LEADING
        else key
        for key in GLM4_MOE.keys
    ),
    irregular=(Rope(theta=1_000_000.0, in_part=1.0).pair(), ahead.COUNTED),
    alone=("Glm4MoeForCausalLM", "glm4_moe"),
    claims=never,
)


def _paired(rule: Rule) -> Rule:
    """Positions in sections turn halves in ggml, where HF has pairs."""
    heads = {"attn_q": "heads", "attn_k": "kv_heads"}.get(rule.ggml.split(".")[-2])
    return replace(rule, changes=(Rotated(heads, pairs=True),)) if heads else rule


_BASES: Final = ("model.language_model.", "language_model.model.", "model.")
#: The text models of GLM-4.1V and GLM-OCR, of whom a GGUF becomes a GLM-4.
GLM4V: Final[Family] = replace(
    GLM4,
    model_type="glm4v",
    classes=("Glm4vForConditionalGeneration", "GlmOcrForConditionalGeneration"),
    headless=frozenset(),
    bases=_BASES,
    rules=tuple(map(_paired, GLM4.rules)),
    keys=(*defaulting(SIZES, num_key_value_heads=2), rms_norm_eps(1e-5), *HEAD_KEYS, _ROTARY),
    irregular=(Sections(Rope(theta=10000.0, in_part=0.5), (8, 12, 12), interleaved=False).pair(),),
    ignored=(
        *GLM4.ignored,
        SEEING,
        Ignored(
            r"(model\.)?(language_model\.)?(model\.)?layers\.\d+\..*",
            "a layer that predicts ahead, which this conversion leaves out",
            lost=True,
            behind=True,
        ),
    ),
    other_types=("glm4v_text", "glm_ocr", "glm_ocr_text"),
    alone=("Glm4ForCausalLM", "glm4"),
    claims=lambda values: SECTIONS in values,
)
#: The text model of GLM-4.5V, which turns halves, too.
GLM4V_MOE: Final[Family] = replace(
    GLM4_MOE,
    model_type="glm4v_moe",
    classes=("Glm4vMoeForConditionalGeneration",),
    headless=frozenset(),
    bases=_BASES,
    irregular=(Sections(Rope(theta=10000.0, in_part=0.5), (8, 12, 12), interleaved=False).pair(), ahead.COUNTED),
    ignored=(*GLM4_MOE.ignored, SEEING),
    flags={**GLM4_MOE.flags, "attention_bias": True},
    other_types=("glm4v_moe_text",),
    alone=("Glm4MoeForCausalLM", "glm4_moe"),
    claims=lambda values: SECTIONS in values,
)
