"""Command-R, Command-R7B and Aya: one norm before attention and feed-forward network, which work side by side.

Facts: llama.cpp's conversion/command_r.py and src/models/command-r.cpp, cohere2.cpp (which rotates only layers with
a window, as transformers does).
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import (
    ATTN,
    LAYER,
    SIZES,
    TIED,
    UNSCALED,
    VOCABULARY_SIZE,
    decoder,
    layer_norm_eps,
    norm,
    trunk,
)
from requant.architectures.llama import HEAD_KEYS, MLP, SILU
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import Assumption, Family, Key, Rule, always
from requant.architectures.windows import Windows

_LOGITS: Final = Key(("logit_scale",), "logit_scale", "f32", always(0.0625))
_RULES: Final = (*trunk(), *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"), *MLP)
_NO_BIAS: Final = Assumption("attention_bias", (False,), False)

COHERE: Final[Family] = decoder(
    "Cohere",
    "cohere",
    "command-r",
    (
        *_RULES,
        # llama.cpp looks for them in models of 64 layers and more
        Rule(ATTN + "q_norm.weight", "blk.{n}.attn_q_norm.weight", ("heads", "head"), when="use_qk_norm"),
        Rule(ATTN + "k_norm.weight", "blk.{n}.attn_k_norm.weight", ("kv_heads", "head"), when="use_qk_norm"),
    ),
    (*SIZES, layer_norm_eps("layer_norm_eps"), _LOGITS, UNSCALED),
    (Rope(theta=500000.0).pair(),),
    assumptions=(SILU, _NO_BIAS, TIED),
    tied=True,
    flags=(("use_qk_norm", False),),
)

COHERE2: Final[Family] = decoder(
    "Cohere2",
    "cohere2",
    "cohere2",
    _RULES,
    (
        *SIZES,
        layer_norm_eps("layer_norm_eps"),
        *HEAD_KEYS,
        _LOGITS,
        VOCABULARY_SIZE,
        Key((), "rope.dimension_count", "u32", default=rotary(1.0)),
        UNSCALED,
    ),
    (Rope(theta=10000.0, in_part=1.0).pair(), Windows(4, 4096, always=True).pair()),
    assumptions=(SILU, _NO_BIAS, TIED),
    tied=True,
)
