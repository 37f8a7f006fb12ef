"""Towers that are a SigLIP, with what each model puts between it and its text model.

Facts: llama.cpp's conversion/smolvlm.py, lfm2.py, command_r.py, januspro.py, ernie.py, minicpm.py, youtuvl.py and
gguf-py/gguf/tensor_mapping.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Assumption, Config, Ignored, Key, Rule, Sizes, always
from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import Json
from requant.projectors.changes import ColoursFirst
from requant.projectors.gemma3 import SIGLIP_DEFAULTS
from requant.projectors.qwen_vl import pixels
from requant.projectors.rules import (
    PREPROCESSOR,
    Folder,
    Projector,
    computed,
    linear,
    norm,
    processors,
    without,
    written,
)
from requant.projectors.settings import whole
from requant.projectors.sizes import count, divided
from requant.projectors.towers import (
    activation,
    embeddings,
    epsilon,
    gelu,
    kind,
    pooling_head,
    siglip,
    siglip_layers,
    sizes_with_positions,
    vision_keys,
    vision_sizes,
)

_VISION: Final = "vision_config."
#: transformers 5 leaves out a level of names that folders of the Hub have.
_FLAT: Final = (
    (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)
#: As transformers 5 saves both.
_WITH_MODEL: Final = ((r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),)
_EMBEDDINGS_F32: Final = (r"v\.(?:patch|position)_embd\..*", "F32")


def _longest(config: Config) -> Json:
    """The edge to which pictures are resized before they are cut."""
    size = config.get(f"{PREPROCESSOR}size")
    edge = size.get("longest_edge") if isinstance(size, dict) else None
    return edge if edge is not None else config.get(_VISION + "image_size")


def _pictures(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """How large pictures are made before they are cut, and their parts."""
    return {
        f"{PREPROCESSOR}size": {"longest_edge": values.get("vision.preproc_image_size")},
        f"{PREPROCESSOR}max_image_size": {"longest_edge": values.get("vision.image_size")},
    }


SMOLVLM: Final = Projector(
    name="idefics3",
    classes=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    kinds=("idefics3",),
    keys=(
        *vision_keys(
            defaults={
                "hidden_size": 1152,
                "num_attention_heads": 16,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "image_size": 224,
                "patch_size": 32,
            }
        ),
        kind("idefics3"),
        epsilon(_VISION + "layer_norm_eps", 1e-5),
        Key(("scale_factor",), "vision.projector.scale_factor", "u32", always(2)),
        gelu(),
        computed("vision.preproc_image_size", "u32", _longest),
    ),
    rules=(
        *siglip("model.vision_model."),
        Rule("model.connector.modality_projection.proj.weight", "mm.model.fc.weight", ("text", "scale*scale*embd")),
    ),
    sizes=lambda values, config, shapes: (
        sizes_with_positions(values, config, shapes) | {"scale": count(values, "vision.projector.scale_factor")}
    ),
    renamed=((r"^vision_model\.", "model.vision_model."), (r"^connector\.", "model.connector.")),
    forced=(_EMBEDDINGS_F32,),
    folders=(
        Folder(
            ("llama",),
            "SmolVLMForConditionalGeneration",  # an Idefics 3 is the same by another name
            "smolvlm",
            "model.text_model.",
            settings={
                "vision_config.model_type": "smolvlm_vision",
                **processors("SmolVLM"),
            },
            told=_pictures,
            tokens={"image_token_id": "<image>"},
        ),
    ),
)


def _resampling(config: Config) -> Json:
    """How pictures are resized; PIL numbers the ways."""
    said = config.get(f"{PREPROCESSOR}resample")
    known: dict[object, str] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int) or said not in known:
        raise PlanError(f"preprocessor_config.json: resample is {shown(said)}; llama.cpp knows 1, 2 and 3")
    return known[said]


def _dropped(config: Config) -> int:
    """Last layers that the projector does not see the output of."""
    layer = config.get("vision_feature_layer", -1)
    if isinstance(layer, bool) or not isinstance(layer, int) or not -1000 < layer < 0:
        raise PlanError(f"config.json: vision_feature_layer is {shown(layer)}, a number below 0 is needed")
    return -(layer + 1)


def _told_lfm2(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """Widths and biases of the projector; of the tower, the layers that it sees the output of."""
    ways = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
    return {
        _VISION + "image_size": None,
        _VISION + "num_hidden_layers": values.get("vision.block_count"),
        _VISION + "num_patches": shapes.get("vision_tower.embeddings.position_embedding.weight", (0,))[0],
        "projector_hidden_size": shapes.get("multi_modal_projector.linear_1.weight", (0,))[0],
        "projector_bias": "multi_modal_projector.linear_1.bias" in shapes,
        "projector_use_layernorm": "multi_modal_projector.layer_norm.weight" in shapes,
        f"{PREPROCESSOR}resample": ways.get(str(values.get("vision.image_resize_algo"))),
    }


_LFM2_LAYERS: Final = _VISION + "num_hidden_layers"
LFM2_VL: Final = Projector(
    name="lfm2",
    classes=("Lfm2VlForConditionalGeneration",),
    kinds=("lfm2",),
    keys=(
        *without("vision.image_size", vision_keys(defaults=SIGLIP_DEFAULTS)),
        written("vision.image_size", "u32", 256),
        kind("lfm2"),
        epsilon(_VISION + "layer_norm_eps", 1e-6),
        Key(("downsample_factor",), "vision.projector.scale_factor", "u32", always(2)),
        gelu(),
        computed("vision.block_count", "u32", lambda config: whole(config, _LFM2_LAYERS, 12) - _dropped(config)),
        computed("vision.image_resize_algo", "str", _resampling),
    ),
    rules=(
        Rule(
            "vision_tower.embeddings.patch_embedding.weight",
            "v.patch_embd.weight",
            ("embd", "3*patch*patch"),
            changes=(ColoursFirst(),),
            flat=("embd", "3", "patch", "patch"),
        ),
        Rule("vision_tower.embeddings.patch_embedding.bias", "v.patch_embd.bias", ("embd",)),
        Rule("vision_tower.embeddings.position_embedding.weight", "v.position_embd.weight", ("positions", "embd")),
        *siglip_layers("vision_tower.encoder.layers.{n}."),
        *norm("vision_tower.post_layernorm", "v.post_ln"),
        *(
            Rule(f"multi_modal_projector.layer_norm.{part}", f"mm.input_norm.{part}", ("merged",), when="norm")
            for part in ("weight", "bias")
        ),
        *linear("multi_modal_projector.linear_1", "mm.1", ("projector", "merged"), "bias"),
        *linear("multi_modal_projector.linear_2", "mm.2", ("text", "projector"), "bias"),
    ),
    sizes=lambda values, config, shapes: {
        **vision_sizes(values),
        "layers": whole(config, _LFM2_LAYERS, 12),
        "positions": whole(config, _VISION + "num_patches", 256),
        "projector": whole(config, "projector_hidden_size", 2560),
        "merged": count(values, "vision.embedding_length") * count(values, "vision.projector.scale_factor") ** 2,
    },
    renamed=_FLAT,
    present={
        "norm": r"multi_modal_projector\.layer_norm\.weight",
        "bias": r"multi_modal_projector\.linear_1\.bias",
    },
    assumptions=(Assumption(_VISION + "patch_size", (16,), 16),),
    ignored=(pooling_head(r"vision_tower\."),),
    folders=(
        Folder(
            ("lfm2", "lfm2moe"),
            "Lfm2VlForConditionalGeneration",
            "lfm2_vl",
            spelled=_WITH_MODEL,
            settings={
                _VISION + "model_type": "siglip2_vision_model",
                _VISION + "vision_use_head": False,
                **processors("Lfm2Vl"),
            },
            told=_told_lfm2,
            tokens={"image_token_id": "<image>"},
        ),
    ),
)


def _aligned(values: Config, config: Config, shapes: Mapping[str, Shape]) -> Sizes:
    """Widths of a gated projector: the first matrix makes both halves."""
    sizes = sizes_with_positions(values, config, shapes)
    scale = count(values, "vision.projector.scale_factor")
    wide = whole(config, "alignment_intermediate_size", 36864)
    return sizes | {"wide": wide, "narrow": divided(wide, 2, "alignment_intermediate_size"), "scale": scale}


COHERE2_VISION: Final = Projector(
    name="cohere2v",
    classes=("Cohere2VisionForConditionalGeneration",),
    kinds=("cohere2v",),
    keys=(
        *vision_keys(defaults=SIGLIP_DEFAULTS),
        kind("cohere2v"),
        epsilon(_VISION + "layer_norm_eps", 1e-6),
        Key(("downsample_factor",), "vision.projector.scale_factor", "u32", always(2)),
        Key((f"{PREPROCESSOR}max_patches",), "vision.preproc_max_tiles", "u32"),
        gelu(),
    ),
    rules=(
        *siglip("vision_tower."),
        *linear("multi_modal_projector.linear_1", "mm.1", ("wide", "scale*scale*embd")),
        *linear("multi_modal_projector.linear_2", "mm.2", ("text", "narrow")),
    ),
    sizes=_aligned,
    renamed=_FLAT,
    ignored=(pooling_head(r"vision_tower\."),),
    forced=(_EMBEDDINGS_F32,),
    folders=(
        Folder(
            ("cohere2",),
            "Cohere2VisionForConditionalGeneration",
            "cohere2_vision",
            spelled=_WITH_MODEL,
            settings={
                _VISION + "model_type": "siglip_vision_model",
                _VISION + "vision_use_head": False,
                **processors("Cohere2Vision"),
            },
            told=lambda values, shapes: {
                "alignment_intermediate_size": shapes.get("multi_modal_projector.linear_1.weight", (0,))[0]
            },
            tokens={"image_token_id": "<|IMG_PATCH|>"},
        ),
    ),
)


def _by_ratio(config: Config) -> Json:
    """Janus says how much wider the feed-forward network is than the tower."""
    ratio, width = config.get(_VISION + "mlp_ratio", 4.0), whole(config, _VISION + "hidden_size", 1024)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1000:
        raise PlanError(f"config.json: {_VISION}mlp_ratio is {shown(ratio)}, a number above 0 is needed")
    return round(width * ratio)


_JANUS_LAYER: Final = (
    "layer_norm1",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.projection_layer",
    "layer_norm2",
    "mlp.fc1",
    "mlp.fc2",
)
JANUS: Final = Projector(
    name="janus",
    classes=("JanusForConditionalGeneration",),
    kinds=("janus_pro",),
    keys=(
        *vision_keys(
            defaults={
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 384,
                "patch_size": 16,
                "intermediate_size": _by_ratio,
            }
        ),
        kind("janus_pro"),
        epsilon(_VISION + "layer_norm_eps", 1e-6),
        *activation(_VISION + "hidden_act", "gelu"),
    ),
    rules=(
        *embeddings("vision_model.embeddings."),
        *siglip_layers("vision_model.encoder.layers.{n}.", _JANUS_LAYER),
        *norm("vision_model.post_layernorm", "v.post_ln"),
        *linear("aligner.fc1", "mm.0", ("text", "embd")),
        *linear("aligner.hidden_layers.0", "mm.1", ("text", "text")),
    ),
    sizes=sizes_with_positions,
    renamed=((r"^model\.(vision_model|aligner|vqmodel|generation_\w+)\.", r"\1."),),
    assumptions=(Assumption(_VISION + "depth", (2,), 2), Assumption(_VISION + "use_qk_norm", (False,), False)),
    ignored=(Ignored(r"(vqmodel|generation_\w+)\..*", "makes pictures, which llama.cpp does not run", lost=True),),
)


def _made_for(values: Config, config: Config, absent: int) -> int:
    """Positions of a tower whose pictures, as the GGUF says it, are larger than its table."""
    return (whole(config, _VISION + "image_size", absent) // count(values, "vision.patch_size")) ** 2


PADDLEOCR: Final = Projector(
    name="paddleocr",
    classes=("PaddleOCRVisionModel", "PaddleOCRVLForConditionalGeneration"),
    kinds=("paddleocr",),
    keys=(
        *without("vision.image_size", vision_keys(defaults=SIGLIP_DEFAULTS)),
        pixels("max_pixels"),
        pixels("min_pixels"),
        computed("vision.image_size", "u32", lambda config: isqrt(whole(config, f"{PREPROCESSOR}max_pixels"))),
        kind("paddleocr"),
        gelu(),
        epsilon(_VISION + "rms_norm_eps", 1e-6),
    ),
    rules=(
        *siglip("visual.vision_model."),
        *norm("mlp_AR.pre_norm", "mm.input_norm"),
        *linear("mlp_AR.linear_1", "mm.1", ("4*embd", "4*embd")),
        *linear("mlp_AR.linear_2", "mm.2", ("text", "4*embd")),
    ),
    sizes=lambda values, config, shapes: vision_sizes(values) | {"positions": _made_for(values, config, 384)},
    renamed=((r"^model\.(visual|mlp_AR)\.", r"\1."), (r"^model\.projector\.", "mlp_AR.")),
    assumptions=(Assumption(_VISION + "spatial_merge_size", (2,), 2),),
    ignored=(
        pooling_head(r"visual\.vision_model\."),
        Ignored(r"visual\.vision_model\.embeddings\.packing_position_embedding\..*", "used by nothing"),
    ),
)


def _slice(config: Config) -> Json:
    """Edge of the slices of a picture; the table of positions is made for larger ones."""
    said = config.get(f"{PREPROCESSOR}scale_resolution")
    return said if said is not None else config.get(_VISION + "image_size")


def _insertion(config: Config) -> Json:
    found = config.get("insert_layer_id", config.get(_VISION + "insert_layer_id", 6))
    return [found]


def _merging(config: Config) -> Json:
    mode = config.get(f"{PREPROCESSOR}downsample_mode", "16x")
    if mode not in ("4x", "16x"):
        raise PlanError(f"preprocessor_config.json: downsample_mode is {shown(mode)}; llama.cpp knows 4x and 16x")
    return 2 if mode == "4x" else 4


_VIT: Final = "vision_tower.vit_merger."
MINICPM_V: Final = Projector(
    name="minicpmv4.6",
    classes=("MiniCPMV4_6ForConditionalGeneration",),
    kinds=("minicpmv4_6",),
    keys=(
        *without("vision.image_size", vision_keys(defaults=SIGLIP_DEFAULTS)),
        computed("vision.image_size", "u32", _slice),
        kind("minicpmv4_6"),
        computed("vision.projector.scale_factor", "u32", _merging),
        computed("vision.wa_layer_indexes", "[i32]", _insertion),
        gelu(),
        epsilon(_VISION + "layer_norm_eps", 1e-6),
    ),
    rules=(
        *siglip("vision_tower."),
        *(
            Rule(f"{_VIT}{hf}.{part}", f"v.vit_merger.{ggml}.{part}", shape[: 2 if part == "weight" else 1], when="16x")
            for hf, ggml, shape in (
                ("layer_norm1", "ln1", ("embd",)),
                ("self_attn.q_proj", "attn_q", ("embd", "embd")),
                ("self_attn.k_proj", "attn_k", ("embd", "embd")),
                ("self_attn.v_proj", "attn_v", ("embd", "embd")),
                ("self_attn.out_proj", "attn_out", ("embd", "embd")),
                ("pre_norm", "ds_ln", ("4*embd",)),
                ("linear_1", "ds_ffn_up", ("4*ffn", "4*embd")),
                ("linear_2", "ds_ffn_down", ("embd", "4*ffn")),
            )
            for part in ("weight", "bias")
        ),
        *norm("merger.mlp.0.pre_norm", "mm.input_norm", "4*embd"),
        *linear("merger.mlp.0.linear_1", "mm.up", ("4*embd", "4*embd")),
        *linear("merger.mlp.0.linear_2", "mm.down", ("text", "4*embd")),
    ),
    sizes=lambda values, config, shapes: vision_sizes(values) | {"positions": _made_for(values, config, 980)},
    renamed=((r"^model\.(vision_tower|merger)\.", r"\1."), (r"^vision_tower\.vision_model\.", "vision_tower.")),
    flags=lambda config: {"16x": _merging(config) == 4},
)
