"""Phi-1, 1.5 and 2: one norm, attention and feed-forward network side by side, biases everywhere.

Facts: llama.cpp's conversion/phi.py and src/models/phi2.cpp.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import LAYER, SIZES, decoder, layer_norm_eps, norm
from requant.architectures.llama import TRUNK, attention, attention_biases
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import (
    Assumption,
    Family,
    Key,
    Order,
    Rule,
    module,
)

PHI2: Final[Family] = decoder(
    "Phi",
    "phi",
    "phi2",
    (
        TRUNK[0],
        TRUNK[2],
        Rule("lm_head.bias", "output.bias", ("vocab",)),
        *norm("{base}final_layernorm", "output_norm", bias=True),
        *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm", bias=True),
        *attention(Order.SAME)[:3],
        *attention_biases(Order.SAME, ""),
        *module(LAYER + "self_attn.dense", "blk.{n}.attn_output", ("hidden", "q")),
        *module(LAYER + "mlp.fc1", "blk.{n}.ffn_up", ("ffn", "hidden")),
        *module(LAYER + "mlp.fc2", "blk.{n}.ffn_down", ("hidden", "ffn")),
    ),
    (
        *SIZES,
        layer_norm_eps("layer_norm_eps"),
        Key((), "rope.dimension_count", "u32", default=rotary(0.5)),
    ),
    (Rope(theta=10000.0, in_part=0.5).pair(),),
    assumptions=(
        Assumption("hidden_act", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new"),
        Assumption("qk_layernorm", (False,), False),
        Assumption("tie_word_embeddings", (False,), False, written=False),
    ),
)
