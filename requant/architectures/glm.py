"""GLM-4: gate and up in one matrix, which llama.cpp keeps; half of each head rotated, in pairs.

Facts: llama.cpp's conversion/chatglm.py, glm.py and src/models/chatglm.cpp, glm4.cpp. For the first llama.cpp's
converter takes the context from a key that transformers has not, and writes the hidden size without it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.decoders import LAYER, SIZES, decoder, norm, rms_norm_eps, trunk
from requant.architectures.llama import HEAD_KEYS, MLP, NORMS, SILU, attention_biases
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import Family, Key, Order, Rule, always

_FUSED: Final = (Rule(LAYER + "mlp.gate_up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn_pair", "hidden")), MLP[2])
_ROTARY: Final = Key((), "rope.dimension_count", "u32", default=rotary(0.5))
_HEAD: Final = (replace(HEAD_KEYS[0], default=always(128)), HEAD_KEYS[1])

GLM: Final[Family] = decoder(
    "Glm",
    "glm",
    "chatglm",
    (*trunk(), *NORMS, *attention_biases(Order.SAME, "attention_bias"), *_FUSED),
    (*SIZES, rms_norm_eps(0.00000015625), *_HEAD, _ROTARY),
    (Rope(theta=10000.0, in_part=0.5).pair(),),
    assumptions=(SILU,),
    flags=(("attention_bias", True),),
)

GLM4: Final[Family] = decoder(
    "Glm4",
    "glm4",
    "glm4",
    (
        *trunk(),
        *NORMS,
        *attention_biases(Order.SAME, "attention_bias"),
        *norm(LAYER + "post_self_attn_layernorm", "blk.{n}.post_attention_norm"),
        *_FUSED,
        *norm(LAYER + "post_mlp_layernorm", "blk.{n}.post_ffw_norm"),
    ),
    (*SIZES, rms_norm_eps(0.00000015625), *_HEAD, _ROTARY),
    (Rope(theta=10000.0, in_part=0.5).pair(),),
    assumptions=(SILU,),
    flags=(("attention_bias", False),),
)
