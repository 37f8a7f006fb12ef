"""Arcee (AFM): Llama whose feed-forward network squares what is above zero, and has no gate.

Facts: llama.cpp's conversion/llama.py and src/models/arcee.cpp.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import PLAIN_MLP, SIZES, decoder, rms_norm_eps, trunk
from requant.architectures.llama import LLAMA, NORMS
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Order

ARCEE: Final[Family] = decoder(
    "Arcee",
    "arcee",
    "arcee",
    (
        *trunk(Order.ROPE),
        *NORMS,
        *PLAIN_MLP,
    ),
    (*SIZES, rms_norm_eps(1e-5), *LLAMA.keys[len(SIZES) + 1 :]),
    (Rope(theta=10000.0).pair(),),
    assumptions=(
        Assumption("hidden_act", ("relu2",), "relu2"),
        Assumption("attention_bias", (False,), False),
        Assumption("mlp_bias", (False,), False),
    ),
)
