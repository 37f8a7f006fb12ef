"""Small random models that see or hear, as folders of the Hub have them: made by transformers where it has the class,
else of the shapes that the authors' own code has."""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Three layers: the converter finds `merger.mlp.2` among as many names as there are layers.
SIGHT = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
GEMMA4_SIGHT = SIGHT | {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "position_embedding_size": 64,
    "pooling_kernel_size": 3,
    "default_output_length": 16,
}
GEMMA4_HEARING = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "output_proj_dims": 48,
    "subsampling_conv_channels": [128, 8],
}
PIXELS = {"image_mean": [0.5, 0.4375, 0.25], "image_std": [0.5, 0.25, 0.375]}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


@dataclass(frozen=True)
class Tiny:
    """One model.

    made: transformers' class; none where `shapes` says the tensors. settings: of its config. preprocessor: the file's
    content. hub: patterns for what transformers 5 calls differently from the folders of the Hub, which llama.cpp's
    converter reads. config: changes to config.json in the end, by paths; None takes away. files: beside it.
    """

    made: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=lambda: PIXELS)
    hub: Sequence[tuple[str, str]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


QWEN = {"depth": 3, "hidden_size": 32, "intermediate_size": 40, "out_hidden_size": 32, "num_heads": 2}
WINDOWED = {**QWEN, "depth": 4, "patch_size": 14, "fullatt_block_indexes": [1, 3], "window_size": 112}
PIXEL_LIMITS = {"min_pixels": 3136, "max_pixels": 50176}
MERGED = {**PIXELS, **PIXEL_LIMITS, "patch_size": 14, "merge_size": 2}
WITH_MROPE = {**TEXT, "rope_parameters": MROPE}

IMG_BREAK = {"tokenizer_config.json": {"added_tokens_decoder": {"12": {"content": "[IMG_BREAK]"}}}}


def module(name, *shape, bias=True):
    """Shapes of a linear layer, a convolution or a norm."""
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def layers(prefix, count=3, **modules):
    """Shapes of layers. modules: by name, with `__` for a dot; a list for one without bias."""
    return {
        f"{prefix}.{n}.{name}": found
        for n in range(count)
        for key, shape in modules.items()
        for name, found in module(key.replace("__", "."), *shape, bias=not isinstance(shape, list)).items()
    }


WHISPER = {
    "d_model": 32,
    "encoder_ffn_dim": 64,
    "encoder_layers": 3,
    "encoder_attention_heads": 2,
    "num_mel_bins": 16,
    "max_source_positions": 40,
}
HEARING = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_mel_bins": 16,
    "max_source_positions": 40,
}


def whisper(prefix, *, last_norm=True):
    """Shapes of an encoder like Whisper's."""
    return {
        **module(prefix + "conv1", 32, 16, 3),
        **module(prefix + "conv2", 32, 32, 3),
        prefix + "embed_positions.weight": (40, 32),
        **layers(
            prefix + "layers",
            self_attn__q_proj=(32, 32),
            self_attn__k_proj=[32, 32],
            self_attn__v_proj=(32, 32),
            self_attn__out_proj=(32, 32),
            self_attn_layer_norm=(32,),
            fc1=(64, 32),
            fc2=(32, 64),
            final_layer_norm=(32,),
        ),
        **(module(prefix + "layer_norm", 32) if last_norm else {}),
    }


MOON = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 14,
    "merge_kernel_size": [2, 2],
}


def moon(width, ffn):
    """Shapes of a MoonViT."""
    return {
        **module("vision_tower.patch_embed.proj", width, 3, 14, 14),
        "vision_tower.patch_embed.pos_emb.weight": (8, 8, width),
        **layers(
            "vision_tower.encoder.blocks",
            norm0=(width,),
            norm1=(width,),
            wqkv=(3 * width, width),
            wo=(width, width),
            mlp__fc0=(ffn, width),
            mlp__fc1=(width, ffn),
        ),
        **module("vision_tower.encoder.final_layernorm", width),
    }


#: Four layers: the converter finds `mlp1.3` among as many names as there are layers.
INTERN = {
    "vision_model.embeddings.class_embedding": (1, 1, 32),
    "vision_model.embeddings.position_embedding": (1, 17, 32),
    **module("vision_model.embeddings.patch_embedding", 32, 3, 14, 14),
    **layers(
        "vision_model.encoder.layers",
        4,
        attn__qkv=(96, 32),
        attn__proj=(32, 32),
        mlp__fc1=(40, 32),
        mlp__fc2=(32, 40),
        norm1=(32,),
        norm2=(32,),
    ),
    **{f"vision_model.encoder.layers.{n}.ls{k}": (32,) for n in range(4) for k in (1, 2)},
    **module("mlp1.0", 128),
    **module("mlp1.1", 32, 128),
    **module("mlp1.3", 32, 32),
    "language_model.model.embed_tokens.weight": (64, 32),
    "language_model.lm_head.weight": (64, 32),
}

MODELS = {
    "gemma3": Tiny(
        "Gemma3ForConditionalGeneration",
        {"text_config": TEXT, "vision_config": {**SIGHT, "image_size": 112}, "mm_tokens_per_image": 4},
        hub=[("^vision_tower.", "vision_tower.vision_model."), ("^model.multi", "multi")],
    ),
    "qwen2vl": Tiny(
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": WITH_MROPE,
            "vision_config": {"depth": 3, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        },
        MERGED,
    ),
    "qwen2.5vl": Tiny(
        "Qwen2_5_VLForConditionalGeneration", {"text_config": WITH_MROPE, "vision_config": WINDOWED}, MERGED
    ),
    "qwen3vl": Tiny(
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": WITH_MROPE,
            "vision_config": {**QWEN, "deepstack_visual_indexes": [0, 2], "num_position_embeddings": 16},
        },
    ),
    "qwen3.5": Tiny(
        "Qwen3_5ForConditionalGeneration",
        {"text_config": TEXT, "vision_config": {**QWEN, "num_position_embeddings": 16}},
    ),
    "exaone4.5": Tiny(
        "Exaone4_5_ForConditionalGeneration",
        {"text_config": {**TEXT, "model_type": "exaone4"}, "vision_config": {**WINDOWED, "num_key_value_heads": 1}},
        MERGED,
        config={"hidden_size": 32},
    ),
    "glm4v": Tiny(
        "Glm4vForConditionalGeneration",
        {"text_config": WITH_MROPE, "vision_config": {**QWEN, "image_size": 56, "patch_size": 14}},
        MERGED,
    ),
    "glm-ocr": Tiny(
        "GlmOcrForConditionalGeneration",
        {"text_config": WITH_MROPE, "vision_config": {**QWEN, "image_size": 56, "patch_size": 14}},
        MERGED,
    ),
    "smolvlm": Tiny(
        "SmolVLMForConditionalGeneration",
        {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": SIGHT},
        {**PIXELS, "size": {"longest_edge": 112}},
    ),
    "idefics3": Tiny(
        "Idefics3ForConditionalGeneration", {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": SIGHT}
    ),
    "lfm2vl": Tiny(
        "Lfm2VlForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "lfm2", "layer_types": ["full_attention"]},
            "vision_config": {
                **SIGHT,
                "model_type": "siglip2_vision_model",
                "patch_size": 16,
                "num_patches": 16,
                "vision_use_head": False,
            },
            "projector_hidden_size": 48,
        },
        {**PIXELS, "resample": 2},
        hub=[("^model.vision_tower.", "model.vision_tower.vision_model.")],
    ),
    "cohere2vision": Tiny(
        "Cohere2VisionForConditionalGeneration",
        {
            "text_config": TEXT,
            "vision_config": {**SIGHT, "vision_use_head": False},
            "alignment_intermediate_size": 64,
        },
        {**PIXELS, "max_patches": 12},
    ),
    "janus": Tiny(
        "JanusForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_config": {
                **{key: value for key, value in SIGHT.items() if key != "intermediate_size"},
                "projection_dim": 32,
                "mlp_ratio": 1.5,
                "depth": 2,
            },
            "vq_config": {
                "embed_dim": 8,
                "num_embeddings": 8,
                "latent_channels": 8,
                "num_patches": 4,
                "base_channels": 32,
                "channel_multiplier": [1],
                "num_res_blocks": 1,
                "projection_dim": 32,
                "image_token_embed_dim": 32,
            },
        },
    ),
    "paddleocr": Tiny(
        "PaddleOCRVLForConditionalGeneration",
        {"text_config": WITH_MROPE, "vision_config": SIGHT},
        MERGED,
        config={"vision_config.architectures": ["PaddleOCRVisionModel"]},
    ),
    "minicpmv4.6": Tiny(
        "MiniCPMV4_6ForConditionalGeneration",
        {"text_config": TEXT, "vision_config": {**SIGHT, "image_size": 980}, "insert_layer_id": 1},
        {**PIXELS, "scale_resolution": 56},
    ),
    "pixtral": Tiny(
        "LlavaForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "mistral"},
            "vision_config": {**SIGHT, "model_type": "pixtral"},
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        files=IMG_BREAK,
    ),
    "mistral3": Tiny(
        "Mistral3ForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "mistral"},
            "vision_config": {**SIGHT, "model_type": "pixtral", "hidden_act": "silu"},
            "spatial_merge_size": 2,
        },
        files=IMG_BREAK,
    ),
    "lightonocr": Tiny(
        "LightOnOcrForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "qwen3"},
            "vision_config": {**SIGHT, "model_type": "pixtral"},
            "spatial_merge_size": 2,
        },
        config={"architectures": ["LightOnOCRForConditionalGeneration"]},
    ),
    "llama4": Tiny(
        "Llama4ForConditionalGeneration",
        {
            "text_config": {**TEXT, "num_local_experts": 2, "intermediate_size_mlp": 48},
            "vision_config": {
                **SIGHT,
                "intermediate_size": 128,
                "vision_output_dim": 48,
                "projector_input_dim": 48,
                "projector_output_dim": 48,
                "pixel_shuffle_ratio": 0.5,
            },
        },
    ),
    "internvl": Tiny(
        "InternVLForConditionalGeneration",
        {
            "text_config": {**TEXT, "model_type": "qwen2"},
            "vision_config": {
                **SIGHT,
                "num_hidden_layers": 4,
                "image_size": [56, 56],
                "patch_size": [14, 14],
                "attention_bias": True,
            },
        },
        hub=[("^vision_tower", "model.vision_tower"), ("^multi_modal", "model.multi_modal")],
        config={"vision_config.architectures": ["InternVisionModel"]},
    ),
    "internvl-chat": Tiny(
        settings={
            "architectures": ["InternVLChatModel"],
            "model_type": "internvl_chat",
            "downsample_ratio": 0.5,
            "min_dynamic_patch": 1,
            "max_dynamic_patch": 12,
            "llm_config": {"hidden_size": 32, "architectures": ["Qwen2ForCausalLM"]},
            "vision_config": {
                **SIGHT,
                "num_hidden_layers": 4,
                "architectures": ["InternVisionModel"],
                "layer_norm_eps": 1e-6,
                "hidden_act": "gelu",
            },
        },
        shapes=INTERN,
    ),
    "voxtral": Tiny("VoxtralForConditionalGeneration", {"text_config": TEXT, "audio_config": HEARING}),
    "qwen2audio": Tiny("Qwen2AudioForConditionalGeneration", {"text_config": TEXT, "audio_config": WHISPER}),
    "audioflamingo3": Tiny(
        "AudioFlamingo3ForConditionalGeneration",
        {"text_config": TEXT, "audio_config": {**HEARING, "intermediate_size": 40}},
    ),
    "ultravox": Tiny(
        settings={
            "architectures": ["UltravoxModel"],
            "model_type": "ultravox",
            "hidden_size": 32,
            "stack_factor": 2,
            "projector_act": "swiglu",
            "audio_config": {**WHISPER, "model_type": "whisper"},
        },
        shapes={
            **whisper("audio_tower."),
            "multi_modal_projector.ln_pre.weight": (64,),
            "multi_modal_projector.linear_1.weight": (48, 64),
            "multi_modal_projector.ln_mid.weight": (24,),
            "multi_modal_projector.linear_2.weight": (32, 24),
        },
    ),
    "glm-asr": Tiny(
        settings={
            "architectures": ["GlmasrModel"],
            "model_type": "Glmasr",
            "lm_config": {"hidden_size": 32},
            "merge_factor": 4,
            "whisper_config": WHISPER,
        },
        shapes={
            **whisper("audio_encoder.whisper.", last_norm=False),
            **module("audio_encoder.layer_norm", 32),
            **module("audio_encoder.adapting.0", 64, 128),
            **module("audio_encoder.adapting.2", 32, 64),
            "audio_encoder.audio_bos_eos_token.weight": (2, 32),
            "model.embed_tokens.weight": (64, 32),
        },
    ),
    "meralion": Tiny(
        settings={
            "architectures": ["MERaLiON2ForConditionalGeneration"],
            "model_type": "meralion2",
            "text_config": {"hidden_size": 32},
            "speech_mlp_scale_factor": 3,
            "speech_config": WHISPER,
        },
        shapes={
            **whisper("speech_encoder."),
            **module("ln_speech", 32),
            **module("speech_audio_adapter.mlp_adapter.0", 48, 96),
            **module("speech_audio_adapter.gate_proj", 40, 48),
            **module("speech_audio_adapter.pool_proj", 40, 48),
            **module("speech_audio_adapter.out_proj", 32, 40),
            "text_decoder.model.embed_tokens.weight": (64, 32),
        },
    ),
    "gemma4": Tiny(
        "Gemma4ForConditionalGeneration",
        {
            "text_config": TEXT,
            "vision_config": GEMMA4_SIGHT,
            "audio_config": None,
        },
        {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]},
    ),
    "gemma4-hearing": Tiny(
        "Gemma4ForConditionalGeneration",
        {
            "text_config": TEXT,
            "vision_config": GEMMA4_SIGHT | {"use_clipped_linears": True},
            "audio_config": GEMMA4_HEARING,
        },
        {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]},
    ),
    "embeddinggemma2": Tiny(
        "Gemma4ForConditionalGeneration",
        {
            "text_config": TEXT,
            "vision_config": GEMMA4_SIGHT | {"use_clipped_linears": True},
            "audio_config": GEMMA4_HEARING,
        },
        {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]},
        hub=[("^model.", "")],
        config={"architectures": ["EmbeddingGemma2Model"]},
    ),
    "kimi-vl": Tiny(
        settings={
            "architectures": ["KimiVLForConditionalGeneration"],
            "model_type": "kimi_vl",
            "text_config": {"hidden_size": 32},
            "vision_config": {**MOON, "init_pos_emb_height": 8, "init_pos_emb_width": 8},
        },
        shapes={
            **moon(32, 40),
            **module("multi_modal_projector.pre_norm", 32),
            **module("multi_modal_projector.linear_1", 128, 128),
            **module("multi_modal_projector.linear_2", 32, 128),
        },
    ),
    "kimi-k2.5": Tiny(
        settings={
            "architectures": ["KimiK25ForConditionalGeneration"],
            "model_type": "kimi_k25_published",  # transformers would read the sizes under other names
            "text_config": {"hidden_size": 32},
            "vision_config": {
                "vt_hidden_size": 128,  # for 16 heads: the converter looks for their number under another name
                "vt_intermediate_size": 40,
                "vt_num_hidden_layers": 3,
                "vt_num_attention_heads": 16,
                "patch_size": 14,
                "init_pos_emb_height": 8,
                "init_pos_emb_width": 8,
                "merge_kernel_size": [2, 2],
            },
        },
        shapes={
            **moon(128, 40),
            **module("mm_projector.pre_norm", 128),
            **module("mm_projector.proj.0", 512, 512),
            **module("mm_projector.proj.2", 32, 512),
        },
        preprocessor={"media_proc_cfg": {**PIXELS, "in_patch_limit": 256}},
    ),
    "glm-5v": Tiny(
        settings={
            "architectures": ["Glm5vForConditionalGeneration"],
            "model_type": "glm5v",
            "text_config": {"hidden_size": 32},
            "vision_config": {**MOON, "num_attention_heads": 2, "init_pos_emb_height": 8, "init_pos_emb_width": 8},
        },
        shapes={
            **moon(32, 40),
            **module("mm_projector.pre_norm", 32),
            **module("mm_projector.linear_1", 128, 128),
            **module("mm_projector.linear_2", 32, 128),
        },
    ),
    "cogvlm": Tiny(
        settings={
            "architectures": ["CogVLMForCausalLM"],
            "model_type": "cogvlm",
            "hidden_size": 32,
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 40,
                "num_hidden_layers": 3,
                "num_heads": 2,
                "image_size": 56,
                "patch_size": 14,
                "layer_norm_eps": 1e-6,
                "hidden_act": "gelu",
            },
        },
        shapes={
            "model.vision.patch_embedding.cls_embedding": (1, 32),
            **module("model.vision.patch_embedding.proj", 32, 3, 14, 14),
            "model.vision.patch_embedding.position_embedding.weight": (17, 32),
            **layers(
                "model.vision.transformer.layers",
                attention__query_key_value=(96, 32),
                attention__dense=(32, 32),
                input_layernorm=(32,),
                post_attention_layernorm=(32,),
                mlp__fc1=(40, 32),
                mlp__fc2=(32, 40),
            ),
            "model.vision.linear_proj.linear_proj.weight": (32, 32),
            **module("model.vision.linear_proj.norm1", 32),
            "model.vision.linear_proj.dense_h_to_4h.weight": (48, 32),
            "model.vision.linear_proj.gate_proj.weight": (48, 32),
            "model.vision.linear_proj.dense_4h_to_h.weight": (32, 48),
            "model.vision.boi": (1, 1, 32),
            "model.vision.eoi": (1, 1, 32),
            "model.embed_tokens.weight": (64, 32),
        },
    ),
    "youtu-vl": Tiny(
        settings={
            "architectures": ["YoutuVLForConditionalGeneration"],
            "model_type": "youtu_vl",
            "hidden_size": 32,
            "vision_config": {**SIGHT, "patch_size": 16, "fullatt_block_indexes": [1], "window_size": 32},
        },
        shapes={
            **module("siglip2.vision_model.embeddings.patch_embedding", 32, 768),
            **layers(
                "siglip2.vision_model.encoder.layers",
                self_attn__q_proj=(32, 32),
                self_attn__k_proj=(32, 32),
                self_attn__v_proj=(32, 32),
                self_attn__out_proj=(32, 32),
                layer_norm1=(32,),
                layer_norm2=(32,),
                mlp__fc1=(40, 32),
                mlp__fc2=(32, 40),
            ),
            **module("siglip2.vision_model.post_layernorm", 32),
            "merger.ln_q.weight": (32,),
            **module("merger.mlp.0", 128, 128),
            **module("merger.mlp.2", 32, 128),
            "model.embed_tokens.weight": (64, 32),
        },
    ),
    "dots.ocr": Tiny(
        settings={
            "architectures": ["DotsOCRForCausalLM"],
            "model_type": "dots_ocr",
            "hidden_size": 32,
            "vision_config": {**SIGHT, "embed_dim": 32, "spatial_merge_size": 2, "rms_norm_eps": 1e-5},
        },
        preprocessor=MERGED,
        shapes={
            **module("vision_tower.patch_embed.patchifier.proj", 32, 3, 14, 14),
            "vision_tower.patch_embed.patchifier.norm.weight": (32,),
            **layers(
                "vision_tower.blocks",
                attn__qkv=[96, 32],
                attn__proj=[32, 32],
                norm1=[32],
                norm2=[32],
                mlp__fc1=[40, 32],
                mlp__fc2=[32, 40],
                mlp__fc3=[40, 32],
            ),
            "vision_tower.post_trunk_norm.weight": (32,),
            **module("vision_tower.merger.ln_q", 32),
            **module("vision_tower.merger.mlp.0", 128, 128),
            **module("vision_tower.merger.mlp.2", 32, 128),
            "model.embed_tokens.weight": (64, 32),
        },
    ),
    **{
        name: Tiny(
            "Qwen3VLForConditionalGeneration",
            {
                "text_config": WITH_MROPE,
                "vision_config": {**QWEN, "deepstack_visual_indexes": [1], "num_position_embeddings": 16},
            },
            {**PIXELS, "size": {"shortest_edge": 3136, "longest_edge": 50176}},
            config={"architectures": [kind]},
        )
        for name, kind in (
            ("qwen4exp", "Qwen4ExpForConditionalGeneration"),
            ("clef", "ClefModel"),
            ("openjev", "OpenJevModel"),
            ("pplx-decider", "PplxDeciderModel"),
        )
    },
    "sarashina2": Tiny(
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": WITH_MROPE,
            "vision_config": {"depth": 3, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        },
        MERGED,
        config={"architectures": ["Sarashina2VisionForCausalLM"]},
    ),
    "ling3vl": Tiny(
        settings={
            "architectures": ["BailingMoeV3VLForConditionalGeneration"],
            "model_type": "bailing_moe_v3_vl",
            "text_config": {"hidden_size": 32, "rms_norm_eps": 1e-5},
            "vision_config": {
                **QWEN,
                "out_hidden_size": 128,
                "num_position_embeddings": 16,
                "patch_size": 16,
                "spatial_merge_size": 2,
                "disable_merger_proj": True,
            },
        },
        shapes={
            "model.visual.patch_embed.proj.weight": (32, 3, 2, 16, 16),
            "model.visual.pos_embed.weight": (16, 32),
            **layers(
                "model.visual.blocks",
                attn__qkv=(96, 32),
                attn__proj=(32, 32),
                norm1=(32,),
                norm2=(32,),
                mlp__linear_fc1=(40, 32),
                mlp__linear_fc2=(32, 40),
            ),
            **module("model.visual.merger.norm", 32),
            **module("linear_proj.0", 48, 128),
            **module("linear_proj.2", 32, 48),
        },
    ),
    "glm5next": Tiny(
        settings={
            "architectures": ["Glm5NextForConditionalGeneration"],
            "model_type": "glm5_next_published",
            "text_config": {"hidden_size": 32},
            "vision_config": {
                **QWEN,
                "image_size": 56,
                "patch_size": 14,
                "hidden_act": "silu",
                "rms_norm_eps": 1e-5,
                "swiglu_limit": 10.0,
                "spatial_merge_size": 2,
            },
        },
        preprocessor={**MERGED, "min_image_tokens": 4, "max_image_tokens": 64},
        shapes={
            **module("model.visual.patch_embed.proj", 32, 3, 2, 14, 14),
            **layers(
                "model.visual.blocks",
                attn__qkv=(96, 32),
                attn__proj=(32, 32),
                attn__q_norm=[16],
                attn__k_norm=[16],
                norm1=[32],
                norm2=[32],
                mlp__gate_proj=(40, 32),
                mlp__up_proj=(40, 32),
                mlp__down_proj=(32, 40),
            ),
            "model.visual.post_layernorm.weight": (32,),
            **module("model.visual.downsample", 32, 32, 2, 2),
            "model.visual.merger.proj.weight": (32, 32),
            **module("model.visual.merger.post_projection_norm", 32),
            "model.visual.merger.gate_proj.weight": (48, 32),
            "model.visual.merger.up_proj.weight": (48, 32),
            "model.visual.merger.down_proj.weight": (32, 48),
        },
    ),
}


def make(name: str, folder: Path, *, hub: bool = True) -> Any:
    """`make_one` of the model of this name."""
    return make_one(MODELS[name], folder, hub=hub)


def make_one(tiny: Tiny, folder: Path, *, hub: bool = True) -> Any:
    """Save the model into `folder`, in bfloat16, and return it (None where transformers has no class for it).

    hub: by the names of folders of the Hub, where transformers 5 has others.

    Every weight is random and depends on its name alone, so that goldens hold for every version of transformers.
    """
    model = None
    if tiny.made:
        kind = getattr(transformers, tiny.made)
        model = kind(kind.config_class(**deepcopy(dict(tiny.settings)))).eval()
        with torch.no_grad():
            for parameter, weight in model.named_parameters():
                weight.copy_(_random(parameter, weight.shape))
            for buffer, limit in model.named_buffers():  # of Gemma 4's linear layers
                if buffer.endswith(("put_min", "put_max")):
                    limit.fill_(-2 if buffer.endswith("min") else 1.5)
        model.save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(tiny.settings))
        tensors = {tensor: _random(tensor, shape) for tensor, shape in tiny.shapes.items()}
    stored = {_hub(tensor, tiny.hub if hub else ()): array.to(torch.bfloat16) for tensor, array in tensors.items()}
    save_file(stored, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for path, value in tiny.config.items():
        *parents, key = path.split(".")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[key] = value
        if value is None:
            del place[key]
    (folder / "config.json").write_text(json.dumps(config))
    for file, content in ({"preprocessor_config.json": tiny.preprocessor} | dict(tiny.files)).items():
        (folder / file).write_text(json.dumps(content))
    return model


def _hub(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    for old, new in patterns:
        name = re.sub(old, new, name)
    return name


def _random(name: str, shape: Sequence[int]) -> torch.Tensor:
    values = torch.from_numpy(
        np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape), np.float32)
    )
    spread = 0.1 * values if len(shape) < 2 else values / int(np.prod(shape[1:])) ** 0.5
    if "norm" in name.lower() and name.endswith("weight") and len(shape) == 1 and "gemma" not in name:
        spread = 1 + spread
    return spread.to(torch.bfloat16).to(torch.float32)
