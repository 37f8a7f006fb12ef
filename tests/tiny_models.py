"""Tiny random models of every supported architecture, made with transformers."""

import json
import zlib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.published import publish
from tests.published_streams import STREAMED, STREAMED_YARN, on_grid
from tests.tiny_published import PUBLISHED

VOCABULARY = 96

_COMMON: Final[Mapping[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_LLAMA3: Final = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_YARN: Final = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}
_FACTORS: Final = [1.0 + i / 4 for i in range(8)]
_LONGROPE: Final = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": _FACTORS,
    "long_factor": [2 * x for x in _FACTORS],
    "original_max_position_embeddings": 512,
}
_MINISTRAL: Final = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
_MIXTURE: Final = {
    "num_hidden_layers": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "head_dim": 32,
}
_VISION: Final = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64}
_MROPE: Final = {"rope_type": "default", "rope_theta": 1000000.0}
_LINEAR: Final = {
    "head_dim": 32,
    "num_hidden_layers": 5,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "rope_parameters": {
        **_MROPE,
        "partial_rotary_factor": 0.5,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
}
_CONVOLVED: Final = {
    "num_hidden_layers": 4,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
}
_GRANITE_HYBRID: Final = {
    "num_hidden_layers": 4,
    "layer_types": ["mamba", "attention", "mamba", "attention"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 80,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "attention_multiplier": 0.125,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.25,
    "logits_scaling": 8.0,
}
_LATENT: Final = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
    "moe_intermediate_size": 48,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}
_INDEXED: Final = {"num_hidden_layers": 3, "index_n_heads": 16, "index_head_dim": 64, "index_topk": 512}
_PIXTRAL: Final = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
_MISTRAL4: Final = {
    **_LATENT,
    "rope_parameters": {**_MINISTRAL, "rope_theta": 10000.0, "original_max_position_embeddings": 512},
    "n_shared_experts": 2,
}
_NOT_AHEAD: Final = {"num_nextn_predict_layers": 0}
_GEMMA4: Final = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "sliding_window": 128,
    "head_dim": 16,
    "global_head_dim": 32,
    "final_logit_softcapping": 30.0,
}
_MAMBA2_MIXER: Final = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 16}
_NEMOTRON_H: Final = {
    "layers_block_type": ["mamba", "mlp", "attention", "mlp"],
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 16,
}
_GPT_OSS: Final = {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 128}
_GPT_OSS_YARN: Final = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "original_max_position_embeddings": 256,
}
_GPT_OSS_PUBLISHED: Final = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}

_ROBERTA: Final = {
    "max_position_embeddings": 130,
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}

#: name -> (transformers class, configuration class, what differs from the common configuration)
MODELS: Final[Mapping[str, tuple[str, str, Mapping[str, Any]]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {}),
    "llama-tied": ("LlamaForCausalLM", "LlamaConfig", {"tie_word_embeddings": True}),
    "llama-biases": ("LlamaForCausalLM", "LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("LlamaForCausalLM", "LlamaConfig", {"head_dim": 32, "num_key_value_heads": 4}),
    "llama-llama3": ("LlamaForCausalLM", "LlamaConfig", {"rope_parameters": _LLAMA3, "head_dim": 32}),
    "llama-linear": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama-yarn": ("LlamaForCausalLM", "LlamaConfig", {"rope_parameters": _YARN}),
    "llama-longrope": ("LlamaForCausalLM", "LlamaConfig", {"rope_parameters": _LONGROPE}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "mistral-window": ("MistralForCausalLM", "MistralConfig", {"sliding_window": 4096}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {"rope_theta": 1000000.0}),
    "qwen2-tied": ("Qwen2ForCausalLM", "Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2-yarn": ("Qwen2ForCausalLM", "Qwen2Config", {"rope_parameters": _YARN}),
    "qwen2moe": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 80,
        },
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "norm_topk_prob": True,
        },
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {"head_dim": 32, "num_hidden_layers": 7, "sliding_window": 128, "query_pre_attn_scalar": 32},
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {"rope_theta": 10000.0, "original_max_position_embeddings": 2048}),
    "phi3-longrope": (
        "Phi3ForCausalLM",
        "Phi3Config",
        {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 512},
    ),
    "phi3-partial": (
        "Phi3ForCausalLM",
        "Phi3Config",
        {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 2048},
    ),
    "gptoss": ("GptOssForCausalLM", "GptOssConfig", {**_GPT_OSS, "rope_parameters": _GPT_OSS_YARN}),
    "gptoss-published": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {**_GPT_OSS, "head_dim": 64, "max_position_embeddings": 131072, "rope_parameters": _GPT_OSS_PUBLISHED},
    ),
    "gptoss-windows": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {
            **_GPT_OSS,
            "rope_parameters": _GPT_OSS_YARN,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_positions": 2048, "n_embd": 64, "n_layer": 2, "n_head": 4}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {"head_dim": 32}),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {"head_dim": 32, "num_hidden_layers": 3, "query_pre_attn_scalar": 32, "sliding_window": 128},
    ),
    "gemma2-windows": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 64,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
    "granite": (
        "GraniteForCausalLM",
        "GraniteConfig",
        {
            "attention_multiplier": 0.125,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.25,
            "logits_scaling": 8.0,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", {"num_hidden_layers": 5}),
    "arcee": ("ArceeForCausalLM", "ArceeConfig", {}),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", {}),
    "olmo-clip": ("OlmoForCausalLM", "OlmoConfig", {"clip_qkv": 0.5}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", {}),
    "olmo3": (
        "Olmo3ForCausalLM",
        "Olmo3Config",
        {"num_hidden_layers": 5, "sliding_window": 128},
    ),
    "olmoe": (
        "OlmoeForCausalLM",
        "OlmoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4},
    ),
    "cohere": ("CohereForCausalLM", "CohereConfig", {}),
    "cohere2": ("Cohere2ForCausalLM", "Cohere2Config", {"num_hidden_layers": 5, "sliding_window": 128}),
    "seedoss": ("SeedOssForCausalLM", "SeedOssConfig", {"head_dim": 32}),
    "nemotron": ("NemotronForCausalLM", "NemotronConfig", {}),
    "starcoder": (
        "GPTBigCodeForCausalLM",
        "GPTBigCodeConfig",
        {"n_positions": 2048, "n_embd": 64, "n_layer": 2, "n_head": 4},
    ),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", {}),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", {"use_qkv_bias": True}),
    "stablelm-parallel": (
        "StableLmForCausalLM",
        "StableLmConfig",
        {"use_parallel_residual": True, "qk_layernorm": True},
    ),
    "ernie": ("Ernie4_5ForCausalLM", "Ernie4_5Config", {"head_dim": 32}),
    "hunyuan": (
        "HunYuanDenseV1ForCausalLM",
        "HunYuanDenseV1Config",
        {
            "head_dim": 32,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0},
        },
    ),
    "jais2": ("Jais2ForCausalLM", "Jais2Config", {}),
    "glm": ("GlmForCausalLM", "GlmConfig", {"head_dim": 16}),
    "glm4": ("Glm4ForCausalLM", "Glm4Config", {"head_dim": 16}),
    "glm4moe": ("Glm4MoeForCausalLM", "Glm4MoeConfig", {**_MIXTURE, **_NOT_AHEAD, "n_routed_experts": 4}),
    "glm4moe-norms": (
        "Glm4MoeForCausalLM",
        "Glm4MoeConfig",
        {
            **_MIXTURE,
            **_NOT_AHEAD,
            "n_routed_experts": 4,
            "use_qk_norm": True,
            "first_k_dense_replace": 2,
            "n_shared_experts": 2,
        },
    ),
    "glm4moe-ahead": ("Glm4MoeForCausalLM", "Glm4MoeConfig", {**_MIXTURE, **_NOT_AHEAD, "n_routed_experts": 4}),
    "exaonemoe": (
        "ExaoneMoeForCausalLM",
        "ExaoneMoeConfig",
        {**_MIXTURE, "num_experts": 4, "num_hidden_layers": 5, "sliding_window": 128},
    ),
    "hyv3": ("HYV3ForCausalLM", "HYV3Config", {**_MIXTURE, "num_experts": 4}),
    "dots1": (
        "Dots1ForCausalLM",
        "Dots1Config",
        {
            **_MIXTURE,
            "n_routed_experts": 4,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
        },
    ),
    "mistral3": (
        "Ministral3ForCausalLM",
        "Ministral3Config",
        {"head_dim": 32, "rope_parameters": {**_MINISTRAL, "original_max_position_embeddings": 512}},
    ),
    "mistral3-small": (
        "Mistral3ForConditionalGeneration",
        "Mistral3Config",
        {
            "model_type": "mistral",
            "head_dim": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000000.0},
            "sliding_window": None,
            "vision_config": _PIXTRAL,
        },
    ),
    "mistral4": ("Mistral4ForCausalLM", "Mistral4Config", _MISTRAL4),
    "mistral4-small": (
        "Mistral3ForConditionalGeneration",
        "Mistral3Config",
        {"model_type": "mistral4", "vision_config": _PIXTRAL, **_MISTRAL4},
    ),
    "exaone4": (
        "Exaone4ForCausalLM",
        "Exaone4Config",
        {"sliding_window": None, "layer_types": ["full_attention", "full_attention"], "head_dim": 16},
    ),
    "phi2": ("PhiForCausalLM", "PhiConfig", {"num_key_value_heads": 4, "intermediate_size": 256}),
    "minimax": (
        "MiniMaxM2ForCausalLM",
        "MiniMaxM2Config",
        {"head_dim": 32, "rotary_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen2vl": (
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLConfig",
        {"vision_config": _VISION, "rope_parameters": {**_MROPE, "mrope_section": [2, 3, 3]}},
    ),
    "qwen3vl": (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLConfig",
        {
            "vision_config": {**_VISION, "deepstack_visual_indexes": [0]},
            "rope_parameters": {**_MROPE, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
            "head_dim": 32,
        },
    ),
    "qwen35": ("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", _LINEAR),
    "qwen35moe": (
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeTextConfig",
        {
            **_LINEAR,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 80,
        },
    ),
    "qwen3next": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        {
            **_LINEAR,
            "rope_parameters": {**_MROPE, "partial_rotary_factor": 0.5},
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 80,
        },
    ),
    "gptneox": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
    ),
    "gptneox-serial": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {
            "use_parallel_residual": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"n_layer": 2, "n_head": 4}),
    "deepseek3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {**_LATENT, "num_hidden_layers": 3, "n_routed_experts": 8, "n_group": 2, "topk_group": 1},
    ),
    "deepseek3-yarn": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **_LATENT,
            "n_group": 1,
            "topk_group": 1,
            "rope_parameters": {
                **_YARN,
                "factor": 40.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
    ),
    "deepseek2-lite": (
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        {
            **_LATENT,
            "num_hidden_layers": 26,
            "q_lora_rank": None,
            "n_shared_experts": 2,
            "rope_parameters": {
                **_YARN,
                "factor": 40.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
            },
        },
    ),
    "glm4lite": (
        "Glm4MoeLiteForCausalLM",
        "Glm4MoeLiteConfig",
        {key: value for key, value in _LATENT.items() if key != "first_k_dense_replace"},
    ),
    "deepseek32": (
        "DeepseekV32ForCausalLM",
        "DeepseekV32Config",
        {**_LATENT, **_INDEXED, "n_routed_experts": 8, "n_group": 2, "topk_group": 1},
    ),
    "deepseek32-ahead": (
        "DeepseekV32ForCausalLM",
        "DeepseekV32Config",
        {
            **_LATENT,
            **_INDEXED,
            "n_group": 1,
            "topk_group": 1,
            "rope_parameters": {
                **_YARN,
                "factor": 40.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
    ),
    "glmdsa": ("GlmMoeDsaForCausalLM", "GlmMoeDsaConfig", {**_LATENT, **_INDEXED}),
    "glmdsa-shared": (
        "GlmMoeDsaForCausalLM",
        "GlmMoeDsaConfig",
        {**_LATENT, **_INDEXED, "indexer_types": ["full", "full", "shared"]},
    ),
    "deepseek4": (
        "DeepseekV4ForCausalLM",
        "DeepseekV4Config",
        {
            **STREAMED,
            "layer_types": [
                "sliding_attention",
                *["compressed_sparse_attention", "heavily_compressed_attention"] * 2,
            ],
            "mlp_layer_types": [*["hash_moe"] * 2, *["moe"] * 3],
            "partial_rotary_factor": 0.25,
            "rope_parameters": {**STREAMED_YARN, "rope_type": "yarn"},
        },
    ),
    "erniemoe": (
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_MoeConfig",
        {
            "num_hidden_layers": 3,
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 48,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
        },
    ),
    "falcon": ("FalconForCausalLM", "FalconConfig", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-multi-query": ("FalconForCausalLM", "FalconConfig", {"num_kv_heads": 1}),
    "granitemoe": (
        "GraniteMoeForCausalLM",
        "GraniteMoeConfig",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.125, "logits_scaling": 6.0},
    ),
    "granitemoe-shared": (
        "GraniteMoeSharedForCausalLM",
        "GraniteMoeSharedConfig",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 48, "residual_multiplier": 0.25},
    ),
    "bert": ("BertModel", "BertConfig", {"max_position_embeddings": 128, "pad_token_id": 0}),
    "roberta": ("RobertaModel", "RobertaConfig", _ROBERTA),
    "xlmroberta": ("XLMRobertaModel", "XLMRobertaConfig", _ROBERTA),
    "camembert": ("CamembertModel", "CamembertConfig", _ROBERTA),
    "distilbert": ("DistilBertModel", "DistilBertConfig", {"max_position_embeddings": 128, "pad_token_id": 0}),
    "eurobert": ("EuroBertModel", "EuroBertConfig", {"head_dim": 16}),
    "modernbert": ("ModernBertModel", "ModernBertConfig", {"num_hidden_layers": 5, "local_attention": 32}),
    "gemmaembedding": (
        "Gemma3TextModel",
        "Gemma3TextConfig",
        {
            "head_dim": 32,
            "num_hidden_layers": 7,
            "sliding_window": 64,
            "query_pre_attn_scalar": 32,
            "use_bidirectional_attention": True,
        },
    ),
    "jinabert3": (
        "JinaEmbeddingsV3Model",
        "JinaEmbeddingsV3Config",
        {"max_position_embeddings": 2050, "pad_token_id": 1},
    ),
    "afmoe": (
        "AfmoeForCausalLM",
        "AfmoeConfig",
        {
            **_MIXTURE,
            "num_hidden_layers": 5,
            "head_dim": 16,
            "num_experts": 4,
            "num_dense_layers": 1,
            "mup_enabled": True,
            "sliding_window": 128,
            "route_scale": 2.5,
        },
    ),
    "mellum": (
        "MellumForCausalLM",
        "MellumConfig",
        {
            **_MIXTURE,
            "num_hidden_layers": 4,
            "num_experts": 4,
            "sliding_window": 128,
            "layer_types": ["full_attention", *["sliding_attention"] * 3],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
            },
        },
    ),
    "phimoe": (
        "PhimoeForCausalLM",
        "PhimoeConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "lm_head_bias": True,
            "original_max_position_embeddings": 2048,
        },
    ),
    "cohere2moe": (
        "Cohere2MoeForCausalLM",
        "Cohere2MoeConfig",
        {
            "num_hidden_layers": 5,
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_shared_experts": 2,
            "prefix_dense_intermediate_size": 80,
            "mlp_layer_types": ["dense", *["sparse"] * 4],
            "sliding_window": 128,
        },
    ),
    "graniteswa": (
        "GraniteSWAForCausalLM",
        "GraniteSWAConfig",
        {
            "num_hidden_layers": 4,
            "sliding_window": 64,
            "attention_multiplier": 0.125,
            "residual_multiplier": 0.25,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
        },
    ),
    "granitemoeswa": (
        "GraniteMoeSWAForCausalLM",
        "GraniteMoeSWAConfig",
        {
            "num_hidden_layers": 4,
            "sliding_window": 64,
            "num_local_experts": 4,
            "shared_intermediate_size": 48,
            "attention_multiplier": 0.125,
            "layer_rope_theta": [10000.0, 10000.0, 0, 10000.0],
        },
    ),
    "museglimmer": (
        "MuseGlimmerForConditionalGeneration",
        "MuseGlimmerConfig",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "sliding_window": 128,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"],
            "layer_rope_theta": [10000.0, 10000.0, 10000.0, 0],
            "output_multiplier": 0.25,
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
        },
    ),
    "hunyuanmoe": (
        "HunYuanMoEV1ForCausalLM",
        "HunYuanMoEV1Config",
        {"head_dim": 16, "num_experts": 4, "moe_topk": [2, 2]},
    ),
    "apertus": ("ApertusForCausalLM", "ApertusConfig", {"rope_parameters": _LLAMA3}),
    "solaropen": (
        "SolarOpenForCausalLM",
        "SolarOpenConfig",
        {**_MIXTURE, "n_routed_experts": 4, "n_shared_experts": 1},
    ),
    "llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "intermediate_size_mlp": 80,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "interleave_moe_layer_step": 2,
        },
    ),
    "t5encoder": ("T5EncoderModel", "T5Config", {"feed_forward_proj": "relu"}),
    "t5": ("T5ForConditionalGeneration", "T5Config", {"num_layers": 3, "num_decoder_layers": 2}),
    "umt5": ("UMT5ForConditionalGeneration", "UMT5Config", {}),
    "mpt": ("MptForCausalLM", "MptConfig", {"attn_config": {"clip_qkv": 2.0}}),
    "mpt-unclipped": ("MptForCausalLM", "MptConfig", {}),
    "lfm2": ("Lfm2ForCausalLM", "Lfm2Config", {**_CONVOLVED, "block_auto_adjust_ff_dim": False}),
    "lfm2-adjusted": (
        "Lfm2ForCausalLM",
        "Lfm2Config",
        {**_CONVOLVED, "intermediate_size": 100, "block_multiple_of": 16, "block_ffn_dim_multiplier": 1.5},
    ),
    "lfm2moe": (
        "Lfm2MoeForCausalLM",
        "Lfm2MoeConfig",
        {**_CONVOLVED, "num_dense_layers": 1, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    ),
    "mamba": ("MambaForCausalLM", "MambaConfig", {"time_step_rank": 4}),
    "falconmamba": ("FalconMambaForCausalLM", "FalconMambaConfig", {"time_step_rank": 4}),
    "mamba2": ("Mamba2ForCausalLM", "Mamba2Config", {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16}),
    "granitehybrid": ("GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig", _GRANITE_HYBRID),
    "granitehybrid-dense": (
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        {**_GRANITE_HYBRID, "num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": 80},
    ),
    "gemma4": (
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            **_GEMMA4,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": VOCABULARY,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
        },
    ),
    "gemma4-experts": (
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        {
            **_GEMMA4,
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 4,  # all: with some, rounding chooses others for a few tokens
            "moe_intermediate_size": 48,
        },
    ),
    "gemma3n": (
        "Gemma3nForCausalLM",
        "Gemma3nTextConfig",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "intermediate_size": 1024,  # of which few are let through
            "sliding_window": 128,
            "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": VOCABULARY,
            "num_kv_shared_layers": 0,
            "activation_sparsity_pattern": [0.95] * 5,
        },
    ),
    "nemotronh": ("NemotronHForCausalLM", "NemotronHConfig", _NEMOTRON_H),
    "nemotronh-experts": (
        "NemotronHForCausalLM",
        "NemotronHConfig",
        {
            **_NEMOTRON_H,
            "layers_block_type": ["mamba", "moe", "attention", "moe"],
            "n_routed_experts": 4,
            "moe_intermediate_size": 48,
            "moe_shared_expert_intermediate_size": 80,
            "moe_latent_size": 32,
            "routed_scaling_factor": 2.5,
        },
    ),
    "falconh1": (
        "FalconH1ForCausalLM",
        "FalconH1Config",
        {
            **_MAMBA2_MIXER,
            "mamba_d_ssm": 128,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
            "head_dim": 16,
            "embedding_multiplier": 2.5,
            "lm_head_multiplier": 0.3,
            "mlp_multipliers": [0.8, 1.2],
            "key_multiplier": 0.7,
            "attention_in_multiplier": 1.1,
            "attention_out_multiplier": 0.9,
            "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 0.7],
            "ssm_in_multiplier": 1.3,
            "ssm_out_multiplier": 0.6,
        },
    ),
    "falconh1-plain": (
        "FalconH1ForCausalLM",
        "FalconH1Config",
        {**_MAMBA2_MIXER, "mamba_d_ssm": 128, "head_dim": 16},
    ),
    "bamba": (
        "BambaForCausalLM",
        "BambaConfig",
        {**_MAMBA2_MIXER, "num_hidden_layers": 4, "attn_layer_indices": [1, 3]},
    ),
    "jamba": (
        "JambaForCausalLM",
        "JambaConfig",
        {
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 0,
            "num_experts": 4,
            "mamba_dt_rank": 4,
        },
    ),
    "youtu": (
        "YoutuForCausalLM",
        "YoutuConfig",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 24,
        },
    ),
    "kimilinear": (
        "KimiLinearForCausalLM",
        "KimiLinearConfig",
        {
            **{
                key: _LATENT[key]
                for key in _LATENT.keys() - {"q_lora_rank", "first_k_dense_replace", "n_routed_experts"}
            },
            "num_local_experts": 4,
            "num_hidden_layers": 4,
            "layer_types": [*["linear_attention"] * 3, "full_attention"],
            "mlp_layer_types": ["dense", *["sparse"] * 3],
            "linear_head_dim": 32,
            "linear_num_heads": 4,
        },
    ),
    "minicpm3": (
        "MiniCPM3ForCausalLM",
        "MiniCPM3Config",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
        },
    ),
    **{name: (*(model.twin or ("", "", {})),) for name, model in PUBLISHED.items()},
}
#: What reads one text and writes another, with two stacks of layers.
TWO_STACKS: Final = frozenset({"t5", "umt5"})
#: Decoders that see to both sides, and fill in what is masked.
DIFFUSION: Final = frozenset({"dream", "rnd1", "lladamoe", "llada"})
_FULL_ATTENTION: Final = frozenset(
    {
        *("GPT2Config", "GPTBigCodeConfig", "GPTNeoXConfig", "BloomConfig", "FalconConfig", "BertConfig"),
        *("RobertaConfig", "XLMRobertaConfig", "CamembertConfig", "DistilBertConfig", "ModernBertConfig"),
        *("NomicBertConfig", "JinaEmbeddingsV3Config", "MptConfig", "T5Config", "UMT5Config"),
    }
)
#: Those that embed a text instead of predicting tokens.
ENCODERS: Final = frozenset(
    {
        *("bert", "roberta", "xlmroberta", "camembert", "distilbert", "eurobert", "modernbert", "jinabert3"),
        *(
            "gemmaembedding",
            "nomicbert",
            "nomicbertmoe",
            "jinabert",
            "jinabert-code",
            "jinabert3-adapters",
            "llamaembed",
            "neobert",
            "t5encoder",
            "lfm2-bidirectional",
        ),
    }
)


_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_POSITIONS = "max_position_embeddings"
_T5 = {"d_model": 64, "d_ff": 96, "num_layers": 2, "num_heads": 4, "d_kv": 24, "feed_forward_proj": "gated-gelu"}
_T5 |= {"pad_token_id": 0, "decoder_start_token_id": 0}
_MAMBA = (("intermediate_size", "num_attention_heads", "num_key_value_heads", _POSITIONS), {})
#: config class -> common settings that it calls otherwise or has not, and what it has instead
_OTHER_NAMES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "DistilBertConfig": (_SIZES, {"dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4}),
    **dict.fromkeys(("GPT2Config", "GPTBigCodeConfig"), ((*_SIZES, _POSITIONS), {})),
    **dict.fromkeys(("T5Config", "UMT5Config"), ((*_SIZES, _POSITIONS), _T5)),
    "MptConfig": (
        (*_SIZES, _POSITIONS),
        {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": _COMMON[_POSITIONS]},
    ),
    **dict.fromkeys(("MambaConfig", "FalconMambaConfig", "Mamba2Config"), _MAMBA),
    "FalconConfig": (("intermediate_size",), {}),
    "DeepseekV4Config": (("intermediate_size", "num_key_value_heads"), {}),
    "BloomConfig": (("intermediate_size", "num_hidden_layers", "num_attention_heads", _POSITIONS), {}),
}


def _common(config_class: str) -> dict[str, Any]:
    """The common settings as a class of configurations has them."""
    without, instead = _OTHER_NAMES.get(config_class, ((), {}))
    if config_class in _FULL_ATTENTION:
        without = (*without, "num_key_value_heads")
    return {key: value for key, value in _COMMON.items() if key not in without} | instead


def _draw_weights(model: Any, name: str) -> None:
    """Every weight by its name, rounded to bfloat16."""
    with torch.no_grad():
        for tensor_name, weight in model.named_parameters():
            rng = np.random.default_rng(zlib.crc32(tensor_name.encode()))
            spread = torch.from_numpy(rng.standard_normal(tuple(weight.shape), np.float32))
            value = 0.1 * spread if weight.ndim == 1 else spread / weight.shape[-1] ** 0.5
            offset = "gemma" in name and not name.startswith(("gemma4", "gemma3n"))  # norms as offsets from one
            if "norm" in tensor_name.lower() and tensor_name.endswith("weight") and not offset:
                value = 1 + value
            if name == "gemmaembedding" and "norm" in tensor_name:  # of which one is too small to survive that
                value = torch.round(value * 4096) / 4096
            if name.startswith("deepseek4") and ".experts." in tensor_name:
                value = on_grid(value)
            weight.copy_(value.to(torch.bfloat16))
        for tensor_name, biases in model.named_buffers():
            if tensor_name.endswith("expert_bias"):
                biases.copy_(torch.linspace(-0.5, 0.5, len(biases)).to(torch.bfloat16))
            if tensor_name.endswith("layer_scalar"):
                biases.fill_(0.75)
            if name.startswith("deepseek4") and tensor_name.endswith("e_score_correction_bias"):
                biases.copy_(torch.linspace(-0.25, 0.25, len(biases)).to(torch.bfloat16))
            if tensor_name.endswith("tid2eid"):
                rng = np.random.default_rng(zlib.crc32(tensor_name.encode()))
                experts = model.config.n_routed_experts
                rows = [rng.permutation(experts)[: biases.shape[1]] for _ in range(len(biases))]
                biases.copy_(torch.from_numpy(np.stack(rows)))


def make(
    name: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    vocabulary: int = VOCABULARY,
    positions: int | None = None,
) -> Any:
    """Save the model into `folder` and return it. positions: of GPT-2, where they shall be fewer.

    Every weight is random, norms and biases too, so that a tensor in the wrong place cannot go unnoticed; they are
    rounded to bfloat16 first, because then adding one (gemma's norms) and taking it away is exact. A weight depends
    on its name alone, so that the goldens hold for every version of transformers and torch.
    """
    model_class, config_class, changes = MODELS[name]
    if not model_class:
        publish(PUBLISHED[name], folder)
        return None
    # transformers writes into what it is given
    settings = deepcopy({**_common(config_class), **changes, "vocab_size": vocabulary})
    if positions is not None:
        settings["n_positions"] = positions
    if "vision_config" in settings:
        vision = settings.pop("vision_config")
        settings = {"text_config": settings, "vision_config": vision, "tie_word_embeddings": False}
    config = getattr(transformers, config_class)(**settings)
    config.architectures = [model_class]
    model = getattr(transformers, model_class)(config)
    _draw_weights(model, name)
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    if name in PUBLISHED:
        publish(PUBLISHED[name], folder)
    if name.endswith("-ahead"):
        _add_layer_ahead(folder)
    return model


def _add_layer_ahead(folder: Path) -> None:
    """A layer that predicts one token ahead, which transformers does not keep: a copy of the last, and what is its
    own."""
    config = json.loads((folder / "config.json").read_text())
    layers, hidden, vocabulary = (config[key] for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
    tensors = load_file(folder / "model.safetensors")
    last, new = f"model.layers.{layers - 1}.", f"model.layers.{layers}."
    tensors |= {
        new + name.removeprefix(last): value.clone() for name, value in tensors.items() if name.startswith(last)
    }
    shapes = {
        "eh_proj": (hidden, 2 * hidden),
        "enorm": (hidden,),
        "hnorm": (hidden,),
        "shared_head.norm": (hidden,),
        "shared_head.head": (vocabulary, hidden),
        "embed_tokens": (vocabulary, hidden),
    }
    for number, (name, shape) in enumerate(shapes.items()):
        values = np.random.default_rng(number).standard_normal(shape, np.float32)
        tensors[f"{new}{name}.weight"] = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
