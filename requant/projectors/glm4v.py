"""The towers of GLM-4.1V, GLM-4.5V, GLM-OCR and GLM-5-Next: Qwen's blocks, with a convolution and a gated layer behind.

Facts: llama.cpp's conversion/qwen3vl.py and tools/mtmd/models/glm4v.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.rules import Config, Default, Key, Rule, Sizes, always
from requant.encodings import Shape
from requant.ir import Json
from requant.projectors.changes import frames
from requant.projectors.qwen_vl import BLOCK, CONSTANTS, MERGED, NAMES, WITHOUT_MODEL, fused, gated, norms
from requant.projectors.rules import PREPROCESSOR, Projector, computed, linear, norm
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
        Rule(
            "visual.embeddings.position_embedding.weight", "v.position_embd.weight", ("positions", "embd"), when="table"
        ),
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
        "table": r"visual\.embeddings\.position_embedding\.weight",
        "first_norm": r"visual\.post_conv_layernorm\.weight",
        "qkv_bias": r"visual\.blocks\.\d+\.attn\.qkv\.bias",
        "head_norms": r"visual\.blocks\.\d+\.attn\.q_norm\.weight",
        "mlp_bias": r"visual\.blocks\.\d+\.mlp\.gate_proj\.bias",
    },
    assumptions=(*CONSTANTS, MERGED),
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
    kinds=("glm5v",),
    keys=(
        *(kind("glm5v") if key.ggml == "projector_type" else key for key in GLM4V.keys),
        Key((_VISION + "spatial_merge_size",), "vision.spatial_merge_size", "u32", always(2)),
        Key((_VISION + "swiglu_limit",), "vision.swiglu_clamp", "f32", always(None)),
        computed("vision.image_min_pixels", "u32", _tokens("min_image_tokens")),
        computed("vision.image_max_pixels", "u32", _tokens("max_image_tokens")),
    ),
)
