"""Nemotron and Minitron: norms with biases whose weights are offsets from one, heads rotated in part.

Facts: llama.cpp's conversion/nemotron.py and src/models/nemotron.cpp.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import (
    BIASED_NORMS,
    PLAIN_MLP,
    PLAIN_MLP_BIASES,
    SIZES,
    UNSCALED,
    VOCABULARY_SIZE,
    decoder,
    layer_norm_eps,
    shifted,
    trunk,
)
from requant.architectures.llama import HEAD_KEYS, OUTPUT_BIAS, attention_biases
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import Assumption, Family, Key, Order, Rule, same_as

NEMOTRON: Final[Family] = decoder(
    "Nemotron",
    "nemotron",
    "nemotron",
    shifted(
        (
            *trunk(),
            Rule("{base}norm.bias", "output_norm.bias", ("hidden",)),
            *BIASED_NORMS,
            *attention_biases(Order.SAME, "attention_bias"),
            OUTPUT_BIAS,
            *PLAIN_MLP,
            *PLAIN_MLP_BIASES,
        )
    ),
    (
        *SIZES,
        layer_norm_eps("norm_eps"),
        Key((), "attention.layer_norm_rms_epsilon", "f32", default=same_as("norm_eps")),
        UNSCALED,
        *HEAD_KEYS,
        VOCABULARY_SIZE,
        Key((), "rope.dimension_count", "u32", default=rotary(0.5)),
    ),
    (Rope(theta=10000.0, in_part=0.5).pair(),),
    assumptions=(Assumption("hidden_act", ("relu2",), "relu2"),),
    flags=(("attention_bias", False), ("mlp_bias", False)),
)
