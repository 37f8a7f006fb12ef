"""Towers of a kind of their own that the authors' code has: CogVLM, Youtu-VL, dots.ocr.

Facts: llama.cpp's conversion/cogvlm.py, youtuvl.py, dotsocr.py and gguf-py/gguf/tensor_mapping.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Assumption, Config, Default, Key, Rule, always
from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import Json
from requant.projectors.qwen_vl import pixels
from requant.projectors.rules import Projector, computed, linear, norm, without, written
from requant.projectors.sizes import count
from requant.projectors.towers import epsilon, kind, positions, siglip_layers, silu, vision_keys, vision_sizes

_VISION: Final = "vision_config."
_BLOCK: Final = "v.blk.{n}."


def _rows(shapes: Mapping[str, Shape], name: str) -> int:
    """Rows of a tensor, where config.json does not say them."""
    return shapes.get(name, (0,))[0]


_COG: Final = "model.vision.transformer.layers.{n}."
_COG_LINEAR: Final = "model.vision.linear_proj."
COGVLM: Final = Projector(
    name="cogvlm",
    classes=("CogVLMForCausalLM",),
    kinds=("cogvlm",),
    keys=(
        *vision_keys(names={"num_attention_heads": ("num_attention_heads", "num_heads")}),
        epsilon(_VISION + "layer_norm_eps", 1e-6),
        kind("cogvlm"),
    ),
    rules=(
        Rule("model.vision.patch_embedding.cls_embedding", "v.class_embd", ("1", "embd")),
        *linear("model.vision.patch_embedding.proj", "v.patch_embd", ("embd", "3", "patch", "patch")),
        Rule("model.vision.patch_embedding.position_embedding.weight", "v.position_embd.weight", ("positions", "embd")),
        *linear(_COG + "attention.query_key_value", _BLOCK + "attn_qkv", ("3*embd", "embd")),
        *linear(_COG + "attention.dense", _BLOCK + "attn_out", ("embd", "embd")),
        *norm(_COG + "input_layernorm", _BLOCK + "ln1"),
        *norm(_COG + "post_attention_layernorm", _BLOCK + "ln2"),
        *linear(_COG + "mlp.fc1", _BLOCK + "ffn_up", ("ffn", "embd")),
        *linear(_COG + "mlp.fc2", _BLOCK + "ffn_down", ("embd", "ffn")),
        Rule(_COG_LINEAR + "linear_proj.weight", "mm.model.fc.weight", ("text", "embd")),
        *norm(_COG_LINEAR + "norm1", "mm.post_fc_norm", "text"),
        Rule(_COG_LINEAR + "dense_h_to_4h.weight", "mm.up.weight", ("wide", "text")),
        Rule(_COG_LINEAR + "gate_proj.weight", "mm.gate.weight", ("wide", "text")),
        Rule(_COG_LINEAR + "dense_4h_to_h.weight", "mm.down.weight", ("text", "wide")),
        Rule("model.vision.boi", "v.boi", ("1", "1", "text")),
        Rule("model.vision.eoi", "v.eoi", ("1", "1", "text")),
    ),
    sizes=lambda values, config, shapes: (
        vision_sizes(values)
        | {"positions": positions(values) + 1, "wide": _rows(shapes, _COG_LINEAR + "dense_h_to_4h.weight")}
    ),
    assumptions=(Assumption(_VISION + "hidden_act", ("gelu",), "gelu"),),
)


def _activation(name: str) -> Default:
    """One of two, by any of the names of the approximations."""

    def value(config: Config) -> Json:
        said = config.get(_VISION + "hidden_act", "gelu_pytorch_tanh")
        gelus = ("gelu", "gelu_pytorch_tanh", "gelu_fast", "gelu_new", "gelu_accurate")
        if said not in (*gelus, "silu"):
            raise PlanError(f"config.json: {_VISION}hidden_act is {shown(said)}; llama.cpp has gelu and silu only")
        return True if (name == "gelu") == (said in gelus) else None

    return value


def _full(config: Config) -> Json:
    """The layers in which every patch attends to all."""
    listed = config.get(_VISION + "fullatt_block_indexes")
    if not isinstance(listed, list):
        raise PlanError(f"config.json: {_VISION}fullatt_block_indexes is {shown(listed)}, a list of layers is needed")
    return listed


YOUTU_VL: Final = Projector(
    name="youtu-vl",
    classes=("YoutuVLForConditionalGeneration",),
    kinds=("youtuvl",),
    keys=(
        *vision_keys(defaults={"image_size": 560, "patch_size": 16}),
        kind("youtuvl"),
        epsilon(_VISION + "layer_norm_eps", 1e-6),
        Key((), "use_gelu", "bool", _activation("gelu")),
        Key((), "use_silu", "bool", _activation("silu")),
        Key((_VISION + "spatial_merge_size",), "vision.spatial_merge_size", "u32", always(2)),
        Key((_VISION + "window_size",), "vision.window_size", "u32", always(None)),
        computed("vision.wa_layer_indexes", "[i32]", _full),
    ),
    rules=(
        *linear("siglip2.vision_model.embeddings.patch_embedding", "v.patch_embd", ("embd", "3*patch*patch")),
        *siglip_layers("siglip2.vision_model.encoder.layers.{n}."),
        *norm("siglip2.vision_model.post_layernorm", "v.post_ln"),
        *norm("merger.ln_q", "mm.input_norm", bias="norm_bias"),
        *linear("merger.mlp.0", "mm.0", ("4*embd", "4*embd")),
        *linear("merger.mlp.2", "mm.2", ("text", "4*embd")),
    ),
    sizes=lambda values, config, shapes: vision_sizes(values),
    present={"norm_bias": r"merger\.ln_q\.bias"},
    assumptions=(Assumption(_VISION + "spatial_merge_size", (2,), 2),),
)

_DOTS: Final = "vision_tower.blocks.{n}."
DOTS_OCR: Final = Projector(
    name="dots.ocr",
    classes=("DotsOCRForCausalLM",),
    kinds=("dots_ocr",),
    keys=(
        *without("vision.image_size", vision_keys(defaults={"patch_size": 14})),
        written("vision.image_size", "u32", 0),  # as large as it is
        kind("dots_ocr"),
        pixels("min_pixels"),
        pixels("max_pixels"),
        epsilon(_VISION + "rms_norm_eps"),
        Key((_VISION + "spatial_merge_size",), "vision.projector.scale_factor", "u32"),
        silu(),
    ),
    rules=(
        *linear("vision_tower.patch_embed.patchifier.proj", "v.patch_embd", ("embd", "3", "patch", "patch")),
        *norm("vision_tower.patch_embed.patchifier.norm", "v.pre_ln", bias=None),
        *norm(_DOTS + "norm1", _BLOCK + "ln1", bias=None),
        *linear(_DOTS + "attn.qkv", _BLOCK + "attn_qkv", ("3*embd", "embd"), "bias"),
        *linear(_DOTS + "attn.proj", _BLOCK + "attn_out", ("embd", "embd"), "bias"),
        *norm(_DOTS + "norm2", _BLOCK + "ln2", bias=None),
        *linear(_DOTS + "mlp.fc1", _BLOCK + "ffn_gate", ("ffn", "embd"), "bias"),
        *linear(_DOTS + "mlp.fc3", _BLOCK + "ffn_up", ("ffn", "embd"), "bias"),
        *linear(_DOTS + "mlp.fc2", _BLOCK + "ffn_down", ("embd", "ffn"), "bias"),
        *norm("vision_tower.post_trunk_norm", "mm.post_norm", bias=None),
        *norm("vision_tower.merger.ln_q", "mm.input_norm"),
        *linear("vision_tower.merger.mlp.0", "mm.0", ("merge*merge*embd", "merge*merge*embd")),
        *linear("vision_tower.merger.mlp.2", "mm.2", ("text", "merge*merge*embd")),
    ),
    sizes=lambda values, config, shapes: (
        vision_sizes(values) | {"merge": count(values, "vision.projector.scale_factor")}
    ),
    present={"bias": r"vision_tower\.blocks\.\d+\.attn\.qkv\.bias"},
    assumptions=(Assumption(_VISION + "temporal_patch_size", (1,), 1),),
)
