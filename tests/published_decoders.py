"""Decoders as their makers publish them."""

from collections.abc import Mapping
from typing import Any, Final

import torch

from tests.published import Published, Tensors, interleaved, joined

_SIZES: Final = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_GROUPED: Final = {**_SIZES, "num_key_value_heads": 2, "rope_theta": 10000.0, "hidden_act": "silu"}
_FULL: Final = {"num_key_value_heads": 4}


def _published(stem: str, model_type: str, sizes: Mapping[str, Any] = _GROUPED, **more: Any) -> dict[str, Any]:
    return {**sizes, "architectures": [f"{stem}ForCausalLM"], "model_type": model_type, **more}


def _llama(**changes: Any) -> tuple[str, str, dict[str, Any]]:
    return "LlamaForCausalLM", "LlamaConfig", changes


def _packed(tensors: Tensors) -> Tensors:
    parts = [f"self_attn.{part}_proj.weight" for part in "qkv"]
    return joined(tensors, "self_attn.W_pack.weight", *parts)


def _grouped(tensors: Tensors) -> Tensors:
    """Queries beside the key and the value head they share."""
    found = dict(tensors)
    for name in tensors:
        if name.endswith("attention.wq.weight"):
            stem = name.removesuffix("wq.weight")
            q, k, v = (found.pop(f"{stem}w{part}.weight").reshape(2, -1, 16, 64) for part in "qkv")
            found[f"{stem}wqkv.weight"] = torch.cat([q, k, v], dim=1).reshape(-1, 64)
    return found


def _both(tensors: Tensors, into: str, *parts: str) -> Tensors:
    """Weights and biases as one."""
    for kind in ("weight", "bias"):
        tensors = joined(tensors, f"{into}.{kind}", *(f"{part}.{kind}" for part in parts))
    return tensors


_OLDER: Final = (
    (r"^model\.embed_tokens", "transformer.wte"),
    (r"^model\.norm", "transformer.ln_f"),
    (r"^model\.layers\.(\d+)\.", r"transformer.h.\1."),
    (r"\.input_layernorm\.", ".ln_1."),
    (r"\.post_attention_layernorm\.", ".ln_2."),
)
_QKV: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_EXPERTS: Final = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}

_LING: Final = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "num_shared_experts": 2,
    "use_bias": False,
    "use_qkv_bias": False,
    "head_dim": 16,
}
_LING2: Final = {
    **_LING,
    "num_hidden_layers": 3,
    "num_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 48,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "score_function": "sigmoid",
    "n_group": 1,
    "topk_group": 1,
    "use_qk_norm": True,
}


def _glm4_moe(part: float) -> tuple[str, str, dict[str, Any]]:
    return (
        "Glm4MoeForCausalLM",
        "Glm4MoeConfig",
        {
            "num_hidden_layers": 3,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "use_qk_norm": True,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "num_nextn_predict_layers": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": part},
        },
    )


def _ling(tensors: Tensors) -> Tensors:
    parts = [f"attention.{part}_proj.weight" for part in "qkv"]
    return joined(tensors, "attention.query_key_value.weight", *parts)


_FROM_GLM: Final = (
    (
        (r"embed_tokens", "word_embeddings"),
        (r"self_attn\.o_proj", "attention.dense"),
        (r"self_attn\.q_norm", "attention.query_layernorm"),
        (r"self_attn\.k_norm", "attention.key_layernorm"),
        (r"self_attn\.", "attention."),
        (r"e_score_correction_bias", "expert_bias"),
    ),
    _ling,
)

_LLAMA_SHAPES: Final = {
    "model.embed_tokens.weight": (96, 64),
    "model.norm.weight": (64,),
    "lm_head.weight": (96, 64),
    "model.layers.{n}.input_layernorm.weight": (64,),
    "model.layers.{n}.post_attention_layernorm.weight": (64,),
    "model.layers.{n}.self_attn.q_proj.weight": (64, 64),
    "model.layers.{n}.self_attn.k_proj.weight": (32, 64),
    "model.layers.{n}.self_attn.v_proj.weight": (32, 64),
    "model.layers.{n}.self_attn.o_proj.weight": (64, 64),
}


def _experts(
    module: str, count: int, width: int, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
) -> dict[str, tuple[int, int]]:
    """names: of gate, up and down."""
    return {
        f"model.layers.{{n}}.{module}.{e}.{name}.weight": (64, width) if name == names[2] else (width, 64)
        for e in range(count)
        for name in names
    }


#: name -> model
DECODERS: Final[Mapping[str, Published]] = {
    "baichuan": Published(
        _published("Baichuan", "baichuan", {**_SIZES, "num_hidden_layers": 32}),
        _llama(**_FULL, num_hidden_layers=32),
        changed=_packed,
    ),
    "xverse": Published(_published("Xverse", "xverse", {**_SIZES, "hidden_act": "silu"}), _llama(**_FULL)),
    "orion": Published(
        _published("Orion", "orion", rms_norm_eps=1e-5),
        (
            "StableLmForCausalLM",
            "StableLmConfig",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
        ),
    ),
    "internlm2": Published(
        _published("InternLM2", "internlm2", bias=False),
        _llama(),
        renamed=(
            (r"embed_tokens", "tok_embeddings"),
            (r"^lm_head", "output"),
            (r"self_attn\.o_proj", "attention.wo"),
            (r"self_attn\.([qkv])_proj", r"attention.w\1"),
            (r"input_layernorm", "attention_norm"),
            (r"post_attention_layernorm", "ffn_norm"),
            (r"mlp\.gate_proj", "feed_forward.w1"),
            (r"mlp\.up_proj", "feed_forward.w3"),
            (r"mlp\.down_proj", "feed_forward.w2"),
        ),
        changed=_grouped,
    ),
    "internlm3": Published(
        _published("InternLM3", "internlm3", bias=False, qkv_bias=False, head_dim=16), _llama(head_dim=16)
    ),
    "dream": Published(
        {**_GROUPED, "architectures": ["DreamModel"], "model_type": "Dream", "mask_token_id": 5},
        ("Qwen2ForCausalLM", "Qwen2Config", {"is_causal": False, "rope_theta": 10000.0}),
    ),
    "rnd1": Published(
        {
            **_GROUPED,
            **_EXPERTS,
            "architectures": ["RND1"],
            "model_type": "rnd1",
            "head_dim": 32,
            "norm_topk_prob": True,
            "mask_token_id": 5,
        },
        (
            "Qwen3MoeForCausalLM",
            "Qwen3MoeConfig",
            {**_EXPERTS, "head_dim": 32, "norm_topk_prob": True, "is_causal": False},
        ),
    ),
    "lladamoe": Published(
        {
            **{key: value for key, value in _GROUPED.items() if key != "intermediate_size"},
            "architectures": ["LLaDAMoEModelLM"],
            "model_type": "llada",
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "expert_intermediate_size": 48,
            "dense_intermediate_size": 96,
            "qk_layernorm": True,
            "partial_rotary_factor": 1,
            "norm_topk_prob": None,
        },
        (
            "Qwen3MoeForCausalLM",
            "Qwen3MoeConfig",
            {**_EXPERTS, "head_dim": 16, "norm_topk_prob": False, "is_causal": False},
        ),
    ),
    "llada": Published(
        {
            "architectures": ["LLaDAModelLM"],
            "model_type": "llada",
            "vocab_size": 96,
            "d_model": 64,
            "mlp_hidden_size": 96,
            "n_layers": 2,
            "n_heads": 4,
            "n_kv_heads": 2,
            "max_sequence_length": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "activation_type": "silu",
            "block_type": "llama",
            "include_bias": False,
            "include_qkv_bias": False,
            "alibi": False,
            "rope": True,
            "weight_tying": False,
        },
        _llama(is_causal=False),
        renamed=(
            (r"^model\.embed_tokens", "model.transformer.wte"),
            (r"^model\.norm", "model.transformer.ln_f"),
            (r"^lm_head", "model.transformer.ff_out"),
            (r"^model\.layers\.", "model.transformer.blocks."),
            (r"input_layernorm", "attn_norm"),
            (r"post_attention_layernorm", "ff_norm"),
            (r"self_attn\.o_proj", "attn_out"),
            (r"self_attn\.", ""),
            (r"mlp\.gate_proj", "ff_proj"),
            (r"mlp\.up_proj", "up_proj"),
            (r"mlp\.down_proj", "ff_out"),
        ),
    ),
    "exaone": Published(
        {
            **{
                key: value
                for key, value in _GROUPED.items()
                if key not in ("num_hidden_layers", "hidden_act", "rms_norm_eps")
            },
            "architectures": ["ExaoneForCausalLM"],
            "model_type": "exaone",
            "num_layers": 2,
            "head_dim": 16,
            "activation_function": "silu",
            "layer_norm_epsilon": 1e-6,
        },
        _llama(),
        renamed=(
            *_OLDER,
            (r"self_attn\.o_proj", "attn.attention.out_proj"),
            (r"self_attn\.", "attn.attention."),
            (r"gate_proj", "c_fc_0"),
            (r"up_proj", "c_fc_1"),
            (r"down_proj", "c_proj"),
        ),
    ),
    "minicpm": Published(
        _published("MiniCPM", "minicpm", scale_emb=12, scale_depth=1.5, dim_model_base=16),
        (
            "GraniteForCausalLM",
            "GraniteConfig",
            {
                "attention_multiplier": 0.25,
                "embedding_multiplier": 12.0,
                "residual_multiplier": 1.5 / 2**0.5,
                "logits_scaling": 4.0,
            },
        ),
    ),
    "pangu": Published(
        _published("PanguEmbedded", "PanguEmbedded", bias=True),
        _llama(attention_bias=True),
    ),
    "maincoder": Published(
        _published("Maincoder", "maincoder", head_dim=32, attention_bias=False),
        ("HunYuanDenseV1ForCausalLM", "HunYuanDenseV1Config", {"head_dim": 32}),
        renamed=((r"query_layernorm", "q_norm"), (r"key_layernorm", "k_norm")),
        changed=interleaved,
    ),
    "nanbeige": Published(
        _published("Nanbeige", "nanbeige", head_dim=32, num_loops=1, skip_loop_final_norm=False), _llama(head_dim=32)
    ),
    "kormo": Published(
        _published("KORMo", "kormo", head_dim=16),
        _llama(),
        renamed=((r"input_layernorm", "pre_attention_layernorm"), (r"post_attention_layernorm", "pre_mlp_layernorm")),
    ),
    "llamaembed": Published(
        {**_GROUPED, "architectures": ["LlamaBidirectionalModel"], "model_type": "llama_bidirec", "head_dim": 16},
        ("LlamaModel", "LlamaConfig", {"is_causal": False}),
    ),
    "qwen": Published(
        {
            "architectures": ["QWenLMHeadModel"],
            "model_type": "qwen",
            "vocab_size": 96,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 2048,
            "layer_norm_epsilon": 1e-6,
            "rotary_emb_base": 10000,
            "no_bias": True,
            "scale_attn_weights": True,
            "tie_word_embeddings": False,
        },
        ("Qwen2ForCausalLM", "Qwen2Config", {"rope_theta": 10000.0, **_FULL}),
        renamed=(
            *_OLDER,
            (r"self_attn\.o_proj", "attn.c_proj"),
            (r"gate_proj", "w2"),
            (r"up_proj", "w1"),
            (r"down_proj", "c_proj"),
        ),
        changed=lambda tensors: _both(tensors, "attn.c_attn", *_QKV),
    ),
    "chatglm": Published(
        {
            "architectures": ["ChatGLMForConditionalGeneration"],
            "model_type": "chatglm",
            "padded_vocab_size": 96,
            "hidden_size": 64,
            "ffn_hidden_size": 96,
            "num_layers": 2,
            "num_attention_heads": 4,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "kv_channels": 16,
            "seq_length": 2048,
            "layernorm_epsilon": 1e-6,
            "rope_ratio": 5.0,
            "add_qkv_bias": True,
            "add_bias_linear": False,
            "rmsnorm": True,
            "post_layer_norm": True,
            "original_rope": True,
            "apply_residual_connection_post_layernorm": False,
            "tie_word_embeddings": False,
        },
        (
            "GlmForCausalLM",
            "GlmConfig",
            {
                "head_dim": 16,
                "attention_bias": True,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.5},
            },
        ),
        renamed=(
            (r"^model\.embed_tokens", "transformer.embedding.word_embeddings"),
            (r"^model\.norm", "transformer.encoder.final_layernorm"),
            (r"^lm_head", "transformer.output_layer"),
            (r"^model\.layers\.", "transformer.encoder.layers."),
            (r"self_attn\.o_proj", "self_attention.dense"),
            (r"gate_up_proj", "dense_h_to_4h"),
            (r"down_proj", "dense_4h_to_h"),
        ),
        changed=lambda tensors: _both(tensors, "self_attention.query_key_value", *_QKV),
    ),
    "codeshell": Published(
        {
            "architectures": ["CodeShellForCausalLM"],
            "model_type": "codeshell",
            "vocab_size": 96,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 2048,
            "num_query_groups": 2,
            "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_pytorch_tanh",
            "position_embedding_type": "rope",
            "group_query_attention": True,
            "tie_word_embeddings": False,
        },
        (
            "Starcoder2ForCausalLM",
            "Starcoder2Config",
            {
                "rope_theta": 10000.0,
                "sliding_window": None,
                "intermediate_size": 256,
                "hidden_act": "gelu_pytorch_tanh",
                "tie_word_embeddings": False,
            },
        ),
        renamed=(*_OLDER, (r"self_attn\.o_proj", "attn.c_proj")),
        changed=lambda tensors: _both(tensors, "attn.c_attn", *_QKV),
    ),
    "refact": Published(
        {
            "architectures": ["GPTRefactForCausalLM"],
            "model_type": "gpt_refact",
            "vocab_size": 96,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 2048,
            "layer_norm_epsilon": 1e-5,
            "multi_query": True,
            "tie_word_embeddings": False,
        },
        shapes={
            "transformer.wte.weight": (96, 64),
            "lm_head.weight": (96, 64),
            "transformer.ln_f.weight": (64,),
            "transformer.h.{n}.ln_1.weight": (64,),
            "transformer.h.{n}.ln_2.weight": (64,),
            "transformer.h.{n}.attn.q.weight": (64, 64),
            "transformer.h.{n}.attn.kv.weight": (32, 64),
            "transformer.h.{n}.attn.c_proj.weight": (64, 64),
            "transformer.h.{n}.mlp.gate_up_proj.weight": (512, 64),
            "transformer.h.{n}.mlp.c_proj.weight": (64, 256),
        },
    ),
    "dbrx": Published(
        {
            "architectures": ["DbrxForCausalLM"],
            "model_type": "dbrx",
            "vocab_size": 96,
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 2048,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 500000.0},
            "ffn_config": {
                "ffn_hidden_size": 96,
                "moe_num_experts": 4,
                "moe_top_k": 2,
                "moe_normalize_expert_weights": 1.0,
            },
            "tie_word_embeddings": False,
        },
        shapes={
            "transformer.wte.weight": (96, 64),
            "transformer.norm_f.weight": (64,),
            "lm_head.weight": (96, 64),
            "transformer.blocks.{n}.norm_attn_norm.norm_1.weight": (64,),
            "transformer.blocks.{n}.norm_attn_norm.norm_2.weight": (64,),
            "transformer.blocks.{n}.norm_attn_norm.attn.Wqkv.weight": (128, 64),
            "transformer.blocks.{n}.norm_attn_norm.attn.out_proj.weight": (64, 64),
            "transformer.blocks.{n}.ffn.router.layer.weight": (4, 64),
            "transformer.blocks.{n}.ffn.experts.mlp.w1": (4 * 96, 64),
            "transformer.blocks.{n}.ffn.experts.mlp.v1": (4 * 96, 64),
            "transformer.blocks.{n}.ffn.experts.mlp.w2": (4 * 96, 64),
        },
    ),
    "bailingmoe": Published(
        _published(
            "BailingMoe",
            "bailing_moe",
            **_LING,
            first_k_dense_replace=0,
            norm_topk_prob=True,
            norm_head=False,
        ),
        shapes={
            "model.word_embeddings.weight": (96, 64),
            "model.norm.weight": (64,),
            "lm_head.weight": (96, 64),
            "model.layers.{n}.input_layernorm.weight": (64,),
            "model.layers.{n}.post_attention_layernorm.weight": (64,),
            "model.layers.{n}.attention.query_key_value.weight": (128, 64),
            "model.layers.{n}.attention.dense.weight": (64, 64),
            "model.layers.{n}.mlp.gate.weight": (4, 64),
            **{
                f"model.layers.{{n}}.mlp.experts.{e}.{part}_proj.weight": (64, 48) if part == "down" else (48, 64)
                for e in range(4)
                for part in ("gate", "up", "down")
            },
            **{
                f"model.layers.{{n}}.mlp.shared_experts.{part}_proj.weight": (64, 96) if part == "down" else (96, 64)
                for part in ("gate", "up", "down")
            },
        },
    ),
    "bailingmoe2": Published(
        _published("BailingMoeV2", "bailing_moe_v2", **_LING2, partial_rotary_factor=0.5), _glm4_moe(0.5), *_FROM_GLM
    ),
    "sarvammoe": Published(_published("SarvamMoE", "sarvam_moe", **_LING2), _glm4_moe(1.0), *_FROM_GLM),
    "grovemoe": Published(
        _published("GroveMoe", "grove_moe", **_EXPERTS, head_dim=16, norm_topk_prob=True),
        shapes={
            **_LLAMA_SHAPES,
            "model.layers.{n}.self_attn.q_norm.weight": (16,),
            "model.layers.{n}.self_attn.k_norm.weight": (16,),
            "model.layers.{n}.mlp.gate.weight": (4, 64),
            **_experts("mlp.experts", 4, 48),
            **_experts("mlp.chunk_experts", 2, 16),
        },
    ),
    "smallthinker": Published(
        {
            **{key: value for key, value in _GROUPED.items() if key not in ("intermediate_size", "hidden_act")},
            "architectures": ["SmallThinkerForCausalLM"],
            "model_type": "smallthinker",
            "num_hidden_layers": 5,
            "head_dim": 16,
            "moe_num_primary_experts": 4,
            "moe_num_active_primary_experts": 2,
            "moe_ffn_hidden_size": 48,
            "moe_primary_router_apply_softmax": False,
            "norm_topk_prob": True,
            "sliding_window_layout": [0, 1, 1, 1, 0],
            "rope_layout": [0, 1, 1, 1, 0],
            "sliding_window_size": 4096,
        },
        shapes={
            **_LLAMA_SHAPES,
            "model.layers.{n}.block_sparse_moe.primary_router.weight": (4, 64),
            **_experts("block_sparse_moe.experts", 4, 48, ("gate", "up", "down")),
        },
    ),
    "arctic": Published(
        _published(
            "Arctic",
            "arctic",
            num_local_experts=4,
            num_experts_per_tok=2,
            moe_layer_frequency=1,
            parallel_attn_mlp_res=True,
            use_residual=True,
        ),
        shapes={
            **_LLAMA_SHAPES,
            "model.layers.{n}.residual_layernorm.weight": (64,),
            "model.layers.{n}.residual_mlp.w1.weight": (64, 64),
            "model.layers.{n}.residual_mlp.w2.weight": (64, 64),
            "model.layers.{n}.residual_mlp.w3.weight": (64, 64),
            "model.layers.{n}.block_sparse_moe.gate.weight": (4, 64),
            **_experts("block_sparse_moe.experts", 4, 96, ("w1", "w3", "w2")),
        },
    ),
}
