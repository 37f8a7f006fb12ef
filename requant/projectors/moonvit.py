"""MoonViT, the tower of Kimi-VL, Kimi K2.5 and GLM-5V: a grid of learned positions, and rotary ones besides.

Facts: llama.cpp's conversion/kimivl.py and tools/mtmd/models/kimivl.cpp, kimik25.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Assumption, Config, Ignored, Key, Rule, Sizes, always
from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import Json
from requant.projectors.changes import AxesApart
from requant.projectors.rules import OUTSIDE, PREPROCESSOR, Projector, computed, linear, norm, split, without, written
from requant.projectors.settings import whole
from requant.projectors.towers import epsilon, gelu, kind, vision_keys, vision_sizes

_VISION: Final = "vision_config."
_LAYER: Final = "vision_tower.encoder.blocks.{n}."
_BLOCK: Final = "v.blk.{n}."
_FRAMES: Final = Ignored(r"vision_tower\.patch_embed\.pos_emb\.time_weight", "the place of a picture in a video")


def _tower(*attention: Rule) -> tuple[Rule, ...]:
    return (
        *linear("vision_tower.patch_embed.proj", "v.patch_embd", ("embd", "3", "patch", "patch")),
        *norm(_LAYER + "norm0", _BLOCK + "ln1"),
        *attention,
        *linear(_LAYER + "wo", _BLOCK + "attn_out", ("embd", "embd")),
        *norm(_LAYER + "norm1", _BLOCK + "ln2"),
        *linear(_LAYER + "mlp.fc0", _BLOCK + "ffn_up", ("ffn", "embd")),
        *linear(_LAYER + "mlp.fc1", _BLOCK + "ffn_down", ("embd", "ffn")),
        *norm("vision_tower.encoder.final_layernorm", "v.post_ln"),
    )


def _sizes(values: Config, config: Config, shapes: Mapping[str, Shape]) -> Sizes:
    return vision_sizes(values) | {
        "height": whole(config, _VISION + "init_pos_emb_height", 64),
        "width": whole(config, _VISION + "init_pos_emb_width", 64),
    }


def _positions(*flat: str) -> Rule:
    shape = ("height", "width", "embd")
    return Rule("vision_tower.patch_embed.pos_emb.weight", "v.position_embd.weight", shape, flat=flat)


def _projector(prefix: str, first: str, second: str) -> tuple[Rule, ...]:
    """Four patches become one token."""
    return (
        *norm(f"{prefix}pre_norm", "mm.input_norm"),
        *linear(prefix + first, "mm.1", ("4*embd", "4*embd")),
        *linear(prefix + second, "mm.2", ("text", "4*embd")),
    )


_MERGED: Final = Assumption(_VISION + "merge_kernel_size", ([2, 2],), [2, 2])
KIMI_VL: Final = Projector(
    name="kimi-vl",
    classes=("KimiVLForConditionalGeneration",),
    kinds=("kimivl",),
    keys=(
        *without("vision.image_size", vision_keys(defaults={"patch_size": 14})),
        written("vision.image_size", "u32", 64 * 14),
        kind("kimivl"),
        gelu(),
        written("vision.projector.scale_factor", "u32", 2),
        epsilon(_VISION + "layer_norm_eps", 1e-5),
    ),
    rules=(
        _positions("height*width", "embd"),
        *_tower(*split(_LAYER + "wqkv", [f"{_BLOCK}attn_{one}" for one in "qkv"], ("embd", "embd", "embd"), "embd")),
        *_projector("multi_modal_projector.", "linear_1", "linear_2"),
    ),
    sizes=_sizes,
    assumptions=(_MERGED,),
    ignored=(_FRAMES,),
)


def _image(config: Config) -> Json:
    return whole(config, _VISION + "init_pos_emb_height", 64) * whole(config, _VISION + "patch_size", 14)


def _most_pixels(config: Config) -> Json:
    return whole(config, f"{PREPROCESSOR}in_patch_limit", 16384) * whole(config, _VISION + "patch_size", 14) ** 2


def _kernel(config: Config) -> Json:
    kernel = config.get(_VISION + "merge_kernel_size", [2, 2])
    if kernel != [2, 2]:
        raise PlanError(f"config.json: {_VISION}merge_kernel_size is {shown(kernel)}; llama.cpp knows [2, 2] only")
    return 2


def _place(axis: str, absent: int) -> Key:
    """A length of the grid of positions; llama.cpp's converter leaves out `clip.` here."""
    return Key((f"{_VISION}init_pos_emb_{axis}",), f"{OUTSIDE}vision.pos_emb_{axis}", "u32", always(absent))


_NAMES: Final = {
    "hidden_size": ("hidden_size", "vt_hidden_size"),
    "intermediate_size": ("intermediate_size", "vt_intermediate_size"),
    "num_hidden_layers": ("num_hidden_layers", "vt_num_hidden_layers"),
    "num_attention_heads": ("num_attention_heads", "vt_num_attention_heads"),
}
KIMI_K25: Final = Projector(
    name="kimi-k2.5",
    classes=("KimiK25ForConditionalGeneration", "Glm5vForConditionalGeneration"),
    kinds=("kimik25",),
    keys=(
        *without("vision.image_size", vision_keys(names=_NAMES, defaults={"patch_size": 14})),
        computed("vision.image_size", "u32", _image),
        kind("kimik25"),
        _place("height", 64),
        _place("width", 64),
        _place("time", 4),
        computed("use_gelu", "bool", lambda config: config.get(_VISION + "projector_hidden_act", "gelu") == "gelu"),
        epsilon(_VISION + "projector_ln_eps", 1e-5),
        computed("vision.projector.scale_factor", "u32", _kernel),
        computed("vision.image_min_pixels", "u32", lambda config: 8 * whole(config, _VISION + "patch_size", 14) ** 2),
        computed("vision.image_max_pixels", "u32", _most_pixels),
    ),
    rules=(
        _positions(),
        *_tower(
            Rule(_LAYER + "wqkv.weight", _BLOCK + "attn_qkv.weight", ("3*embd", "embd"), changes=(AxesApart("heads"),)),
            Rule(_LAYER + "wqkv.bias", _BLOCK + "attn_qkv.bias", ("3*embd",), changes=(AxesApart("heads"),)),
        ),
        *_projector("mm_projector.", "proj.0", "proj.2"),
    ),
    sizes=_sizes,
    renamed=(
        (r"^mm_projector\.(?:proj\.)?linear_1\.", "mm_projector.proj.0."),
        (r"^mm_projector\.(?:proj\.)?linear_2\.", "mm_projector.proj.2."),
    ),
    ignored=(_FRAMES,),
)
