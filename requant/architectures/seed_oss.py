"""Seed-OSS: biases of q, k and v.

Facts: llama.cpp's conversion/olmo.py and src/models/seed-oss.cpp.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import SIZES, decoder, rms_norm_eps, trunk
from requant.architectures.llama import (
    MLP,
    NORMS,
    SILU,
    attention_biases,
    heads_of,
)
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Order, Rule

SEED_OSS: Final[Family] = decoder(
    "SeedOss",
    "seed_oss",
    "seed_oss",
    (
        *trunk(),
        # llama.cpp's name for it says where it stands, not what it is for
        NORMS[0],
        Rule(NORMS[1].hf, "blk.{n}.post_attention_norm.weight", ("hidden",)),
        *attention_biases(Order.SAME, "attention_bias"),
        *MLP,
    ),
    (*SIZES, rms_norm_eps(1e-6), *heads_of(128)),
    (Rope(theta=10000.0).pair(),),
    assumptions=(
        SILU,
        Assumption("attention_out_bias", (False,), False),
        Assumption("mlp_bias", (False,), False),
    ),
    flags=(("attention_bias", True),),
)
