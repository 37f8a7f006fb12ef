"""Jais 2: biases everywhere, and a feed-forward network without a gate that squares what is above zero.

Facts: llama.cpp's conversion/jais.py and src/models/jais2.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.decoders import (
    BIASED_NORMS,
    PLAIN_MLP,
    PLAIN_MLP_BIASES,
    SIZES,
    decoder,
    layer_norm_eps,
    trunk,
)
from requant.architectures.llama import HEAD_KEYS, OUTPUT_BIAS, attention_biases, head_width, head_width_implied
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Key, Order, Rule

JAIS2: Final[Family] = decoder(
    "Jais2",
    "jais2",
    "jais2",
    (
        *trunk(),
        Rule("{base}norm.bias", "output_norm.bias", ("hidden",)),
        *BIASED_NORMS,
        *attention_biases(Order.SAME, ""),
        replace(OUTPUT_BIAS, when=""),
        *PLAIN_MLP,
        *(replace(rule, when="") for rule in PLAIN_MLP_BIASES),
    ),
    (
        *SIZES,
        layer_norm_eps("layer_norm_eps"),
        *HEAD_KEYS,
        Key((), "rope.dimension_count", "u32", default=head_width, implied=head_width_implied),
    ),
    (Rope(theta=10000.0).pair(),),
    assumptions=(
        Assumption("hidden_act", ("relu2",), "relu2"),
        Assumption("attention_bias", (True,), True),
        Assumption("mlp_bias", (True,), True),
    ),
)
