"""The towers of GLM-4.1V, GLM-4.5V, GLM-OCR and GLM-5-Next: Qwen's blocks, with a convolution and a gated layer behind.

Facts: llama.cpp's conversion/qwen3vl.py and tools/mtmd/models/glm4v.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.rules import Config, Default, Key, Rule, Sizes, always
from requant.encodings import Shape
from requant.ir import Json
from requant.projectors.changes import frames
from requant.projectors.qwen_vl import BLOCK, CONSTANTS, MERGED, NAMES, WITHOUT_MODEL, fused, gated, norms
from requant.projectors.rules import PREPROCESSOR, Folder, Projector, computed, linear, norm
from requant.projectors.settings import whole
from requant.projectors.sizes import count, divided
from requant.projectors.towers import activation, epsilon, kind, vision_keys, vision_sizes

_VISION: Final = "vision_config."


def _glm_sizes(values: Config, config: Config, shapes: Mapping[str, Shape]) -> Sizes:
    """The merger's width is the text model's; how wide its gate is, only the tensors say."""
    sizes = vision_sizes(values)
    patches = divided(count(values, "vision.image_size"), sizes["patch"], "vision.image_size")
    gate = shapes.get("visual.merger.gate_proj.weight", (0,))
    gated = shapes.get("visual.blocks.0.mlp.gate_proj.weight", (sizes["ffn"],))
    return sizes | {
        "positions": patches**2,
        "merged": whole(config, _VISION + "out_hidden_size", sizes["text"]),
        "context": gate[0],
        "ffn": gated[0],
    }


_TABLE: Final = "visual.embeddings.position_embedding.weight"


def _told(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """Biases, and the width of the merger's output; the network of its blocks is as wide as that."""
    return {
        _VISION + "out_hidden_size": shapes.get("visual.downsample.weight", (0,))[0],
        _VISION + "attention_bias": "visual.blocks.0.attn.qkv.bias" in shapes,
        _VISION + "hidden_act": "gelu" if values.get("use_gelu") is True else "silu",
        PREPROCESSOR + "patch_size": values.get("vision.patch_size"),
    }


def _folder(text: str, name: str, model_type: str, *, table: bool) -> Folder:
    """One of these models. table: whether its tower has one of positions."""
    return Folder(
        (text,),
        name,
        model_type,
        spelled=((r"^visual\.", "model.visual."),),
        settings={
            _VISION + "model_type": f"{model_type}_vision",
            PREPROCESSOR + "merge_size": 2,
            PREPROCESSOR + "temporal_patch_size": 2,
            PREPROCESSOR + "image_processor_type": "Glm4vImageProcessor",
        },
        told=_told,
        tokens={
            "image_token_id": "<|image|>",
            "video_token_id": "<|video|>",
            **{
                f"{kind}_{at}_token_id": f"<|{word}_of_{kind}|>"
                for kind in ("image", "video")
                for at, word in (("start", "begin"), ("end", "end"))
            },
        },
        text_type=f"{model_type}_text",
        suits=lambda values, shapes: (_TABLE in shapes) is table,
    )


GLM4V: Final = Projector(
    name="glm4v",
    classes=("Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration", "GlmOcrForConditionalGeneration"),
    kinds=("glm4v",),
    keys=(
        *vision_keys(names=NAMES, defaults={"patch_size": 14}),
        kind("glm4v"),
        *activation(_VISION + "hidden_act", needed=False),
        epsilon(_VISION + "rms_norm_eps", 1e-5),
    ),
    rules=(
        *frames("visual.patch_embed.proj.weight"),
        Rule("visual.patch_embed.proj.bias", "v.patch_embd.bias", ("embd",)),
        Rule(_TABLE, "v.position_embd.weight", ("positions", "embd"), when="table"),
        Rule("visual.post_conv_layernorm.weight", "v.norm_embd.weight", ("embd",), when="first_norm"),
        *norms(None),
        *fused("qkv_bias"),
        Rule(BLOCK + "attn.q_norm.weight", "v.blk.{n}.attn_q_norm.weight", ("head",), when="head_norms"),
        Rule(BLOCK + "attn.k_norm.weight", "v.blk.{n}.attn_k_norm.weight", ("head",), when="head_norms"),
        *gated("mlp_bias"),
        *norm("visual.post_layernorm", "v.post_ln", bias=None),
        *linear("visual.downsample", "mm.patch_merger", ("merged", "embd", "2", "2")),
        *linear("visual.merger.proj", "mm.model.fc", ("merged", "merged"), None),
        *norm("visual.merger.post_projection_norm", "mm.post_norm", "merged"),
        *linear("visual.merger.gate_proj", "mm.gate", ("context", "merged"), None),
        *linear("visual.merger.up_proj", "mm.up", ("context", "merged"), None),
        *linear("visual.merger.down_proj", "mm.down", ("merged", "context"), None),
    ),
    sizes=_glm_sizes,
    renamed=WITHOUT_MODEL,
    present={
        "table": re.escape(_TABLE),
        "first_norm": r"visual\.post_conv_layernorm\.weight",
        "qkv_bias": r"visual\.blocks\.\d+\.attn\.qkv\.bias",
        "head_norms": r"visual\.blocks\.\d+\.attn\.q_norm\.weight",
        "mlp_bias": r"visual\.blocks\.\d+\.mlp\.gate_proj\.bias",
    },
    assumptions=(*CONSTANTS, MERGED),
    folders=(
        _folder("glm4", "Glm4vForConditionalGeneration", "glm4v", table=True),
        _folder("glm4", "GlmOcrForConditionalGeneration", "glm_ocr", table=False),
        _folder("glm4moe", "Glm4vMoeForConditionalGeneration", "glm4v_moe", table=True),
    ),
)


def _tokens(name: str) -> Default:
    """The least or the most tokens of a picture, as pixels."""

    def value(config: Config) -> Json:
        if config.get(PREPROCESSOR + name) is None:
            return None
        edge = whole(config, f"{PREPROCESSOR}patch_size", 14) * whole(config, f"{PREPROCESSOR}merge_size", 2)
        return whole(config, PREPROCESSOR + name) * edge**2

    return value


GLM5_NEXT: Final = replace(
    GLM4V,
    name="glm5-next",
    classes=("Glm5NextForConditionalGeneration",),
    folders=(),
    kinds=("glm5v",),
    keys=(
        *(kind("glm5v") if key.ggml == "projector_type" else key for key in GLM4V.keys),
        Key((_VISION + "spatial_merge_size",), "vision.spatial_merge_size", "u32", always(2)),
        Key((_VISION + "swiglu_limit",), "vision.swiglu_clamp", "f32", always(None)),
        computed("vision.image_min_pixels", "u32", _tokens("min_image_tokens")),
        computed("vision.image_max_pixels", "u32", _tokens("max_image_tokens")),
    ),
)
