"""The towers of Qwen2-VL to Qwen3.5, of EXAONE 4.5 and of Ling 3: patches of two frames, fused q, k and v, patches
merged by four.

Facts: llama.cpp's conversion/qwenvl.py, qwen3vl.py and exaone.py, and in tools/mtmd/models qwen2vl.cpp and
qwen3vl.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Assumption, Config, Default, Flags, Key, Rule, Sizes, always
from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import Json
from requant.projectors.changes import frames
from requant.projectors.qwen_folders import DEEPSTACK, FULL, VISUAL, folder, told_2, told_3, told_25
from requant.projectors.rules import PREPROCESSOR, Projector, computed, linear, norm, split
from requant.projectors.settings import whole
from requant.projectors.sizes import count
from requant.projectors.towers import POSITIONS_F32, epsilon, gelu, kind, silu, vision_keys, vision_sizes

BLOCK: Final = "visual.blocks.{n}."
NAMES: Final = {"num_hidden_layers": ("depth",), "num_attention_heads": ("num_heads",)}
_VISION: Final = "vision_config."
#: Two frames make a patch, four patches a token; llama.cpp has both as constants.
CONSTANTS: Final = (
    Assumption(_VISION + "temporal_patch_size", (2,), 2),
    Assumption(_VISION + "in_channels", (3,), 3),
)
MERGED: Final = Assumption(_VISION + "spatial_merge_size", (2,), 2)
WITHOUT_MODEL: Final = ((r"^model\.visual\.", "visual."),)


def _attention(bias: str | None = "") -> tuple[Rule, ...]:
    """Blocks with q, k and v apart, as llama.cpp's oldest of these towers has them."""
    parts = ("v.blk.{n}.attn_q", "v.blk.{n}.attn_k", "v.blk.{n}.attn_v")
    return (
        *split(BLOCK + "attn.qkv", parts, ("embd", "embd", "embd"), "embd", bias),
        *linear(BLOCK + "attn.proj", "v.blk.{n}.attn_out", ("embd", "embd"), bias),
    )


def fused(bias: str | None = "", rows: str = "3*embd") -> tuple[Rule, ...]:
    """Blocks with q, k and v in one."""
    return (
        *linear(BLOCK + "attn.qkv", "v.blk.{n}.attn_qkv", (rows, "embd"), bias),
        *linear(BLOCK + "attn.proj", "v.blk.{n}.attn_out", ("embd", "embd"), bias),
    )


def norms(bias: str | None) -> tuple[Rule, ...]:
    return (*norm(BLOCK + "norm1", "v.blk.{n}.ln1", bias=bias), *norm(BLOCK + "norm2", "v.blk.{n}.ln2", bias=bias))


def gated(bias: str | None = "") -> tuple[Rule, ...]:
    return (
        *linear(BLOCK + "mlp.gate_proj", "v.blk.{n}.ffn_gate", ("ffn", "embd"), bias),
        *linear(BLOCK + "mlp.up_proj", "v.blk.{n}.ffn_up", ("ffn", "embd"), bias),
        *linear(BLOCK + "mlp.down_proj", "v.blk.{n}.ffn_down", ("embd", "ffn"), bias),
    )


def _plain(up: str, down: str) -> tuple[Rule, ...]:
    return (
        *linear(BLOCK + up, "v.blk.{n}.ffn_up", ("ffn", "embd")),
        *linear(BLOCK + down, "v.blk.{n}.ffn_down", ("embd", "ffn")),
    )


def _merger(first: str, second: str) -> tuple[Rule, ...]:
    """Four patches become one token."""
    return (
        *linear(f"visual.merger.{first}", "mm.0", ("4*embd", "4*embd")),
        *linear(f"visual.merger.{second}", "mm.2", ("text", "4*embd")),
    )


def _sizes(values: Config, config: Config, shapes: Mapping[str, Shape]) -> Sizes:
    return vision_sizes(values)


def _period(config: Config) -> Json:
    """Every how many layers one attends to all patches."""
    listed = config.get(FULL)
    if not isinstance(listed, list) or not listed or not all(isinstance(one, int) for one in listed):
        raise PlanError(f"config.json: {FULL} is {shown(listed)}, a list of layers is needed")
    period = int(str(listed[0])) + 1
    if listed != [period * (k + 1) - 1 for k in range(len(listed))]:
        raise PlanError(
            f"config.json: {FULL} is {shown(listed)}; llama.cpp knows layers at regular intervals only, such as 7, 15"
        )
    return period


def pixels(name: str) -> Key:
    """The least and the most pixels of a picture."""
    ggml = {"min_pixels": "vision.image_min_pixels", "max_pixels": "vision.image_max_pixels"}[name]
    edge = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}[name]

    def of_size(config: Config) -> Json:
        size = config.get(f"{PREPROCESSOR}size")
        found = size.get(edge) if isinstance(size, dict) else None
        if found is None:
            raise PlanError(f"preprocessor_config.json: neither {name} nor size.{edge} is there")
        return found

    return Key((PREPROCESSOR + name,), ggml, "u32", of_size)


QWEN2_VL: Final = Projector(
    name="qwen2vl",
    classes=("Qwen2VLForConditionalGeneration", "Qwen2VLModel", "Sarashina2VisionForCausalLM"),
    kinds=("qwen2vl_merger",),
    keys=(
        *vision_keys(
            names=NAMES | {"hidden_size": ("embed_dim",)},
            defaults={
                "image_size": 560,
                "num_hidden_layers": 32,
                "num_attention_heads": 16,
                "hidden_size": 1280,
                "patch_size": 14,
                # what config.json calls the hidden size is the width of the text model, which llama.cpp does not read
                "intermediate_size": lambda config: config.get(_VISION + "hidden_size"),
            },
        ),
        kind("qwen2vl_merger"),
        epsilon("rms_norm_eps", 1e-6),
    ),
    rules=(
        *frames("visual.patch_embed.proj.weight"),
        *norms(""),
        *_attention(),
        *_plain("mlp.fc1", "mlp.fc2"),
        *norm("visual.merger.ln_q", "v.post_ln"),
        *_merger("mlp.0", "mlp.2"),
    ),
    sizes=lambda values, config, shapes: vision_sizes(values) | {"ffn": _expanded(values, config)},
    renamed=WITHOUT_MODEL,
    assumptions=(*CONSTANTS, MERGED, Assumption(_VISION + "hidden_act", ("quick_gelu",), "quick_gelu")),
    forced=(POSITIONS_F32,),
    folders=(folder("qwen2vl", "Qwen2VLForConditionalGeneration", "qwen2_vl", told_2, base="model."),),
)


def _expanded(values: Config, config: Config) -> int:
    """Width of the feed-forward network, which config.json says as a multiple of the tower's."""
    ratio = config.get(_VISION + "mlp_ratio", 4)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1000:
        raise PlanError(f"config.json: {_VISION}mlp_ratio is {shown(ratio)}, a number above 0 is needed")
    return int(count(values, "vision.embedding_length") * ratio)


QWEN25_VL: Final = Projector(
    name="qwen2.5vl",
    classes=("Qwen2_5_VLForConditionalGeneration",),
    kinds=("qwen2.5vl_merger",),
    keys=(
        *vision_keys(names=NAMES, defaults={"image_size": 560, "patch_size": 14}),
        kind("qwen2.5vl_merger"),
        silu(),
        computed("vision.n_wa_pattern", "u32", _period),
        epsilon("rms_norm_eps", 1e-6),
    ),
    rules=(
        *frames("visual.patch_embed.proj.weight"),
        *norms(None),
        *_attention(),
        *gated(),
        *norm("visual.merger.ln_q", "v.post_ln", bias=None),
        *_merger("mlp.0", "mlp.2"),
    ),
    sizes=_sizes,
    renamed=WITHOUT_MODEL,
    assumptions=(*CONSTANTS, MERGED, Assumption(_VISION + "hidden_act", ("silu",), "silu")),
    forced=(POSITIONS_F32,),
    folders=(folder("qwen2vl", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", told_25, base="model."),),
)

EXAONE45: Final = Projector(
    name="exaone4.5",
    classes=("Exaone4_5_ForConditionalGeneration",),
    kinds=("exaone4_5",),
    keys=(
        *vision_keys(names=NAMES, defaults={"image_size": 560, "patch_size": 14}),
        kind("exaone4_5"),
        silu(),
        pixels("min_pixels"),
        pixels("max_pixels"),
        Key((_VISION + "num_key_value_heads",), "vision.attention.head_count_kv", "u32", always(None)),
        Key((_VISION + "rms_norm_eps", "rms_norm_eps"), "vision.attention.layer_norm_epsilon", "f32", always(1e-6)),
        Key((_VISION + "window_size",), "vision.window_size", "u32", always(None)),
        computed("vision.n_wa_pattern", "u32", lambda config: _period(config) if config.get(FULL) else None),
    ),
    rules=(
        *frames("visual.patch_embed.proj.weight"),
        *norms(None),
        *fused(rows="embd+kv+kv"),
        *gated(),
        *norm("visual.merger.ln_q", "v.post_ln", bias=None),
        *_merger("mlp.0", "mlp.2"),
    ),
    sizes=lambda values, config, shapes: _grouped(vision_sizes(values), config),
    renamed=WITHOUT_MODEL,
    assumptions=(*CONSTANTS, MERGED),
    forced=(POSITIONS_F32,),
)


def _grouped(sizes: dict[str, int], config: Config) -> Sizes:
    """With the width of keys and values, whose heads may be fewer."""
    return sizes | {"kv": sizes["head"] * whole(config, _VISION + "num_key_value_heads", sizes["heads"])}


def _square(config: Config) -> Json:
    """The picture whose patches the table of positions has."""
    number = whole(config, _VISION + "num_position_embeddings", 2304)
    return int(sqrt(number) * whole(config, _VISION + "patch_size", 16))


def _deepstack_layers(config: Config) -> list[bool]:
    """The layers after which pictures enter the text model once more."""
    layers = whole(config, _VISION + "depth")
    listed = config.get(DEEPSTACK) or []
    known = isinstance(listed, list) and all(isinstance(one, int) and 0 <= one < layers for one in listed)
    if not known or not isinstance(listed, list) or sorted(map(str, listed)) != sorted(set(map(str, listed))):
        raise PlanError(f"config.json: {DEEPSTACK} is {shown(listed)}; layers below {layers} are needed")
    if listed != sorted(int(str(one)) for one in listed):
        raise PlanError(f"config.json: {DEEPSTACK} is {shown(listed)}, which is not in ascending order")
    return [n in listed for n in range(layers)]


def _qwen3_flags(config: Config) -> Flags:
    return {"deepstack": _deepstack_layers(config)}


_STACK: Final = "visual.deepstack_merger_list.{k}."
QWEN3_VL: Final = Projector(
    name="qwen3vl",
    classes=(
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen4ExpForConditionalGeneration",
        "ClefModel",
        "OpenJevModel",
    ),
    kinds=("qwen3vl_merger",),
    keys=(
        *vision_keys(names=NAMES, defaults={"image_size": _square, "patch_size": 16}),
        kind("qwen3vl_merger"),
        gelu(),
        Key((_VISION + "spatial_merge_size",), "vision.spatial_merge_size", "u32", always(None)),
        epsilon("text_config.rms_norm_eps", 1e-6),
        computed("vision.is_deepstack_layers", "[bool]", _deepstack_layers),
    ),
    rules=(
        *frames("visual.patch_embed.proj.weight"),
        Rule("visual.patch_embed.proj.bias", "v.patch_embd.bias", ("embd",)),
        Rule("visual.pos_embed.weight", "v.position_embd.weight", ("positions", "embd")),
        *norms(""),
        *fused(),
        *_plain("mlp.linear_fc1", "mlp.linear_fc2"),
        *(
            Rule(f"{_STACK}{hf}.{part}", f"v.deepstack.{{n}}.{ggml}.{part}", shape[:length], when="deepstack")
            for hf, ggml, shape in (
                ("norm", "norm", ("4*embd",)),
                ("linear_fc1", "fc1", ("4*embd", "4*embd")),
                ("linear_fc2", "fc2", ("text", "4*embd")),
            )
            for part, length in (("weight", 2), ("bias", 1))
        ),
        *norm("visual.merger.norm", "v.post_ln"),
        *_merger("linear_fc1", "linear_fc2"),
    ),
    sizes=lambda values, config, shapes: vision_sizes(values) | {"positions": _positions(config)},
    renamed=WITHOUT_MODEL,
    flags=_qwen3_flags,
    assumptions=(*CONSTANTS, MERGED),
    folders=tuple(
        folder(text, f"{name}ForConditionalGeneration", model_type, told_3, spelled=VISUAL)
        for text, name, model_type in (
            ("qwen3vl", "Qwen3VL", "qwen3_vl"),
            ("qwen3vlmoe", "Qwen3VLMoe", "qwen3_vl_moe"),
            ("qwen35", "Qwen3_5", "qwen3_5"),
            ("qwen35moe", "Qwen3_5Moe", "qwen3_5_moe"),
        )
    ),
)


def _positions(config: Config) -> int:
    return whole(config, _VISION + "num_position_embeddings", 2304)


def _edge(name: str) -> Default:
    """The least or the most pixels, which this processor calls edges."""

    def value(config: Config) -> Json:
        size = config.get(f"{PREPROCESSOR}size")
        found = size.get(name) if isinstance(size, dict) else None
        if found is None:
            raise PlanError(f"preprocessor_config.json: size.{name} is missing")
        return found

    return value


PPLX: Final = replace(
    QWEN3_VL,
    name="pplx-decider",
    classes=("PplxDeciderModel",),
    folders=(),
    keys=(
        *QWEN3_VL.keys,
        computed("vision.image_min_pixels", "u32", _edge("shortest_edge")),
        computed("vision.image_max_pixels", "u32", _edge("longest_edge")),
    ),
)


def _is_bare(config: Config) -> str:
    if config.get(_VISION + "disable_merger_proj") is True:
        return ""
    return "llama.cpp runs it with disable_merger_proj only"


LING: Final = Projector(
    name="ling3vl",
    classes=("BailingMoeV3VLForConditionalGeneration",),
    kinds=("ling3vl",),
    keys=(
        *vision_keys(names=NAMES, defaults={"image_size": _square, "patch_size": 16}),
        kind("ling3vl"),
        gelu(),
        Key((_VISION + "spatial_merge_size",), "vision.spatial_merge_size", "u32", always(None)),
        epsilon("text_config.rms_norm_eps", 1e-6),
    ),
    rules=(
        *frames("visual.patch_embed.proj.weight"),
        Rule("visual.patch_embed.proj.bias", "v.patch_embd.bias", ("embd",), when="patch_bias"),
        Rule("visual.pos_embed.weight", "v.position_embd.weight", ("positions", "embd")),
        *norms(""),
        *fused(),
        *_plain("mlp.linear_fc1", "mlp.linear_fc2"),
        *norm("visual.merger.norm", "mm.input_norm"),
        *linear("linear_proj.0", "mm.0", ("wide", "merged")),
        *linear("linear_proj.2", "mm.2", ("text", "wide")),
    ),
    sizes=lambda values, config, shapes: (
        vision_sizes(values)
        | {
            "positions": _positions(config),
            "merged": whole(config, _VISION + "out_hidden_size"),
            "wide": shapes.get("linear_proj.0.weight", (0,))[0],
        }
    ),
    renamed=WITHOUT_MODEL,
    present={"patch_bias": r"^visual\.patch_embed\.proj\.bias"},
    takes=_is_bare,
    assumptions=(*CONSTANTS, MERGED),
)
