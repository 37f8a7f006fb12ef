"""Models that see or hear, as their makers publish them: a text model, and a tensor of what else there is."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from tests.published import Published, Tensors, random

_SIZES: Final = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
_LLAMA: Final = ("LlamaForCausalLM", "LlamaConfig", {"rope_theta": 10000.0})
_QWEN2: Final = ("Qwen2ForCausalLM", "Qwen2Config", {"rope_theta": 10000.0})


def _with(*names: str) -> Any:
    def more(tensors: Tensors) -> Tensors:
        return {**tensors, **{name: random(name, (4, 4)) for name in names}}

    return more


def _seeing(
    architecture: str,
    model_type: str,
    text: Mapping[str, Any],
    twin: tuple[str, str, Mapping[str, Any]],
    *lost: str,
    renamed: Sequence[tuple[str, str]] = ((r"^", "language_model."),),
    nested: bool = True,
    section: str = "text_config",
    **more: Any,
) -> Published:
    text = {key: value for key, value in {**_SIZES, "rope_theta": 10000.0, **text}.items() if value is not None}
    config = {section: text} if nested else {key: value for key, value in text.items() if key != "model_type"}
    config = {"architectures": [architecture], "model_type": model_type, **config, **more}
    return Published(config, twin, renamed, _with(*lost))


_INNER: Final = ((r"^model\.", "model.language_model."),)
_TOWER: Final = "vision_tower.encoder.weight"
_HEARING: Final = ("audio_tower.conv1.weight", "multi_modal_projector.linear.weight")

_EXPERT: Final = re.compile(r"(.*mlp\.experts\.)(\d+)\.(gate|up|down)_proj\.weight")


def _packed(tensors: Tensors) -> Tensors:
    """Experts as stacks [experts, in, out], gate and up side by side."""
    found = {name: value for name, value in tensors.items() if not _EXPERT.fullmatch(name)}
    for module in dict.fromkeys(match[1] for match in map(_EXPERT.fullmatch, tensors) if match):
        gate, up, down = (
            torch.stack([tensors[f"{module}{e}.{part}_proj.weight"].T for e in range(4)])
            for part in ("gate", "up", "down")
        )
        found |= {f"{module}gate_up_proj": torch.cat([gate, up], dim=2), f"{module}down_proj": down}
    return found


def unpacked(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What a text model alone has in place of such stacks, of arrays."""
    found = {}
    for name, value in tensors.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            found[name] = value
            continue
        module, half = name.rpartition(".")[0], value.shape[2] // 2
        parts = {"down": value} if name.endswith("down_proj") else {"gate": value[..., :half], "up": value[..., half:]}
        found |= {
            f"{module}.{e}.{part}_proj.weight": one.T for part, stack in parts.items() for e, one in enumerate(stack)
        }
    return found


_EXPERTS: Final = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}

_KIMI: Final = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
    "moe_intermediate_size": 48,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "rope_theta": 10000.0,
}
_DEEPSEEK3: Final = ("DeepseekV3ForCausalLM", "DeepseekV3Config", {**_KIMI, "num_hidden_layers": 2})
_YOUTU: Final = {key: _KIMI[key] for key in _KIMI if "_head_" in key or "rank" in key} | {"num_key_value_heads": 4}
_SECTIONS: Final = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "mrope_section": [2, 1, 1],
}
_GLM4V_ROPE: Final = {"rope_parameters": _SECTIONS}
_LINEAR: Final = {
    "head_dim": 32,
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1000000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
}

_LFM2: Final = {
    "num_hidden_layers": 2,
    "layer_types": ["conv", "full_attention"],
    "norm_eps": 1e-5,
    "conv_L_cache": 3,
    "block_auto_adjust_ff_dim": False,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "rope_theta": 10000.0,
}
_COHERE2: Final = {"layer_norm_eps": 1e-5, "logit_scale": 0.25, "sliding_window": 64, "rope_theta": 10000.0}

#: name -> model
MULTIMODAL: Final[Mapping[str, Published]] = {
    "qwen2-internvl": _seeing(
        "InternVLForConditionalGeneration",
        "internvl",
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        _QWEN2,
        "model.vision_tower.embeddings.cls_token",
        "model.multi_modal_projector.linear_1.weight",
        renamed=((r"^model\.", "model.language_model."),),
    ),
    "qwen2-internvl-chat": _seeing(
        "InternVLChatModel",
        "internvl_chat",
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        _QWEN2,
        "vision_model.embeddings.class_embedding",
        "mlp1.1.weight",
        section="llm_config",
    ),
    "lfm2-vl": _seeing(
        "Lfm2VlForConditionalGeneration",
        "lfm2_vl",
        {
            **_LFM2,
            "model_type": "lfm2",
            "architectures": ["Lfm2ForCausalLM"],
            "tie_word_embeddings": True,
            "rms_norm_eps": None,
            "hidden_act": None,
        },
        ("Lfm2ForCausalLM", "Lfm2Config", {**_LFM2, "tie_word_embeddings": True}),
        "model.vision_tower.vision_model.encoder.weight",
        "model.multi_modal_projector.linear_1.weight",
        renamed=((r"^model\.", "model.language_model."),),
    ),
    "cohere2-vision": _seeing(
        "Cohere2VisionForConditionalGeneration",
        "cohere2_vision",
        {
            **_COHERE2,
            "model_type": "cohere2",
            "architectures": ["Cohere2ForCausalLM"],
            "tie_word_embeddings": True,
            "rms_norm_eps": None,
        },
        ("Cohere2ForCausalLM", "Cohere2Config", {**_COHERE2, "tie_word_embeddings": True}),
        "vision_tower.vision_model.encoder.weight",
        "multi_modal_projector.linear_1.weight",
    ),
    "llama-llava": _seeing(
        "LlavaForConditionalGeneration",
        "llava",
        {"model_type": "llama", "head_dim": 16},
        _LLAMA,
        _TOWER,
        "multi_modal_projector.linear_1.weight",
    ),
    "llama-voxtral": _seeing(
        "VoxtralForConditionalGeneration", "voxtral", {"model_type": "llama", "head_dim": 16}, _LLAMA, *_HEARING
    ),
    "llama-smolvlm": _seeing(
        "SmolVLMForConditionalGeneration",
        "smolvlm",
        {"model_type": "llama", "head_dim": 16, "architectures": ["VLlama3ForCausalLM"]},
        _LLAMA,
        "model.vision_model.encoder.weight",
        "model.connector.proj.weight",
        renamed=((r"^model\.", "model.text_model."),),
    ),
    "llama-janus": _seeing(
        "JanusForConditionalGeneration",
        "janus",
        {"model_type": "llama", "head_dim": 16},
        _LLAMA,
        "model.vision_model.encoder.weight",
        "model.aligner.fc1.weight",
        "model.generation_head.proj_out.weight",
        renamed=_INNER,
    ),
    "llama-sarashina": _seeing(
        "Sarashina2VisionForCausalLM",
        "sarashina2_vision",
        {"model_type": "llama", "head_dim": 16},
        _LLAMA,
        "visual.patch_embed.proj.weight",
        "norm.weight",
        renamed=((r"^", "llm."),),
    ),
    "llama-iquest": _seeing(
        "IQuestCoderForCausalLM", "iquestcoder", {"head_dim": 16}, _LLAMA, renamed=(), nested=False
    ),
    "qwen2-audio": _seeing(
        "Qwen2AudioForConditionalGeneration", "qwen2_audio", {"model_type": "qwen2"}, _QWEN2, *_HEARING
    ),
    "qwen2-flamingo": _seeing(
        "AudioFlamingo3ForConditionalGeneration", "audioflamingo3", {"model_type": "qwen2"}, _QWEN2, *_HEARING
    ),
    "qwen2-dots-ocr": _seeing(
        "DotsOCRForCausalLM",
        "dots_ocr",
        {},
        _QWEN2,
        "vision_tower.blocks.0.attn.qkv.weight",
        renamed=(),
        nested=False,
    ),
    "exaone4-seeing": _seeing(
        "Exaone4_5_ForConditionalGeneration",
        "exaone4_5",
        {"model_type": "exaone4", "sliding_window": None, "layer_types": ["full_attention"] * 2, "head_dim": 16},
        (
            "Exaone4ForCausalLM",
            "Exaone4Config",
            {
                "sliding_window": None,
                "layer_types": ["full_attention"] * 2,
                "head_dim": 16,
                "rope_theta": 10000.0,
                "rms_norm_eps": 1e-6,
            },
        ),
        "model.visual.blocks.0.attn.qkv.weight",
        "mtp.fc.weight",
        renamed=_INNER,
    ),
    "granite-speech": _seeing(
        "GraniteSpeechForConditionalGeneration",
        "granite_speech",
        {
            "model_type": "granite",
            "attention_multiplier": 0.125,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.25,
            "logits_scaling": 8.0,
        },
        (
            "GraniteForCausalLM",
            "GraniteConfig",
            {
                "attention_multiplier": 0.125,
                "embedding_multiplier": 12.0,
                "residual_multiplier": 0.25,
                "logits_scaling": 8.0,
                "rope_theta": 10000.0,
            },
        ),
        "encoder.layers.0.attn.to_q.weight",
        "projector.linear.weight",
    ),
    "phi3-seeing": _seeing(
        "Phi4ForCausalLMV",
        "phi4-siglip",
        {"original_max_position_embeddings": 2048},
        (
            "Phi3ForCausalLM",
            "Phi3Config",
            {"rope_theta": 10000.0, "original_max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
        ),
        "model.vision_tower.encoder.weight",
        "model.mm_projector.0.weight",
        renamed=(),
        nested=False,
    ),
    "qwen3-step": _seeing(
        "StepVLForConditionalGeneration",
        "step_robotics",
        {"model_type": "qwen3", "head_dim": 32},
        ("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 32, "rope_theta": 10000.0}),
        "model.vision_model.conv1.weight",
        renamed=_INNER,
    ),
    "stablelm-llava": _seeing(
        "LlavaStableLMEpochForCausalLM",
        "llava_stablelm_epoch",
        {"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5, "use_parallel_residual": False},
        (
            "StableLmForCausalLM",
            "StableLmConfig",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
        ),
        "model.vision_tower.encoder.weight",
        "model.mm_projector.0.weight",
        renamed=(),
        nested=False,
    ),
    "qwen2vl-omni": Published(
        {
            "architectures": ["Qwen2_5OmniModel"],
            "model_type": "qwen2_5_omni",
            "thinker_config": {
                "model_type": "qwen2_5_omni_thinker",
                "text_config": {
                    **_SIZES,
                    "model_type": "qwen2_5_omni_text",
                    "rope_theta": 10000.0,
                    "rope_scaling": {"rope_type": "default", "type": "default", "mrope_section": [2, 3, 3]},
                },
            },
        },
        _QWEN2,
        ((r"^", "thinker."),),
        _with("thinker.visual.blocks.0.attn.qkv.weight", "talker.model.norm.weight", "token2wav.code2wav.weight"),
    ),
    "qwen3vl-asr": Published(
        {
            "architectures": ["Qwen3ASRForConditionalGeneration"],
            "model_type": "qwen3_asr",
            "thinker_config": {
                "model_type": "qwen3_asr_thinker",
                "text_config": {
                    **_SIZES,
                    "model_type": "qwen3",
                    "head_dim": 32,
                    "rope_theta": 10000.0,
                    "rope_scaling": {
                        "rope_type": "default",
                        "type": "default",
                        "mrope_section": [6, 5, 5],
                        "mrope_interleaved": True,
                    },
                },
            },
        },
        ("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 32, "rope_theta": 10000.0}),
        ((r"^", "thinker."),),
        _with("thinker.audio_tower.conv.weight"),
    ),
    "qwen3vlmoe-omni": Published(
        {
            "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
            "model_type": "qwen3_omni_moe",
            "thinker_config": {
                "model_type": "qwen3_omni_moe_thinker",
                "text_config": {
                    **_SIZES,
                    **_EXPERTS,
                    "model_type": "qwen3_omni_moe_text",
                    "head_dim": 32,
                    "norm_topk_prob": True,
                    "rope_theta": 10000.0,
                    "rope_scaling": {
                        "rope_type": "default",
                        "type": "default",
                        "mrope_section": [6, 5, 5],
                        "mrope_interleaved": True,
                    },
                },
            },
        },
        (
            "Qwen3MoeForCausalLM",
            "Qwen3MoeConfig",
            {**_EXPERTS, "head_dim": 32, "norm_topk_prob": True, "rope_theta": 10000.0},
        ),
        ((r"^", "thinker."),),
        _with("thinker.audio_tower.conv.weight", "thinker.visual.blocks.0.attn.qkv.weight", "talker.model.norm.weight"),
    ),
    "qwen3vlmoe-packed": Published(
        {
            "architectures": ["Qwen3VLMoeForConditionalGeneration"],
            "model_type": "qwen3_vl_moe",
            "tie_word_embeddings": False,
            "text_config": {
                **_SIZES,
                **_EXPERTS,
                "model_type": "qwen3_vl_moe_text",
                "head_dim": 32,
                "norm_topk_prob": True,
                "rope_theta": 10000.0,
                "rope_scaling": {
                    "rope_type": "default",
                    "type": "default",
                    "mrope_section": [6, 5, 5],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": {"deepstack_visual_indexes": [0]},
        },
        (
            "Qwen3MoeForCausalLM",
            "Qwen3MoeConfig",
            {**_EXPERTS, "head_dim": 32, "norm_topk_prob": True, "rope_theta": 10000.0},
        ),
        _INNER,
        lambda tensors: _with("model.visual.blocks.0.attn.qkv.weight")(_packed(tensors)),
    ),
    "deepseek3-kimi-vl": _seeing(
        "KimiVLForConditionalGeneration",
        "kimi_vl",
        {**_KIMI, "model_type": "deepseek_v3"},
        _DEEPSEEK3,
        "vision_tower.encoder.weight",
        "multi_modal_projector.linear_1.weight",
    ),
    "deepseek3-kimi-k25": _seeing(
        "KimiK25ForConditionalGeneration",
        "kimi_k25",
        {**_KIMI, "model_type": "kimi_k2"},
        _DEEPSEEK3,
        "vision_tower.encoder.weight",
        "mm_projector.proj.0.weight",
    ),
    "youtu-seeing": _seeing(
        "YoutuVLForConditionalGeneration",
        "youtu_vl",
        _YOUTU,
        ("YoutuForCausalLM", "YoutuConfig", {**_YOUTU, "tie_word_embeddings": False}),
        "siglip2.vision_model.encoder.weight",
        "merger.ln_q.weight",
        renamed=(),
        nested=False,
    ),
    "qwen35-minicpm": _seeing(
        "MiniCPMV4_6ForConditionalGeneration",
        "minicpmv4_6",
        {**_LINEAR, "model_type": "qwen3_5_text", "rope_theta": 1000000.0},
        ("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", _LINEAR),
        "model.vision_tower.encoder.weight",
        "model.merger.mlp.0.weight",
        renamed=_INNER,
    ),
    "glm4-seeing": _seeing(
        "Glm4vForConditionalGeneration",
        "glm4v",
        {**_GLM4V_ROPE, "model_type": "glm4v_text", "attention_bias": True},
        (
            "Glm4ForCausalLM",
            "Glm4Config",
            {
                "head_dim": 16,
                "attention_bias": True,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
            },
        ),
        "model.visual.blocks.0.attn.qkv.weight",
        renamed=_INNER,
    ),
    "glm4moe-seeing": _seeing(
        "Glm4vMoeForConditionalGeneration",
        "glm4v_moe",
        {
            **_GLM4V_ROPE,
            "model_type": "glm4v_moe_text",
            "attention_bias": True,
            "num_hidden_layers": 3,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
            "head_dim": 16,
            "num_nextn_predict_layers": 0,
        },
        (
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
                "routed_scaling_factor": 1.5,
                "attention_bias": True,
                "head_dim": 16,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
            },
        ),
        "model.visual.blocks.0.attn.qkv.weight",
        renamed=_INNER,
    ),
    "paddleocr": _seeing(
        "PaddleOCRVLForConditionalGeneration",
        "paddleocr_vl",
        {
            "head_dim": 32,
            "use_bias": False,
            "rope_scaling": {"rope_type": "default", "type": "default", "mrope_section": [4, 6, 6]},
        },
        ("LlamaForCausalLM", "LlamaConfig", {"head_dim": 32, "rope_theta": 10000.0}),
        "visual.vision_model.encoder.weight",
        "mlp_AR.linear_1.weight",
        renamed=(),
        nested=False,
    ),
}
