"""Gemma 3: a SigLIP whose patches are averaged, and one matrix.

Facts: llama.cpp's conversion/gemma.py and tools/mtmd/models/siglip.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Final

from requant.architectures.rules import Config, Order, Rule
from requant.encodings import Shape
from requant.ir import Json
from requant.projectors.rules import Folder, Projector, computed, processors
from requant.projectors.settings import whole
from requant.projectors.sizes import count
from requant.projectors.towers import (
    POSITIONS_F32,
    epsilon,
    gelu,
    kind,
    pooling_head,
    siglip,
    sizes_with_positions,
    vision_keys,
)

#: What transformers' SigLIP is where config.json is silent.
SIGLIP_DEFAULTS: Final[Mapping[str, Json]] = {
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def _scale(config: Config) -> Json:
    """Patches of a side that are averaged, where they are not the usual four."""
    tokens = whole(config, "preprocessor.image_seq_length", whole(config, "mm_tokens_per_image", 256))
    image, patch = whole(config, "vision_config.image_size"), whole(config, "vision_config.patch_size")
    factor = (image // patch) // isqrt(tokens)
    return factor if factor not in (0, 4) else None


def _told(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """The tokens of a picture; pictures are squares of the size that the tower is made for."""
    edge = count(values, "vision.image_size")
    factor = count(values, "vision.projector.scale_factor") if "vision.projector.scale_factor" in values else 4
    tokens = (edge // count(values, "vision.patch_size") // factor) ** 2
    return {
        "mm_tokens_per_image": tokens,
        "preprocessor.image_seq_length": tokens,
        "preprocessor.size": {"height": edge, "width": edge},
    }


GEMMA3: Final = Projector(
    name="gemma3",
    classes=("Gemma3ForConditionalGeneration",),
    kinds=("gemma3",),
    keys=(
        *vision_keys(defaults=SIGLIP_DEFAULTS),
        kind("gemma3"),
        epsilon("vision_config.layer_norm_eps", 1e-6),
        gelu(),
        computed("vision.projector.scale_factor", "u32", _scale),
    ),
    rules=(
        *siglip("vision_tower."),
        # transposed by neither: llama.cpp does it when it computes
        Rule("multi_modal_projector.mm_input_projection_weight", "mm.input_projection.weight", ("embd", "text")),
        Rule(
            "multi_modal_projector.mm_soft_emb_norm.weight", "mm.soft_emb_norm.weight", ("embd",), Order.SAME, add=1.0
        ),
    ),
    sizes=sizes_with_positions,
    renamed=(
        (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
        (r"^vision_tower\.vision_model\.", "vision_tower."),
    ),
    ignored=(pooling_head(r"vision_tower\."),),
    forced=((r"mm\.input_projection\.weight", "F16"), POSITIONS_F32, (r"v\.patch_embd\..*", "F32")),
    folders=(
        Folder(
            ("gemma3",),
            "Gemma3ForConditionalGeneration",
            "gemma3",
            "language_model.model.",
            settings={
                "vision_config.model_type": "siglip_vision_model",
                "vision_config.vision_use_head": False,
                **processors("Gemma3"),
            },
            told=_told,
            tokens={
                "image_token_index": "<image_soft_token>",
                "boi_token_index": "<start_of_image>",
                "eoi_token_index": "<end_of_image>",
            },
        ),
    ),
)
