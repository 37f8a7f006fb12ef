"""Pixtral's tower, rows and columns as rotary positions: Pixtral, Mistral Small 3.1 and later, LightOnOCR.

Facts: llama.cpp's conversion/llava.py, lighton_ocr.py and tools/mtmd/models/pixtral.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.rules import Assumption, Config, Key, Order, Rule, Sizes, always
from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import Json
from requant.projectors.changes import Row
from requant.projectors.rules import Folder, Projector, linear, norm, processors
from requant.projectors.settings import whole
from requant.projectors.sizes import count
from requant.projectors.towers import activation, epsilon, kind, vision_keys, vision_sizes

_VISION: Final = "vision_config."
_LAYER: Final = "vision_tower.transformer.layers.{n}."
_BLOCK: Final = "v.blk.{n}."
#: The token at the end of each row of patches; what computed settings call its number.
BREAK: Final = "[IMG_BREAK]"
BREAK_TOKEN: Final = "img_break"


def _takes(config: Config) -> str:
    found = config.get(_VISION + "model_type")
    if found == "pixtral":
        return ""
    return f"its vision model is {found!r}, and llama.cpp's converter takes 'pixtral' only"


def _sizes(values: Config, config: Config, shapes: Mapping[str, Shape]) -> Sizes:
    vocabulary = next((shape[0] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")), 0)
    return vision_sizes(values) | {"vocab": vocabulary, "break": _break(config, vocabulary)}


def _break(config: Config, vocabulary: int) -> int:
    found = whole(config, BREAK_TOKEN, 0)
    if found >= max(vocabulary, 1):
        raise PlanError(f"tokenizer.json: {BREAK} is token {found}, but the embedding has {vocabulary} rows")
    return found


def _told(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """Whether the projector has biases, and what the tower's networks compute."""
    return {
        _VISION + "hidden_act": "silu" if values.get("use_silu") is True else "gelu",
        "multimodal_projector_bias": "multi_modal_projector.linear_1.bias" in shapes,
        "preprocessor.patch_size": values.get("vision.patch_size"),
        "preprocessor.size": {"longest_edge": values.get("vision.image_size")},
    }


_SETTINGS: Final[Mapping[str, Json]] = {
    "vision_config.model_type": "pixtral",
    "projector_hidden_act": "gelu",
    **processors("Pixtral"),
}
_MERGE: Final = "vision.spatial_merge_size"

PIXTRAL: Final = Projector(
    name="pixtral",
    classes=("LlavaForConditionalGeneration", "Mistral3ForConditionalGeneration"),
    kinds=("pixtral",),
    keys=(
        *vision_keys(
            defaults={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 1024,
                "patch_size": 16,
            }
        ),
        kind("pixtral"),
        epsilon(_VISION + "layer_norm_eps", 1e-5),
        *activation(_VISION + "hidden_act", "gelu"),
        Key(("spatial_merge_size",), "vision.spatial_merge_size", "u32", always(None)),
    ),
    rules=(
        Rule("vision_tower.patch_conv.weight", "v.patch_embd.weight", ("embd", "3", "patch", "patch")),
        *norm("vision_tower.ln_pre", "v.pre_ln", bias=None),
        *norm(_LAYER + "attention_norm", _BLOCK + "ln1", bias=None),
        Rule(_LAYER + "attention.q_proj.weight", _BLOCK + "attn_q.weight", ("embd", "embd"), Order.ROPE),
        Rule(_LAYER + "attention.k_proj.weight", _BLOCK + "attn_k.weight", ("embd", "embd"), Order.ROPE),
        Rule(_LAYER + "attention.v_proj.weight", _BLOCK + "attn_v.weight", ("embd", "embd")),
        Rule(_LAYER + "attention.o_proj.weight", _BLOCK + "attn_out.weight", ("embd", "embd")),
        *norm(_LAYER + "ffn_norm", _BLOCK + "ln2", bias=None),
        Rule(_LAYER + "feed_forward.gate_proj.weight", _BLOCK + "ffn_gate.weight", ("ffn", "embd")),
        Rule(_LAYER + "feed_forward.up_proj.weight", _BLOCK + "ffn_up.weight", ("ffn", "embd")),
        Rule(_LAYER + "feed_forward.down_proj.weight", _BLOCK + "ffn_down.weight", ("embd", "ffn")),
        Rule("multi_modal_projector.norm.weight", "mm.input_norm.weight", ("embd",), when="merger"),
        Rule(
            "multi_modal_projector.patch_merger.merging_layer.weight",
            "mm.patch_merger.weight",
            ("embd", "merge*merge*embd"),
            when="merger",
        ),
        *linear("multi_modal_projector.linear_1", "mm.1", ("text", "embd"), "bias"),
        *linear("multi_modal_projector.linear_2", "mm.2", ("text", "text"), "bias"),
        Rule(
            "embed_tokens.weight",
            "v.token_embd.img_break",
            ("vocab", "text"),
            changes=(Row("break"),),
            flat=("text",),
            when="break",
        ),
    ),
    sizes=lambda values, config, shapes: {
        **_sizes(values, config, shapes),
        "merge": count(values, "vision.spatial_merge_size") if "vision.spatial_merge_size" in values else 1,
    },
    renamed=(
        (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
        (r"^(?:model\.)?(?:language_model\.)?(?:model\.)?embed_tokens\.weight$", "embed_tokens.weight"),
    ),
    present={
        "merger": r"multi_modal_projector\.patch_merger\.merging_layer\.weight",
        "bias": r"multi_modal_projector\.linear_1\.bias",
    },
    flags=lambda config: {"break": whole(config, BREAK_TOKEN, 0) > 0},
    takes=_takes,
    assumptions=(
        Assumption("vision_feature_layer", (-1,), -1, loss="llama.cpp takes the output of the last layer"),
        Assumption(_VISION + "num_channels", (3,), 3),
    ),
    tokens={BREAK_TOKEN: BREAK},
    folders=(
        Folder(
            ("llama", "mistral3"),
            "Mistral3ForConditionalGeneration",
            "mistral3",
            "language_model.model.",
            settings=_SETTINGS,
            told=_told,
            tokens={"image_token_index": "[IMG]"},
            suits=lambda values, shapes: _MERGE in values,
        ),
        Folder(
            ("llama",),
            "LlavaForConditionalGeneration",
            "llava",
            "language_model.model.",
            settings={**_SETTINGS, "vision_feature_select_strategy": "full"},
            told=_told,
            tokens={"image_token_index": "[IMG]"},
            suits=lambda values, shapes: _MERGE not in values,
        ),
    ),
)

LIGHTON_OCR: Final = replace(
    PIXTRAL,
    name="lightonocr",
    classes=("LightOnOCRForConditionalGeneration", "LightOnOcrForConditionalGeneration"),
    kinds=("lightonocr",),
    keys=tuple(kind("lightonocr") if key.ggml == "projector_type" else key for key in PIXTRAL.keys),
    renamed=(
        (r"^(?:model\.)?vision_encoder\.", "vision_tower."),
        (r"^(?:model\.)?vision_projection\.", "multi_modal_projector."),
        *PIXTRAL.renamed,
    ),
    tokens={},
    folders=(),
)
