"""InternVL's tower, as the authors' code has it and as transformers does: layer scales, and fused q, k and v or not.

Facts: llama.cpp's conversion/internvl.py and tools/mtmd/models/internvl.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Assumption, Config, Default, Key, Rule, Sizes
from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import Json
from requant.projectors.rules import Folder, Projector, computed, linear, norm, processors, split
from requant.projectors.sizes import count
from requant.projectors.towers import activation, epsilon, kind, positions, vision_keys, vision_sizes

_VISION: Final = "vision_config."
_LAYER: Final = "vision.layers.{n}."
_BLOCK: Final = "v.blk.{n}."
#: InternVL's own config calls the text model's section otherwise.
_TEXT: Final = ("text_config.hidden_size", "llm_config.hidden_size", "hidden_size")


def _first(name: str) -> Default:
    """A size that may be a list of height and width."""

    def value(config: Config) -> Json:
        said = config.get(_VISION + name)
        if isinstance(said, list):
            if len(set(map(str, said))) != 1:
                raise PlanError(f"config.json: {_VISION}{name} is {shown(said)}; llama.cpp knows squares only")
            return said[0]
        return said if said is not None else {"image_size": 448, "patch_size": 14}[name]

    return value


def _scale(config: Config) -> Json:
    ratio = config.get("downsample_ratio", 0.5)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise PlanError(f"config.json: downsample_ratio is {shown(ratio)}, a number up to 1 is needed")
    return int(1 / ratio)


def _tiles(name: str) -> Default:
    def value(config: Config) -> Json:
        said = config.get(name)
        return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else None

    return value


def _sizes(values: Config, config: Config, shapes: Mapping[str, Shape]) -> Sizes:
    scale = count(values, "vision.projector.scale_factor")
    return vision_sizes(values) | {
        "positions": positions(values) + 1,
        "wide": scale * scale * count(values, "vision.embedding_length"),
    }


def _layers() -> tuple[Rule, ...]:
    parts = tuple(f"{_BLOCK}attn_{one}" for one in "qkv")
    fused = split(_LAYER + "attn.qkv", parts, ("embd", "embd", "embd"), "embd", "qkv_bias")
    apart = [rule for one in "qkv" for rule in linear(f"{_LAYER}attn.{one}", f"{_BLOCK}attn_{one}", ("embd", "embd"))]
    return (
        *norm(_LAYER + "norm1", _BLOCK + "ln1", bias="norm_bias"),
        *(_when(rule, "fused") for rule in fused),
        *(_when(rule, "!fused", "qkv_bias") for rule in apart),
        *(
            Rule(f"{_LAYER}attn.{one}_norm.weight", f"{_BLOCK}attn_{one}_norm.weight", ("embd",), when="head_norms")
            for one in "qk"
        ),
        *linear(_LAYER + "attn.proj", _BLOCK + "attn_out", ("embd", "embd")),
        Rule(_LAYER + "ls1", _BLOCK + "ls1.weight", ("embd",)),
        *norm(_LAYER + "norm2", _BLOCK + "ln2", bias="norm_bias"),
        *linear(_LAYER + "mlp.fc1", _BLOCK + "ffn_up", ("ffn", "embd")),
        *linear(_LAYER + "mlp.fc2", _BLOCK + "ffn_down", ("embd", "ffn")),
        Rule(_LAYER + "ls2", _BLOCK + "ls2.weight", ("embd",)),
    )


def _when(rule: Rule, flag: str, bias: str = "") -> Rule:
    """The rule where this flag is set, too. bias: the flag of biases."""
    more = bias if bias and rule.ggml.endswith(".bias") else rule.when
    return replace(rule, when="+".join(filter(None, (flag, more))))


def _told(values: Config, shapes: Mapping[str, Shape]) -> Mapping[str, Json]:
    """Squares as lists, and what only tensors say."""
    edge, patch = count(values, "vision.image_size"), count(values, "vision.patch_size")
    scale = count(values, "vision.projector.scale_factor")
    first = _LAYER.format(n=0)
    return {
        _VISION + "image_size": [edge, edge],
        _VISION + "patch_size": [patch, patch],
        _VISION + "attention_bias": first + "attn.q.bias" in shapes,
        _VISION + "use_qk_norm": first + "attn.q_norm.weight" in shapes,
        _VISION + "norm_type": "layer_norm" if first + "norm1.bias" in shapes else "rms_norm",
        _VISION + "hidden_act": "silu" if values.get("use_silu") is True else "gelu",
        "llm_config.hidden_size": None,
        "downsample_ratio": 1 / scale,
        "image_seq_length": (edge // patch // scale) ** 2,
        "min_dynamic_patch": values.get("vision.preproc_min_tiles"),
        "max_dynamic_patch": values.get("vision.preproc_max_tiles"),
        "preprocessor.size": {"height": edge, "width": edge},
    }


#: Names of transformers' own class; folders of InternVL's authors become one of its kind.
_SPELLED: Final = (
    (r"^vision\.class_embedding$", "vision_tower.embeddings.cls_token"),
    (r"^vision\.position_embedding$", "vision_tower.embeddings.position_embeddings"),
    (r"^vision\.patch_embedding\.", "vision_tower.embeddings.patch_embeddings.projection."),
    (r"^vision\.layers\.", "vision_tower.encoder.layer."),
    (r"\.attn\.proj\.", ".attention.projection_layer."),
    (r"\.attn\.([qkv])\.", r".attention.\1_proj."),
    (r"\.attn\.([qk])_norm\.", r".attention.\1_norm."),
    (r"(^vision_tower\..*)\.norm1\.", r"\1.layernorm_before."),
    (r"(^vision_tower\..*)\.norm2\.", r"\1.layernorm_after."),
    (r"\.ls([12])$", r".lambda_\1"),
    (r"^mlp1\.0\.", "multi_modal_projector.layer_norm."),
    (r"^mlp1\.1\.", "multi_modal_projector.linear_1."),
    (r"^mlp1\.3\.", "multi_modal_projector.linear_2."),
)

INTERNVL: Final = Projector(
    name="internvl",
    classes=("InternVisionModel", "InternVLForConditionalGeneration", "InternVLChatModel"),
    kinds=("internvl",),
    keys=(
        *(
            Key(_TEXT, key.ggml, key.kind) if key.ggml == "vision.projection_dim" else key
            for key in vision_keys(
                names={"image_size": (), "patch_size": ()},
                defaults={"image_size": _first("image_size"), "patch_size": _first("patch_size")},
            )
        ),
        kind("internvl"),
        epsilon(_VISION + "layer_norm_eps", 1e-6),
        *activation(_VISION + "hidden_act", "gelu"),
        computed("vision.projector.scale_factor", "u32", _scale),
        computed("vision.preproc_min_tiles", "u32", _tiles("min_dynamic_patch")),
        computed("vision.preproc_max_tiles", "u32", _tiles("max_dynamic_patch")),
    ),
    rules=(
        Rule("vision.class_embedding", "v.class_embd", ("1", "1", "embd")),
        *linear("vision.patch_embedding", "v.patch_embd", ("embd", "3", "patch", "patch")),
        Rule("vision.position_embedding", "v.position_embd.weight", ("1", "positions", "embd")),
        *_layers(),
        *norm("mlp1.0", "mm.model.mlp.0", "wide"),
        *linear("mlp1.1", "mm.model.mlp.1", ("text", "wide")),
        *linear("mlp1.3", "mm.model.mlp.3", ("text", "text")),
    ),
    sizes=_sizes,
    renamed=(
        (r"^(?:model\.)?(?:vision_tower|vision_model)\.(?:vision_model\.)?", "vision."),
        (r"^vision\.embeddings\.(?:cls_token|class_embedding)$", "vision.class_embedding"),
        (r"^vision\.embeddings\.position_embeddings?$", "vision.position_embedding"),
        (r"^vision\.embeddings\.patch_embedding(?:s\.projection)?\.", "vision.patch_embedding."),
        (r"^vision\.encoder\.layers?\.", "vision.layers."),
        (r"^(vision\.layers\.\d+\.)attention\.projection_layer\.", r"\1attn.proj."),
        (r"^(vision\.layers\.\d+\.)attention\.([qkv])_proj\.", r"\1attn.\2."),
        (r"^(vision\.layers\.\d+\.)attention\.([qk])_norm\.", r"\1attn.\2_norm."),
        (r"^(vision\.layers\.\d+\.)layernorm_before\.", r"\1norm1."),
        (r"^(vision\.layers\.\d+\.)layernorm_after\.", r"\1norm2."),
        (r"^(vision\.layers\.\d+\.)lambda_([12])$", r"\1ls\2"),
        (r"^(?:model\.)?multi_modal_projector\.layer_norm\.", "mlp1.0."),
        (r"^(?:model\.)?multi_modal_projector\.linear_1\.", "mlp1.1."),
        (r"^(?:model\.)?multi_modal_projector\.linear_2\.", "mlp1.3."),
    ),
    present={
        "fused": r"vision\.layers\.\d+\.attn\.qkv\.weight",
        "qkv_bias": r"vision\.layers\.\d+\.attn\.(?:qkv|q)\.bias",
        "head_norms": r"vision\.layers\.\d+\.attn\.q_norm\.weight",
        "norm_bias": r"vision\.layers\.\d+\.norm1\.bias",
    },
    assumptions=(Assumption(_VISION + "num_channels", (3,), 3),),
    folders=(
        Folder(
            ("qwen2", "qwen3", "qwen3moe", "llama", "internlm2", "gpt-oss"),
            "InternVLForConditionalGeneration",
            "internvl",
            "language_model.model.",
            spelled=_SPELLED,
            settings={
                _VISION + "model_type": "internvl_vision",
                _VISION + "architectures": ["InternVisionModel"],
                **processors("InternVL", pictures="GotOcr2"),
            },
            told=_told,
            tokens={"image_token_id": "<IMG_CONTEXT>"},
            flags={"fused": False},
        ),
    ),
)
