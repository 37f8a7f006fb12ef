"""Kimi Linear: three layers of linear attention to one of latent attention, which rotates nothing.

Keys and values of linear attention have convolutions of their own, and every number of a state its own decay.
transformers says the layers by `layer_types`, the release by numbers from one in `linear_attn_config`. Facts:
llama.cpp's conversion/kimi_linear.py and src/models/kimi-linear.cpp; transformers' modeling_kimi_linear.py and
conversion_mapping.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.changes import Change, Negative
from requant.architectures.decoders import ATTN, LAYER, SIZES, VOCABULARY_SIZE, decoder, norm, rms_norm_eps
from requant.architectures.deepseek import ATTENTION
from requant.architectures.experts import expert_rules
from requant.architectures.llama import NORMS, SILU, TRUNK
from requant.architectures.numbers import number, shown
from requant.architectures.qwen35 import LINEAR
from requant.architectures.rules import (
    Assumption,
    Config,
    Default,
    Family,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
)
from requant.architectures.windows import FULL
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor

_SPARSE: Final = LAYER + "block_sparse_moe."
_CONFIG: Final = "linear_attn_config"
#: How many key/value heads each layer has: none where it keeps a state.
_HEADS: Final = "attention.head_count_kv"


def _linear(hf: str, ggml: str, shape: tuple[str, ...], *changes: Change, flat: tuple[str, ...] = ()) -> Rule:
    return Rule(ATTN + hf, "blk.{n}." + ggml, shape, when="linear", changes=changes, flat=flat)


_STATE: Final = (
    *(_linear(f"{part}_proj.weight", f"attn_{part}.weight", ("delta", "hidden")) for part in "qkv"),
    *(
        _linear(
            f"{part}_conv1d.weight",
            f"ssm_conv1d_{part}.weight",
            ("delta", "one", "kernel"),
            flat=("one", "delta", "one", "kernel"),
        )
        for part in "qkv"
    ),
    _linear("f_a_proj.weight", "ssm_f_a.weight", ("delta_head", "hidden")),
    _linear("f_b_proj.weight", "ssm_f_b.weight", ("delta", "delta_head")),
    _linear("b_proj.weight", "ssm_beta.weight", ("heads", "hidden")),
    _linear("A_log", "ssm_a", ("one", "one", "heads", "one"), Negative()),
    _linear("dt_bias", "ssm_dt.bias", ("delta",)),
    _linear("g_a_proj.weight", "ssm_g_a.weight", ("delta_head", "hidden")),
    _linear("g_b_proj.weight", "ssm_g_b.weight", ("delta", "delta_head")),
    *norm(ATTN + "o_norm", "blk.{n}.ssm_norm", "delta_head", when="linear"),
    _linear("o_proj.weight", "attn_output.weight", ("hidden", "delta")),
)
_LOOKING_BACK: Final = tuple(replace(rule, when=f"{rule.when}+!linear") for rule in ATTENTION)
_EXPERTS: Final = tuple(
    replace(rule, when="!dense") for rule in expert_rules(_SPARSE, "expert_ffn", ("w1", "w2", "w3"), mixture.MLP_)
)
_SHARED: Final = tuple(
    replace(rule, hf=rule.hf.replace(mixture.MLP_, _SPARSE)) for rule in mixture.shared_expert("shared_experts")
)
_CORRECTION: Final = mixture.correction("block_sparse_moe.gate.e_score_correction_bias")


def _said(config: Config) -> Config:
    said = config.get(_CONFIG) or {}
    if not isinstance(said, dict):
        raise PlanError(f"config.json: {_CONFIG} is {shown(said)}, an object is needed")
    return said


def _number(published: str, name: str, absent: int) -> Default:
    """As the release says it, as transformers does, or transformers' default."""
    return lambda config: int(number(_said(config), published, number(config, name, absent)))


def _types(config: Config) -> list[bool]:
    """Which layers keep a state."""
    layers = int(number(config, "num_hidden_layers"))
    listed, looking = config.get("layer_types"), _said(config).get("full_attn_layers")
    if isinstance(listed, list) and len(listed) == layers and set(map(str, listed)) <= {LINEAR, FULL}:
        return [kind == LINEAR for kind in listed]
    if listed is None and isinstance(looking, list):
        return [n + 1 not in looking for n in range(min(layers, 1 << 16))]
    if listed is None and looking is None:
        return [n % 4 != 0 or n == 0 for n in range(min(layers, 1 << 16))]
    raise PlanError(f"config.json: layer_types does not name {LINEAR} or {FULL} for {layers} layers")


def _heads(config: Config) -> Json:
    return [0 if linear else 1 for linear in _types(config)]


def _layers(values: Config) -> Sequence[bool]:
    listed, layers = values.get(_HEADS), values.get("block_count")
    if not isinstance(listed, list) or not isinstance(layers, int) or len(listed) != layers:
        return [False] * min(layers, 1 << 16) if isinstance(layers, int) else []  # which `sizes_of` reports
    return [item == 0 for item in listed]


def _rotated_and(name: str, absent: int) -> Default:
    return lambda config: int(number(config, name, absent)) + int(number(config, "qk_rope_head_dim", 64))


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    for name, heads in (
        ("num_key_value_heads", number(config, "num_key_value_heads", sizes["heads"])),
        ("linear_num_heads", number(_said(config), "num_heads", number(config, "linear_num_heads", 32))),
    ):
        if heads != sizes["heads"]:
            raise PlanError(f"config.json: {name} is {heads:g}; llama.cpp has {sizes['heads']} heads in every layer")
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    types, leading = _layers(values), int(number(values, mixture.LEADING, 0))
    linear: dict[str, Json] = {
        "head_dim": sizes["delta_head"],
        "num_heads": sizes["heads"],
        "short_conv_kernel_size": sizes["kernel"],
        "full_attn_layers": [n + 1 for n, kind in enumerate(types) if not kind],
        "kda_layers": [n + 1 for n, kind in enumerate(types) if kind],
    }
    config: dict[str, Json] = {
        _CONFIG: linear,
        "linear_head_dim": sizes["delta_head"],
        "linear_num_heads": sizes["heads"],
        "linear_conv_kernel_dim": sizes["kernel"],
        "layer_types": [LINEAR if kind else FULL for kind in types],
        "mlp_layer_types": ["dense" if n < leading else "sparse" for n in range(len(types))],
        "first_k_dense_replace": leading,
        "num_key_value_heads": sizes["heads"],
        "qk_nope_head_dim": sizes["unrotated"],
    }
    return ToHf(config if sizes["query_rank"] else {**config, "q_lora_rank": None})


KIMI_LINEAR: Final[Family] = replace(
    decoder(
        "KimiLinear",
        "kimi_linear",
        "kimi-linear",
        (
            *TRUNK,
            *NORMS,
            *_STATE,
            *_LOOKING_BACK,
            *mixture.DENSE_MLP,
            *_EXPERTS,
            *_SHARED,
            _CORRECTION,
        ),
        (
            *(
                replace(key, hf=("model_max_length", *key.hf)) if key.ggml == "context_length" else key
                for key in SIZES
                if key.ggml != _HEADS
            ),
            rms_norm_eps(1e-5),
            Key((), _HEADS, "[i32]", _heads),
            VOCABULARY_SIZE,
            Key((), "ssm.conv_kernel", "u32", _number("short_conv_kernel_size", "linear_conv_kernel_dim", 4)),
            Key((), "kda.head_dim", "u32", _number("head_dim", "linear_head_dim", 128)),
            Key(("q_lora_rank",), "attention.q_lora_rank", "u32", always(None), always(None)),
            Key(("kv_lora_rank",), "attention.kv_lora_rank", "u32", always(512)),
            Key(("qk_rope_head_dim",), "rope.dimension_count", "u32", always(64)),
            Key((), "attention.key_length", "u32", _rotated_and("kv_lora_rank", 512)),
            # of which llama.cpp reads nothing
            Key(("head_dim",), "attention.value_length", "u32", always(None), always(None)),
            Key((), "attention.key_length_mla", "u32", _rotated_and("qk_nope_head_dim", 128)),
            Key(("v_head_dim",), "attention.value_length_mla", "u32", always(128)),
            Key(("num_experts", "num_local_experts"), "expert_count", "u32", always(256)),
            Key(("num_experts_per_token", "num_experts_per_tok"), "expert_used_count", "u32", always(8)),
            Key(("moe_intermediate_size",), "expert_feed_forward_length", "u32", always(1024)),
            Key(("num_shared_experts", "n_shared_experts"), "expert_shared_count", "u32", always(1)),
            Key(("topk_group",), "expert_group_used_count", "u32", always(1), always(None)),
            mixture.gating(mixture.SIGMOID),
            Key(("routed_scaling_factor",), "expert_weights_scale", "f32", always(2.446), always(1.0)),
            Key((), mixture.LEADING, "u32", mixture.leading_dense(1)),
        ),
        (Irregular(_to_ggml, _to_hf),),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("moe_renormalize", (True,), True),
            Assumption("num_expert_group", (1, None), 1, written=False),
            Assumption("moe_router_activation_func", ("sigmoid",), "sigmoid", written=False),
            Assumption("moe_layer_freq", (1,), 1, written=False),
            Assumption("mla_use_nope", (True,), True),
        ),
    ),
    layers={**mixture.dense_layers(), "linear": _layers},
    present={"compressed_queries": r"\.q_a_proj\.weight"},
    # as transformers writes the network of dense layers
    renamed=tuple(
        (f"block_sparse_moe.{part}_proj.weight", f"mlp.{part}_proj.weight") for part in ("gate", "up", "down")
    ),
)
