"""DeepSeek's first, and latent attention, as their makers publish them: by shapes where none computes the same."""

from collections.abc import Mapping
from typing import Final

from tests.published import Published

_SIZES: Final = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_LAYER: Final = "model.layers.{n}."
_TRUNK: Final = {
    "model.embed_tokens.weight": (96, 64),
    "model.norm.weight": (64,),
    "lm_head.weight": (96, 64),
    _LAYER + "input_layernorm.weight": (64,),
    _LAYER + "post_attention_layernorm.weight": (64,),
}
_MIXTURE: Final = {
    "hidden_act": "silu",
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 0,
}
_MIXED: Final = {
    **_TRUNK,
    **{f"{_LAYER}self_attn.{part}_proj.weight": (64, 64) for part in "qkvo"},
    _LAYER + "mlp.gate.weight": (4, 64),
    **{
        f"{_LAYER}mlp.experts.{e}.{part}_proj.weight": (64, 48) if part == "down" else (48, 64)
        for e in range(4)
        for part in ("gate", "up", "down")
    },
    **{
        f"{_LAYER}mlp.shared_experts.{part}_proj.weight": (64, 96) if part == "down" else (96, 64)
        for part in ("gate", "up", "down")
    },
}

LATENT: Final[Mapping[str, Published]] = {
    "plm": Published(
        {
            **_SIZES,
            "architectures": ["PLMForCausalLM"],
            "model_type": "plm",
            "hidden_act": "relu2",
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "kv_lora_rank": 32,
            "q_lora_rank": None,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
        },
        shapes={
            **{name: shape for name, shape in _TRUNK.items() if name != "lm_head.weight"},
            _LAYER + "self_attn.q_proj.weight": (96, 64),
            _LAYER + "self_attn.kv_a_proj_with_mqa.weight": (40, 64),
            _LAYER + "self_attn.kv_a_layernorm.weight": (32,),
            _LAYER + "self_attn.kv_b_proj.weight": (128, 32),
            _LAYER + "self_attn.o_proj.weight": (64, 64),
            _LAYER + "mlp.up_proj.weight": (96, 64),
            _LAYER + "mlp.down_proj.weight": (64, 96),
        },
    ),
    "deepseek": Published(
        {
            **_SIZES,
            **_MIXTURE,
            "architectures": ["DeepseekForCausalLM"],
            "model_type": "deepseek",
            "moe_layer_freq": 1,
            "norm_topk_prob": False,
            "scoring_func": "softmax",
        },
        shapes=_MIXED,
    ),
    "deepseek-ocr": Published(
        {
            **_SIZES,
            **_MIXTURE,
            "architectures": ["DeepseekOCRForCausalLM"],
            "model_type": "DeepseekOCR",
            "use_mla": False,
            "qk_rope_head_dim": 16,
            "topk_method": "greedy",
            "n_group": 1,
        },
        shapes=_MIXED,
    ),
}
