"""DeepSeek V2 and V3 (R1, Kimi K2) and GLM-4.7-Flash: latent attention, whose keys and values are made of few numbers.

ggml has the matrix that makes them as two, keys transposed, and one key/value head as wide as what they are made of.
Facts: llama.cpp's conversion/deepseek.py, src/models/deepseek2.cpp (which knows models without compressed queries by
their layers) and src/llama-context.cpp; transformers' modeling_deepseek_v2.py and modeling_deepseek_v3.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.changes import Parted
from requant.architectures.decoders import ATTN, SIZES, UNSCALED, VOCABULARY_SIZE, decoder, norm, rms_norm_eps
from requant.architectures.llama import (
    BUFFERS,
    MLP,
    NORMS,
    SILU,
    TRUNK,
    attention,
    head_width,
    head_width_implied,
)
from requant.architectures.numbers import number
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    MMPROJ,
    Assumption,
    Config,
    Default,
    Family,
    Ignored,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    defaulting,
    same_as,
    unless_null,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor
from requant.losses import Loss, LossKind

#: Layers of models whose queries are not compressed.
_LITE: Final = (26, 27)
_KEYS_AND_VALUES: Final = Rule(
    ATTN + "kv_b_proj.weight",
    "blk.{n}.attn_k_b.weight",
    ("keys_and_values", "rank"),
    Order.TRANSPOSED,
    turn=0,
    changes=(Parted("heads", ("unrotated", "value")),),
    among=("all_unrotated", "all_values"),
    flat=("heads", "unrotated", "rank"),
)
ATTENTION: Final = (
    Rule(ATTN + "q_a_proj.weight", "blk.{n}.attn_q_a.weight", ("query_rank", "hidden"), when="compressed_queries"),
    *norm(ATTN + "q_a_layernorm", "blk.{n}.attn_q_a_norm", "query_rank", when="compressed_queries"),
    Rule(ATTN + "q_b_proj.weight", "blk.{n}.attn_q_b.weight", ("queries", "query_rank"), when="compressed_queries"),
    Rule(ATTN + "q_proj.weight", "blk.{n}.attn_q.weight", ("queries", "hidden"), when="!compressed_queries"),
    Rule(ATTN + "kv_a_proj_with_mqa.weight", "blk.{n}.attn_kv_a_mqa.weight", ("rank_and_rotary", "hidden")),
    *norm(ATTN + "kv_a_layernorm", "blk.{n}.attn_kv_a_norm", "rank"),
    _KEYS_AND_VALUES,
    replace(
        _KEYS_AND_VALUES,
        ggml="blk.{n}.attn_v_b.weight",
        order=Order.SAME,
        turn=1,
        flat=("heads", "value", "rank"),
    ),
    Rule(ATTN + "o_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "all_values")),
)
_RULES: Final = (
    *TRUNK,
    *NORMS,
    *ATTENTION,
    *mixture.DENSE_MLP,
    *mixture.SPARSE_EXPERTS,
    *mixture.shared_expert("shared_experts"),
)
CORRECTION: Final = mixture.correction("mlp.gate.e_score_correction_bias")


def _rotated_and(name: str, absent: int) -> Default:
    """What is rotated of a key, and the rest."""
    return lambda config: int(number(config, name, absent)) + int(number(config, "qk_rope_head_dim", 64))


def latent_keys(gating: int, scale: float, normed: bool, groups: tuple[int | None, int | None]) -> tuple[Key, ...]:
    """Latent attention, and what the generations differ in: how experts are chosen."""
    return (
        *(key for key in SIZES if key.ggml != "attention.head_count_kv"),
        rms_norm_eps(1e-6),
        Key((), "attention.head_count_kv", "u32", always(1), always(1)),
        Key(("q_lora_rank",), "attention.q_lora_rank", "u32", unless_null("q_lora_rank", 1536), always(None)),
        Key(("kv_lora_rank",), "attention.kv_lora_rank", "u32", always(512)),
        Key(("qk_rope_head_dim",), "rope.dimension_count", "u32", always(64)),
        Key((), "attention.key_length", "u32", _rotated_and("kv_lora_rank", 512)),
        Key((), "attention.value_length", "u32", same_as("kv_lora_rank"), same_as("attention.kv_lora_rank")),
        Key((), "attention.key_length_mla", "u32", _rotated_and("qk_nope_head_dim", 128)),
        Key(("v_head_dim",), "attention.value_length_mla", "u32", always(128)),
        VOCABULARY_SIZE,
        *mixture.counts(256, 8, "n_routed_experts", "num_local_experts", ffn=always(2048)),
        Key(("n_shared_experts",), "expert_shared_count", "u32", always(1)),
        mixture.gating(gating),
        Key(("routed_scaling_factor",), "expert_weights_scale", "f32", always(scale), always(1.0)),
        Key(("norm_topk_prob",), "expert_weights_norm", "bool", always(normed), always(False)),
        Key(("n_group",), "expert_group_count", "u32", unless_null("n_group", groups[0]), always(None)),
        Key(("topk_group",), "expert_group_used_count", "u32", unless_null("topk_group", groups[1]), always(None)),
    )


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    heads = number(config, "num_key_value_heads", sizes["heads"])
    if heads != sizes["heads"]:
        raise PlanError(
            f"config.json: num_key_value_heads is {heads:g}; latent attention has as many as {sizes['heads']}"
        )
    if not sizes["query_rank"] and sizes["layers"] not in _LITE:
        raise PlanError(
            f"config.json: q_lora_rank is null in a model of {sizes['layers']} layers; llama.cpp knows such models of "
            f"{' or '.join(map(str, _LITE))} layers only"
        )
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    config: dict[str, Json] = {"qk_nope_head_dim": sizes["unrotated"], "num_key_value_heads": sizes["heads"]}
    return ToHf(config if sizes["query_rank"] else {**config, "q_lora_rank": None})


_SHAPES: Final = Irregular(_to_ggml, _to_hf)


def _grouped(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    """V2 takes the group with the best expert."""
    if config.get("topk_method", "greedy") == "greedy":
        return ToGgml()
    detail = "llama.cpp chooses groups of experts by the sum of their two best, not by the best"
    return ToGgml(losses=(Loss(LossKind.METADATA_DROPPED, "topk_method", detail),))


def _grouped_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"topk_method": "group_limited_greedy" if number(values, "expert_group_count", 1) > 1 else "greedy"})


_ROPE: Final = Rope(theta=10000.0, multiplied=0.1).pair()
_AHEAD: Final = Ignored(
    r"(model\.)?layers\.\d+\..*", "a layer that predicts more than one token ahead", lost=True, behind=True
)

DEEPSEEK3: Final[Family] = replace(
    decoder(
        "DeepseekV3",
        "deepseek_v3",
        "deepseek2",
        (*_RULES, CORRECTION),
        (
            *latent_keys(mixture.SIGMOID, 2.5, True, (8, 4)),
            Key(("first_k_dense_replace",), mixture.LEADING, "u32", always(3), always(0)),
        ),
        (_ROPE, _SHAPES),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("rope_interleave", (True,), True),
            Assumption("scoring_func", ("sigmoid",), "sigmoid", written=False),
            Assumption("topk_method", ("noaux_tc",), "noaux_tc", written=False),
            Assumption("moe_layer_freq", (1,), 1, written=False),
        ),
    ),
    layers=mixture.dense_layers(),
    ignored=(*BUFFERS, _AHEAD),
    present={"compressed_queries": r"\.q_a_proj\.weight"},
    other_types=("kimi_k2",),
)
GLM4_MOE_LITE: Final[Family] = replace(
    DEEPSEEK3,
    model_type="glm4_moe_lite",
    classes=("Glm4MoeLiteForCausalLM", "Glm4MoeLiteModel"),
    headless=frozenset({"Glm4MoeLiteModel"}),
    keys=(
        *defaulting(
            latent_keys(mixture.SIGMOID, 1.8, True, (1, 1)),
            rms_norm_eps=1e-5,
            v_head_dim=256,
            n_routed_experts=64,
            num_experts_per_tok=4,
            moe_intermediate_size=1536,
        ),
        Key((), mixture.LEADING, "u32", mixture.leading_dense(1), always(1)),
    ),
    irregular=(_ROPE, _SHAPES, mixture.LISTED),
    other_types=(),
    # as llama.cpp knows it
    claims=lambda values: values.get("block_count") in (47, 48) and values.get("vocab_size") == 154880,
)
DEEPSEEK2: Final[Family] = replace(
    DEEPSEEK3,
    model_type="deepseek_v2",
    classes=("DeepseekV2ForCausalLM", "DeepseekV2Model"),
    headless=frozenset({"DeepseekV2Model"}),
    rules=_RULES,
    keys=(
        *latent_keys(mixture.SOFTMAX, 1.0, False, (None, None)),
        Key(("first_k_dense_replace",), mixture.LEADING, "u32", always(0), always(0)),
    ),
    irregular=(_ROPE, _SHAPES, Irregular(_grouped, _grouped_back)),
    assumptions=(
        SILU,
        Assumption("attention_bias", (False,), False),
        Assumption("mlp_bias", (False,), False),
        Assumption("norm_topk_prob", (False,), False, written=False),
        Assumption("scoring_func", ("softmax",), "softmax", written=False),
        Assumption("moe_layer_freq", (1,), 1, written=False),
    ),
    other_types=(),
    # older files say nothing of it; a file of V3 has to, as llama.cpp takes softmax then
    claims=lambda values: bool(values) and values.get("expert_gating_func", mixture.SOFTMAX) == mixture.SOFTMAX,
)

#: Without experts, as Youtu is; the runtime asks for their width all the same.
YOUTU: Final[Family] = replace(
    DEEPSEEK3,
    model_type="youtu",
    classes=("YoutuForCausalLM", "YoutuModel"),
    headless=frozenset({"YoutuModel"}),
    rules=(*TRUNK, *NORMS, *ATTENTION, *MLP),
    keys=(
        *(key for key in latent_keys(mixture.SIGMOID, 1.0, False, (None, None)) if not key.ggml.startswith("expert_")),
        Key((), "expert_feed_forward_length", "u32", same_as("intermediate_size"), same_as("feed_forward_length")),
        Key((), "expert_shared_count", "u32", always(0), always(0)),
        Key((), mixture.LEADING, "u32", same_as("num_hidden_layers"), same_as("block_count")),
    ),
    assumptions=DEEPSEEK3.assumptions[:3],
    layers={},
    irregular=(_ROPE, _SHAPES),
    tied=True,
    other_types=(),
    claims=lambda values: bool(values) and not values.get("expert_count"),
)
_LLAMA_LIKE: Final = (
    *SIZES,
    rms_norm_eps(1e-6),
    VOCABULARY_SIZE,
    Key(("first_k_dense_replace",), mixture.LEADING, "u32", mixture.leading_dense(0), always(0)),
    *mixture.counts(64, 6, "n_routed_experts", ffn=always(1407)),
    Key(("n_shared_experts",), "expert_shared_count", "u32", always(2)),
)
#: The first, whose attention is a llama's.
DEEPSEEK: Final[Family] = replace(
    decoder(
        "Deepseek",
        "deepseek",
        "deepseek",
        (
            *TRUNK,
            *NORMS,
            *attention(Order.ROPE),
            *mixture.DENSE_MLP,
            *mixture.SPARSE_EXPERTS,
            *mixture.shared_expert("shared_experts"),
        ),
        (
            *_LLAMA_LIKE,
            Key((), "rope.dimension_count", "u32", head_width, head_width_implied),
            Key((), "expert_weights_scale", "f32", always(1.0), always(1.0)),
            mixture.gating(mixture.SOFTMAX),
            UNSCALED,
        ),
        (Rope(theta=10000.0).pair(),),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("scoring_func", ("softmax",), "softmax"),
            Assumption("norm_topk_prob", (False,), False),
            Assumption("moe_layer_freq", (1,), 1),
        ),
    ),
    layers=mixture.dense_layers(),
)
#: The text model of DeepSeek-OCR: the same, rotated in halves.
DEEPSEEK_OCR: Final[Family] = replace(
    DEEPSEEK,
    model_type="deepseekocr",
    ggml="deepseek2-ocr",
    classes=("DeepseekOCRForCausalLM", "UnlimitedOCRForCausalLM"),
    headless=frozenset(),
    rules=tuple(replace(rule, order=Order.SAME) for rule in DEEPSEEK.rules),
    keys=(
        *_LLAMA_LIKE,
        Key((), "rope.dimension_count", "u32", head_width, head_width_implied),
        Key(("n_group",), "expert_group_count", "u32", always(None), always(None)),
        Key(("topk_group",), "expert_group_used_count", "u32", always(None), always(None)),
    ),
    ignored=(
        *BUFFERS,
        Ignored(
            r"model\.(sam_model|vision_model|qwen2_model|projector|image_newline|view_seperator)(\..*)?",
            MMPROJ,
            lost=True,
        ),
    ),
    assumptions=(
        *DEEPSEEK.assumptions[:2],
        Assumption("scoring_func", ("softmax",), "softmax"),
        Assumption("norm_topk_prob", (False,), False),
        Assumption("topk_method", ("greedy",), "greedy", written=False),
        Assumption("n_group", (None, 0, 1), None, written=False),
        Assumption("use_mla", (False,), False),
        Assumption("routed_scaling_factor", (1.0,), 1.0, written=False),
    ),
    other_types=("DeepseekOCR", "deepseek_ocr", "unlimited_ocr"),
)
