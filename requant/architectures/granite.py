"""Granite 3 and 4, dense: Llama with four factors.

Facts: llama.cpp's conversion/granite.py and src/models/granite.cpp.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import SIZES, VOCABULARY_SIZE, decoder, rms_norm_eps
from requant.architectures.llama import (
    LLAMA,
    SILU,
    head_width,
    head_width_implied,
)
from requant.architectures.numbers import number
from requant.architectures.rope import Rope
from requant.architectures.rules import Config, Family, Key, always
from requant.ir import Json


def _usual_scale(values: Config) -> Json:
    """What llama.cpp takes where a GGUF does not say it: one over the root of a head's width."""
    width = head_width_implied(values)
    return None if width is None else float(number({"width": width}, "width") ** -0.5)


#: The factors of embedding, attention, residual stream and logits.
SCALES: Final = (
    Key(("attention_multiplier",), "attention.scale", "f32", always(1.0), _usual_scale),
    Key(("embedding_multiplier",), "embedding_scale", "f32", always(1.0), always(1.0)),
    Key(("residual_multiplier",), "residual_scale", "f32", always(1.0), always(1.0)),
    Key(("logits_scaling",), "logit_scale", "f32", always(1.0)),
)

GRANITE: Final[Family] = decoder(
    "Granite",
    "granite",
    "granite",
    LLAMA.rules,
    (
        *SIZES,
        rms_norm_eps(1e-6),
        VOCABULARY_SIZE,
        Key((), "rope.dimension_count", "u32", default=head_width, implied=head_width_implied),
        *SCALES,
    ),
    (Rope(theta=10000.0).pair(),),
    assumptions=(SILU,),
    flags=(("attention_bias", False), ("mlp_bias", False)),
)
