"""The way back of the towers of `requant.projectors.qwen_vl`: what config.json says that no key of a GGUF does.

Facts: transformers' configuration_qwen2_vl.py to configuration_qwen3_5_moe.py; llama.cpp's tools/mtmd/clip.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from requant.architectures.rules import Config
from requant.encodings import Shape
from requant.ir import Json
from requant.projectors.rules import PREPROCESSOR, Folder
from requant.projectors.sizes import count

_VISION: Final = "vision_config."
#: Layers that attend to all patches, and those whose output enters the text model.
FULL: Final = _VISION + "fullatt_block_indexes"
DEEPSTACK: Final = _VISION + "deepstack_visual_indexes"
#: The tokens that stand for pictures and films.
_TOKENS: Final = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
#: In files of transformers 5 the tower is a part of the model.
VISUAL: Final = ((r"^visual\.", "model.visual."),)


def folder(
    text: str,
    name: str,
    model_type: str,
    told: Callable[[Config, Mapping[str, Shape]], Mapping[str, Json]],
    **more: Any,
) -> Folder:
    """One of these models. more: of `Folder`."""
    settings: dict[str, Json] = {
        _VISION + "model_type": f"{model_type}_vision",
        PREPROCESSOR + "merge_size": 2,
        PREPROCESSOR + "temporal_patch_size": 2,
        PREPROCESSOR + "image_processor_type": "Qwen2VLImageProcessor",
    }

    def also(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
        patch = {PREPROCESSOR + "patch_size": values.get("vision.patch_size"), _VISION + "image_size": None}
        return {**patch, **told(values, shapes)}

    return Folder(
        (text,),
        name,
        model_type,
        settings=settings,
        told=also,
        tokens=_TOKENS,
        text_type=f"{model_type}_text",
        **more,
    )


def told_2(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """Config.json calls the text model's width the tower's hidden size, and has a ratio for the network's."""
    width = count(values, "vision.embedding_length")
    rows = shapes.get("visual.blocks.0.mlp.fc1.weight", (0,))[0]
    return {
        _VISION + "hidden_size": values.get("vision.projection_dim"),
        _VISION + "intermediate_size": None,
        _VISION + "mlp_ratio": rows // width if rows % width == 0 else rows / width,
        "rms_norm_eps": None,
    }


def told_25(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """Which layers attend to all patches; the window of the others is a constant of llama.cpp."""
    period, layers = count(values, "vision.n_wa_pattern"), count(values, "vision.block_count")
    return {
        FULL: [*range(period - 1, min(layers, 1 << 16), period)],
        _VISION + "window_size": 112,
        _VISION + "out_hidden_size": values.get("vision.projection_dim"),
        "rms_norm_eps": None,
    }


def told_3(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """The table of positions, and the layers whose output enters the text model."""
    deep = values.get("vision.is_deepstack_layers")
    return {
        _VISION + "num_position_embeddings": shapes.get("visual.pos_embed.weight", (0,))[0],
        DEEPSTACK: [n for n, one in enumerate(deep) if one] if isinstance(deep, list) else [],
        _VISION + "out_hidden_size": values.get("vision.projection_dim"),
    }
