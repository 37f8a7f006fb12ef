"""Gemma 4's tower that sees: a table of positions for each axis, norms around attention and feed-forward network.

Facts: llama.cpp's conversion/gemma.py and tools/mtmd/models/gemma4v.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.rules import Assumption, Config, Rule, Sizes
from requant.encodings import Shape
from requant.projectors.changes import ColoursFirst
from requant.projectors.rules import Projector, norm, without, written
from requant.projectors.settings import whole
from requant.projectors.towers import POSITIONS_F32, epsilon, vision_keys, vision_sizes

_VISION: Final = "vision_config."
_LAYER: Final = "vision_tower.encoder.layers.{n}."
_BLOCK: Final = "v.blk.{n}."
#: Of each linear layer, the values to which its inputs and outputs are clipped, where the model has them.
_LIMITS: Final = ("input_min", "input_max", "output_min", "output_max")


def _clipped(hf: str, ggml: str, rows: str, columns: str) -> tuple[Rule, ...]:
    limits = (
        Rule(f"{_LAYER}{hf}.{limit}", f"{_BLOCK}{ggml}.{limit}", (), flat=("1",), when="clipped") for limit in _LIMITS
    )
    return (Rule(f"{_LAYER}{hf}.weight", f"{_BLOCK}{ggml}.weight", (rows, columns)), *limits)


def _takes(config: Config) -> str:
    if config.get("audio_config") is not None:
        return "it hears, too, and of Gemma 4 requant has what sees only"
    return ""


def _sizes(values: Config, config: Config, shapes: Mapping[str, Shape]) -> Sizes:
    sizes = vision_sizes(values)
    head = whole(config, _VISION + "head_dim", sizes["head"])
    return sizes | {
        "head": head,
        "q": head * sizes["heads"],
        "kv": head * whole(config, _VISION + "num_key_value_heads", sizes["heads"]),
        "positions": whole(config, _VISION + "position_embedding_size", 10240),
    }


GEMMA4: Final = Projector(
    name="gemma4v",
    classes=("Gemma4ForConditionalGeneration",),
    kinds=("gemma4v",),
    keys=(
        *without(
            "vision.image_size",
            vision_keys(
                defaults={
                    "hidden_size": 768,
                    "intermediate_size": 3072,
                    "num_hidden_layers": 16,
                    "num_attention_heads": 12,
                    "patch_size": 16,
                }
            ),
        ),
        written("vision.image_size", "u32", 224),
        written("vision.projector_type", "str", "gemma4v"),
        epsilon(_VISION + "layer_norm_eps", 1e-6),
    ),
    rules=(
        Rule(
            "vision_tower.patch_embedder.input_proj.weight",
            "v.patch_embd.weight",
            ("embd", "3*patch*patch"),
            changes=(ColoursFirst(),),
            flat=("embd", "3", "patch", "patch"),
        ),
        Rule(
            "vision_tower.patch_embedder.position_embedding_table",
            "v.position_embd.weight",
            ("2", "positions", "embd"),
        ),
        *norm(_LAYER + "input_layernorm", _BLOCK + "ln1", bias=None),
        *_clipped("self_attn.q_proj", "attn_q", "q", "embd"),
        *_clipped("self_attn.k_proj", "attn_k", "kv", "embd"),
        *_clipped("self_attn.v_proj", "attn_v", "kv", "embd"),
        *_clipped("self_attn.o_proj", "attn_out", "embd", "q"),
        *norm(_LAYER + "self_attn.q_norm", _BLOCK + "attn_q_norm", "head", bias=None),
        *norm(_LAYER + "self_attn.k_norm", _BLOCK + "attn_k_norm", "head", bias=None),
        *norm(_LAYER + "post_attention_layernorm", _BLOCK + "attn_post_norm", bias=None),
        *norm(_LAYER + "pre_feedforward_layernorm", _BLOCK + "ln2", bias=None),
        *_clipped("mlp.gate_proj", "ffn_gate", "ffn", "embd"),
        *_clipped("mlp.up_proj", "ffn_up", "ffn", "embd"),
        *_clipped("mlp.down_proj", "ffn_down", "embd", "ffn"),
        *norm(_LAYER + "post_feedforward_layernorm", _BLOCK + "ffn_post_norm", bias=None),
        Rule(_LAYER + "layer_scalar", _BLOCK + "out_scale.weight", ("1",), when="scalar"),
        Rule("vision_tower.std_bias", "v.std_bias", ("embd",), when="standard"),
        Rule("vision_tower.std_scale", "v.std_scale", ("embd",), when="standard"),
        Rule("embed_vision.embedding_projection.weight", "mm.input_projection.weight", ("text", "embd")),
    ),
    sizes=_sizes,
    renamed=((r"^model\.(vision_tower|embed_vision)\.", r"\1."), (r"\.linear\.weight$", ".weight")),
    present={
        "clipped": r"^vision_tower\..*self_attn\.q_proj\.input_min$",
        "scalar": r"^vision_tower\..*\.layer_scalar$",
        "standard": r"vision_tower\.std_bias",
    },
    takes=_takes,
    assumptions=(
        Assumption(_VISION + "hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh"),
        Assumption(_VISION + "pooling_kernel_size", (3,), 3),
    ),
    forced=(POSITIONS_F32,),
)
