"""Llamas of 2023 under the names of their makers: Baichuan, XVERSE and Orion.

Orion has norms that take the mean away, whatever its configuration calls their epsilon. llama.cpp gives Baichuan's 40
layers ALiBi and the smaller one rotation, as its makers do; Baichuan 2 besides divides each row of its head by its
length, which llama.cpp does not.

Facts: llama.cpp's conversion/baichuan.py, xverse.py, orion.py and src/models/baichuan.cpp, xverse.cpp, orion.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.decoders import BIASED_NORMS, SIZES, decoder, fused, norm, rms_norm_eps
from requant.architectures.llama import MLP, NORMS, SILU, TRUNK, attention, head_width, head_width_implied
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor

_LAYER: Final = "{base}layers.{n}."
_LAYOUT: Final = Key(
    (), "tensor_data_layout", "str", always("Meta AI original pth"), implied=always("Meta AI original pth")
)
_ROTARY: Final = Key((), "rope.dimension_count", "u32", default=head_width, implied=head_width_implied)
_SIZES: Final = tuple(
    replace(key, hf=("max_position_embeddings", "max_sequence_length", "model_max_length"))
    if key.ggml == "context_length"
    else key
    for key in SIZES
)
#: Layers of the model with rotation, and of that with ALiBi, by which llama.cpp tells them.
_DEPTHS: Final = (32, 40)
_ROPE: Final = (Rope(theta=10000.0).pair(),)


def _of_known_depth(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    if sizes["layers"] not in _DEPTHS:
        raise PlanError(
            f"config.json: {sizes['layers']} layers; llama.cpp rotates a Baichuan of {_DEPTHS[0]} layers only",
            hint="a conversion would give a model that computes something else",
        )
    return ToGgml()


BAICHUAN: Final[Family] = decoder(
    "Baichuan",
    "baichuan",
    "baichuan",
    (
        *TRUNK,
        *NORMS,
        *fused(_LAYER + "self_attn.W_pack.weight", Order.ROPE),
        Rule(_LAYER + "self_attn.o_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        *MLP,
    ),
    (*_SIZES, rms_norm_eps(1e-6), _LAYOUT, _ROTARY),
    (*_ROPE, Irregular(_of_known_depth, lambda values, tensors, sizes: ToHf())),
    assumptions=(
        SILU,
        Assumption(
            "z_loss_weight",
            (None,),
            None,
            written=False,
            loss="Baichuan 2 divides each row of its head by its length; llama.cpp does not",
        ),
    ),
    more=("BaiChuanForCausalLM",),
)

XVERSE: Final[Family] = decoder(
    "Xverse",
    "xverse",
    "xverse",
    (*TRUNK, *NORMS, *attention(Order.ROPE), *MLP),
    (*_SIZES, rms_norm_eps(1e-6), _LAYOUT, _ROTARY),
    _ROPE,
)

ORION: Final[Family] = decoder(
    "Orion",
    "orion",
    "orion",
    (
        *(rule for rule in TRUNK if rule.ggml != "output_norm.weight"),
        *norm("{base}norm", "output_norm", bias=True),
        *BIASED_NORMS,
        *attention(Order.SAME),
        *MLP,
    ),
    (*_SIZES, Key(("rms_norm_eps",), "attention.layer_norm_epsilon", "f32", always(1e-5)), _LAYOUT),
    _ROPE,
)
