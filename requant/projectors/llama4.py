"""Llama 4's tower: a class token, rotary positions, pixels shuffled into wider patches.

llama.cpp's converter calls the norm before the feed-forward network as Gemma 4's norm after attention is called, which
its runtime then applies elsewhere; the name here is the one under which the runtime computes what transformers does.
Facts: llama.cpp's conversion/llama4.py, tools/mtmd/clip.cpp and models/llama4.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Assumption, Config, Rule, Sizes
from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import Json
from requant.projectors.rules import Folder, Projector, computed, linear, norm, processors
from requant.projectors.settings import whole
from requant.projectors.sizes import count
from requant.projectors.towers import epsilon, gelu, kind, positions, siglip_layers, vision_keys, vision_sizes

_VISION: Final = "vision_config."
_LAYER: Final = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.fc1",
    "mlp.fc2",
)


def _scale(config: Config) -> Json:
    ratio = config.get(_VISION + "pixel_shuffle_ratio", 0.5)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise PlanError(f"config.json: {_VISION}pixel_shuffle_ratio is {shown(ratio)}, a number up to 1 is needed")
    return int(1 / ratio)


def _sizes(values: Config, config: Config, shapes: Mapping[str, Shape]) -> Sizes:
    output = whole(config, _VISION + "projector_output_dim", 4096)
    return vision_sizes(values) | {
        "positions": positions(values) + 1,
        "scale": count(values, "vision.projector.scale_factor"),
        "input": whole(config, _VISION + "projector_input_dim", output),
        "output": output,
        "vision": whole(config, _VISION + "vision_output_dim", output),
    }


def _told(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """The widths behind the tower, which only tensors say."""
    edge = values.get("vision.image_size")
    adapter = "vision_model.vision_adapter.mlp.fc{}.weight"
    return {
        _VISION + "pixel_shuffle_ratio": 1 / count(values, "vision.projector.scale_factor"),
        _VISION + "projector_input_dim": shapes.get(adapter.format(1), (0,))[0],
        _VISION + "projector_output_dim": shapes.get(adapter.format(2), (0,))[0],
        _VISION + "vision_output_dim": shapes.get("multi_modal_projector.linear_1.weight", (0,))[-1],
        "preprocessor.size": {"height": edge, "width": edge},
    }


LLAMA4: Final = Projector(
    name="llama4",
    classes=("Llama4ForConditionalGeneration",),
    kinds=("llama4",),
    keys=(
        *vision_keys(
            defaults={
                "hidden_size": 768,
                "num_hidden_layers": 34,
                "num_attention_heads": 16,
                "intermediate_size": 5632,
                "image_size": 448,
                "patch_size": 14,
            }
        ),
        kind("llama4"),
        epsilon(_VISION + "norm_eps", 1e-5),
        computed("vision.projector.scale_factor", "u32", _scale),
        gelu(),
    ),
    rules=(
        Rule("vision_model.class_embedding", "v.class_embd", ("embd",)),
        Rule("vision_model.patch_embedding.linear.weight", "v.patch_embd.weight", ("embd", "3*patch*patch")),
        Rule("vision_model.positional_embedding_vlm", "v.position_embd.weight", ("positions", "embd")),
        *norm("vision_model.layernorm_pre", "v.pre_ln"),
        *siglip_layers("vision_model.model.layers.{n}.", _LAYER),
        *norm("vision_model.layernorm_post", "v.post_ln"),
        *linear("vision_model.vision_adapter.mlp.fc1", "mm.model.mlp.1", ("input", "scale*scale*embd"), None),
        *linear("vision_model.vision_adapter.mlp.fc2", "mm.model.mlp.2", ("output", "output"), None),
        *linear("multi_modal_projector.linear_1", "mm.model.fc", ("text", "vision"), None),
    ),
    sizes=_sizes,
    assumptions=(Assumption(_VISION + "hidden_act", ("gelu",), "gelu"),),
    folders=(
        Folder(
            ("llama4",),
            "Llama4ForConditionalGeneration",
            "llama4",
            "language_model.model.",
            settings={
                "vision_config.model_type": "llama4_vision_model",
                **processors("Llama4"),
            },
            told=_told,
            tokens={
                "image_token_index": "<|patch|>",
                "boi_token_index": "<|image_start|>",
                "eoi_token_index": "<|image_end|>",
            },
        ),
    ),
)
