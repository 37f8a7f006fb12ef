"""Models of makers who have one of a kind: OpenELM, PLaMo 3, NeoBERT, Jais, ruGPT-3 XL,
the encoder of LFM2."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch

from tests.published import Published, Tensors, interleaved, joined, random

_LAYER: Final = r"model\.layers\.(\d+)\."


def _elm(heads: list[int], kv_heads: list[int], multipliers: list[float], groups: int) -> dict[str, Any]:
    return {
        "architectures": ["OpenELMForCausalLM"],
        "model_type": "openelm",
        "vocab_size": 96,
        "model_dim": 64,
        "head_dim": 16,
        "num_transformer_layers": len(heads),
        "max_context_length": 2048,
        "num_query_heads": heads,
        "num_kv_heads": kv_heads,
        "num_gqa_groups": groups,
        "qkv_multipliers": [0.5, 1.0] if heads[0] != heads[-1] else [1.0, 1.0],
        "ffn_multipliers": multipliers,
        "ffn_dim_divisor": 32,
        "rope_freq_constant": 10000,
        "activation_fn_name": "swish",
        "ffn_with_glu": True,
        "normalization_layer_name": "rms_norm",
        "normalize_qk_projections": True,
        "share_input_output_layers": True,
    }


def _elm_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.token_embeddings.weight": (96, 64),
        "transformer.norm.weight": (64,),
    }
    per_layer = zip(config["num_query_heads"], config["num_kv_heads"], config["ffn_multipliers"], strict=True)
    for n, (heads, kv_heads, times) in enumerate(per_layer):
        width = int(64 * times)
        shapes |= {
            f"transformer.layers.{n}.attn_norm.weight": (64,),
            f"transformer.layers.{n}.ffn_norm.weight": (64,),
            f"transformer.layers.{n}.attn.q_norm.weight": (16,),
            f"transformer.layers.{n}.attn.k_norm.weight": (16,),
            f"transformer.layers.{n}.attn.qkv_proj.weight": (16 * (heads + 2 * kv_heads), 64),
            f"transformer.layers.{n}.attn.out_proj.weight": (64, 16 * heads),
            f"transformer.layers.{n}.ffn.proj_1.weight": (2 * width, 64),
            f"transformer.layers.{n}.ffn.proj_2.weight": (64, width),
        }
    return shapes


def _elm_fused(tensors: Tensors) -> Tensors:
    parts = [f"attn.{part}_proj.weight" for part in "qkv"]
    tensors = joined(tensors, "attn.qkv_proj.weight", *parts)
    return joined(tensors, "ffn.proj_1.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight")


_ELM: Final = _elm([2, 4, 4], [1, 2, 2], [0.5, 1.5, 2.5], 2)
_ELM_EVEN: Final = _elm([4, 4], [2, 2], [1.5, 1.5], 2)


def _plamo(tensors: Tensors) -> Tensors:
    """Gemma scales its embedding, and has all norms as offsets from one."""
    found = joined(tensors, "mixer.qkv_proj.weight", *(f"self_attn.{part}_proj.weight" for part in "qkv"))
    found = joined(found, "mlp.gate_up_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight")
    embedding = found["model.embed_tokens.weight"]
    found |= {"model.embed_tokens.weight": 8 * embedding, "lm_head.weight": embedding}
    for name, value in found.items():
        for ending, offset in (("post_mixer_norm.weight", 1 / 5), ("post_mlp_norm.weight", 1 / 5**1.5)):
            if name.endswith(ending):
                found[name] = value + 1 - offset
    return found


_PLAMO: Final = {
    "architectures": ["Plamo3ForCausalLM"],
    "model_type": "plamo3",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "window_size": 128,
    "sliding_window_pattern": 3,
    "rope_theta": 1000000,
    "rope_local_theta": 10000,
    "scale_embedding": False,
    "tie_word_embeddings": False,
}
_PLAMO_NAMES: Final = (
    (_LAYER, r"model.layers.layers.\1."),
    (r"\.self_attn\.(o_proj|q_norm|k_norm)", r".mixer.\1"),
    (r"\.input_layernorm", ".pre_mixer_norm"),
    (r"\.post_attention_layernorm", ".post_mixer_norm"),
    (r"\.pre_feedforward_layernorm", ".pre_mlp_norm"),
    (r"\.post_feedforward_layernorm", ".post_mlp_norm"),
)
_PLAMO_SHAPES: Final = {
    "model.embed_tokens.weight": (96, 64),
    "model.norm.weight": (64,),
    "lm_head.weight": (96, 64),
    **{
        f"model.layers.layers.{{n}}.{part}_norm.weight": (16,) if "mixer." in part else (64,)
        for part in ("pre_mixer", "post_mixer", "pre_mlp", "post_mlp", "mixer.q", "mixer.k")
    },
    "model.layers.layers.{n}.mixer.qkv_proj.weight": (128, 64),
    "model.layers.layers.{n}.mixer.o_proj.weight": (64, 64),
    "model.layers.layers.{n}.mlp.gate_up_proj.weight": (192, 64),
    "model.layers.layers.{n}.mlp.down_proj.weight": (64, 96),
}


def _neobert(tensors: Tensors) -> Tensors:
    """Queries, keys and values of each head behind each other, rotated in pairs of neighbours; and a head."""
    found = interleaved(tensors, head=16)
    for name in [name for name in found if name.endswith("self_attn.q_proj.weight")]:
        stem = name.removesuffix("self_attn.q_proj.weight")
        parts = [found.pop(f"{stem}self_attn.{part}_proj.weight").reshape(4, 16, 64) for part in "qkv"]
        found[f"{stem}qkv.weight"] = torch.cat(parts, dim=1).reshape(192, 64)
    found = joined(found, "ffn.w12.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight")
    return found | {"decoder.weight": random("decoder.weight", (96, 64)), "decoder.bias": random("decoder.bias", (96,))}


def as_gpt2(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """ruGPT-3 XL's arrays as GPT-2 has them: fused, and upright where they are matrices of layers."""
    names = (
        (".input_layernorm.", ".ln_1."),
        (".post_attention_layernorm.", ".ln_2."),
        (".self_attn.o_proj.", ".attn.c_proj."),
        (".mlp.up_proj.", ".mlp.c_fc."),
        (".mlp.down_proj.", ".mlp.c_proj."),
        ("model.layers.", "transformer.h."),
        ("model.embed_tokens.", "transformer.wte."),
        ("model.embed_positions.", "transformer.wpe."),
        ("model.norm.", "transformer.ln_f."),
    )
    found = {}
    for name, value in tensors.items():
        stem, part, kind = name.partition(".self_attn.q_proj.")
        if part:
            value = np.concatenate([tensors[f"{stem}.self_attn.{one}_proj.{kind}"] for one in "qkv"])
            name = f"{stem}.attn.c_attn.{kind}"
        elif ".k_proj." in name or ".v_proj." in name:
            continue
        for old, new in names:
            name = name.replace(old, new)
        found[name] = value.T if ".h." in name and value.ndim == 2 else value
    return found


def _rugpt3(tensors: Tensors) -> Tensors:
    """The inverse."""
    names = (
        (".ln_1.", ".input_layernorm."),
        (".ln_2.", ".post_attention_layernorm."),
        (".attn.c_proj.", ".self_attn.o_proj."),
        (".mlp.c_fc.", ".mlp.up_proj."),
        (".mlp.c_proj.", ".mlp.down_proj."),
        ("transformer.h.", "model.layers."),
        ("transformer.wte.", "model.embed_tokens."),
        ("transformer.wpe.", "model.embed_positions."),
        ("transformer.ln_f.", "model.norm."),
    )
    found: Tensors = {}
    for name, value in tensors.items():
        value = value.T if ".h." in name and value.ndim == 2 else value
        for old, new in names:
            name = name.replace(old, new)
        stem, part, kind = name.partition(".attn.c_attn.")
        if part:
            for one, rows in zip("qkv", value.chunk(3), strict=True):
                found[f"{stem}.self_attn.{one}_proj.{kind}"] = rows
        else:
            found[name] = value
    return found


_HALVES: Final = torch.tensor([[2.0**-power] for power in (2, 4, 6, 8)])


def _slopes(tensors: Tensors) -> Tensors:
    return {**tensors, "transformer.relative_pe.slopes": _HALVES.clone()}


#: name -> model
FEW: Final[Mapping[str, Published]] = {
    "openelm": Published(_ELM, shapes=_elm_shapes(_ELM)),
    "openelm-even": Published(
        _ELM_EVEN,
        (
            "Qwen3ForCausalLM",
            "Qwen3Config",
            {"head_dim": 16, "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
        ),
        renamed=(
            (r"^model\.embed_tokens", "transformer.token_embeddings"),
            (r"^model\.norm", "transformer.norm"),
            (_LAYER, r"transformer.layers.\1."),
            (r"\.input_layernorm", ".attn_norm"),
            (r"\.post_attention_layernorm", ".ffn_norm"),
            (r"\.self_attn\.o_proj", ".attn.out_proj"),
            (r"\.self_attn\.", ".attn."),
            (r"\.mlp\.down_proj", ".ffn.proj_2"),
        ),
        changed=_elm_fused,
    ),
    "plamo3": Published(
        _PLAMO,
        (
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            {
                "num_hidden_layers": 3,
                "head_dim": 16,
                "query_pre_attn_scalar": 16,
                "hidden_activation": "silu",
                "sliding_window": 128,
                "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                },
            },
        ),
        renamed=_PLAMO_NAMES,
        changed=_plamo,
    ),
    "plamo3-yarn": Published(
        {**_PLAMO, "rope_scaling_factor": 4.0, "initial_context_length": 512}, shapes=_PLAMO_SHAPES
    ),
    "neobert": Published(
        {
            "architectures": ["NeoBERTLMHead"],
            "model_type": "neobert",
            "vocab_size": 96,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_length": 2048,
            "norm_eps": 1e-5,
        },
        (
            "EuroBertModel",
            "EuroBertConfig",
            {"num_key_value_heads": 4, "intermediate_size": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
        ),
        renamed=(
            (r"^embed_tokens", "model.encoder"),
            (r"^norm", "model.layer_norm"),
            (r"^layers\.(\d+)\.", r"model.transformer_encoder.\1."),
            (r"\.input_layernorm", ".attention_norm"),
            (r"\.post_attention_layernorm", ".ffn_norm"),
            (r"\.self_attn\.o_proj", ".wo"),
            (r"\.mlp\.down_proj", ".ffn.w3"),
        ),
        changed=_neobert,
    ),
    "rugpt3xl": Published(
        {
            "architectures": ["RuGPT3XLForCausalLM"],
            "model_type": "rugpt3xl",
            "vocab_size": 96,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu_new",
            "sparse_mode": "alternating",
            "tie_word_embeddings": False,
        },
        (
            "GPT2LMHeadModel",
            "GPT2Config",
            {
                "n_embd": 64,
                "n_inner": 96,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": 2048,
                "tie_word_embeddings": False,
            },
        ),
        changed=_rugpt3,
    ),
    "lfm2-bidirectional": Published(
        {
            "architectures": ["Lfm2BidirectionalModel"],
            "model_type": "lfm2",
            "vocab_size": 96,
            "hidden_size": 64,
            "intermediate_size": 96,
            "block_auto_adjust_ff_dim": False,
            "block_ffn_dim_multiplier": 1.0,
            "block_multiple_of": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "layer_types": ["conv", "full_attention"],
            "conv_L_cache": 3,
            "conv_bias": False,
            "norm_eps": 1e-5,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
        },
        shapes={
            "embed_tokens.weight": (96, 64),
            "embedding_norm.weight": (64,),
            "layers.{n}.operator_norm.weight": (64,),
            "layers.{n}.ffn_norm.weight": (64,),
            **{f"layers.{{n}}.feed_forward.w{w}.weight": (64, 96) if w == 2 else (96, 64) for w in (1, 2, 3)},
            "layers.0.conv.conv.weight": (64, 1, 3),
            "layers.0.conv.in_proj.weight": (192, 64),
            "layers.0.conv.out_proj.weight": (64, 64),
            **{f"layers.1.self_attn.{part}.weight": (64, 64) for part in ("q_proj", "out_proj")},
            **{f"layers.1.self_attn.{part}_proj.weight": (32, 64) for part in "kv"},
            **{f"layers.1.self_attn.{part}_layernorm.weight": (16,) for part in "qk"},
        },
    ),
    "jais": Published(
        {
            "architectures": ["JAISLMHeadModel"],
            "model_type": "jais",
            "vocab_size": 96,
            "n_embd": 64,
            "n_inner": 96,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 2048,
            "layer_norm_epsilon": 1e-5,
            "activation_function": "swiglu",
            "position_embedding_type": "alibi",
            "mup_embeddings_scale": 9.1,
            "mup_output_alpha": 2.2,
            "mup_width_scale": 0.125,
            "mup_scale_qk_dot_by_d": True,
            "scale_attn_weights": True,
            "tie_word_embeddings": False,
        },
        shapes={
            "transformer.wte.weight": (96, 64),
            "lm_head.weight": (96, 64),
            **{
                f"transformer.{norm}.{kind}": (64,)
                for norm in ("ln_f", "h.{n}.ln_1", "h.{n}.ln_2")
                for kind in ("weight", "bias")
            },
            "transformer.h.{n}.attn.c_attn.weight": (64, 192),
            "transformer.h.{n}.attn.c_attn.bias": (192,),
            "transformer.h.{n}.attn.c_proj.weight": (64, 64),
            "transformer.h.{n}.attn.c_proj.bias": (64,),
            "transformer.h.{n}.mlp.c_fc.weight": (64, 96),
            "transformer.h.{n}.mlp.c_fc.bias": (96,),
            "transformer.h.{n}.mlp.c_fc2.weight": (64, 96),
            "transformer.h.{n}.mlp.c_fc2.bias": (96,),
            "transformer.h.{n}.mlp.c_proj.weight": (96, 64),
            "transformer.h.{n}.mlp.c_proj.bias": (64,),
        },
        changed=_slopes,
    ),
}
