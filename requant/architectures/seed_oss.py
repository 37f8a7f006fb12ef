"""Seed-OSS: biases of q, k and v.

Facts: llama.cpp's conversion/olmo.py and src/models/seed-oss.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.decoders import SIZES, decoder, rms_norm_eps, trunk
from requant.architectures.llama import HEAD_KEYS, MLP, NORMS, SILU, attention_biases
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Order, Rule, always

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
    (*SIZES, rms_norm_eps(1e-6), replace(HEAD_KEYS[0], default=always(128)), HEAD_KEYS[1]),
    (Rope(theta=10000.0).pair(),),
    assumptions=(
        SILU,
        Assumption("attention_out_bias", (False,), False),
        Assumption("mlp_bias", (False,), False),
    ),
    flags=(("attention_bias", True),),
)
