"""StarCoder (GPTBigCode) and StarCoder2: biases everywhere.

Facts: llama.cpp's conversion/starcoder.py and src/models/starcoder.cpp, starcoder2.cpp. The first keeps its only key
and value head in one matrix with the queries, as llama.cpp does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.decoders import (
    ATTN,
    BIASED_NORMS,
    LAYER,
    SIZES,
    decoder,
    layer_norm_eps,
    trunk,
)
from requant.architectures.gpt2 import GPT2
from requant.architectures.llama import WINDOW_LOSS, attention_biases
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Key, Order, Rule, always, defaulting

STARCODER: Final[Family] = replace(
    GPT2,
    model_type="gpt_bigcode",
    ggml="starcoder",
    classes=("GPTBigCodeForCausalLM", "GPTBigCodeModel"),
    headless=frozenset({"GPTBigCodeModel"}),
    rules=tuple(
        replace(rule, order=Order.SAME, shape=rule.ggml_shape) if rule.order is Order.TRANSPOSED else rule
        for rule in GPT2.rules
    ),
    keys=(*GPT2.keys, Key((), "attention.head_count_kv", "u32", default=always(1), implied=always(1))),
    assumptions=(
        Assumption("activation_function", ("gelu_pytorch_tanh", "gelu_new"), "gelu_pytorch_tanh"),
        Assumption("multi_query", (True,), True),
        Assumption("scale_attn_weights", (True,), True),
        Assumption("add_cross_attention", (False,), False, written=False),
    ),
)

STARCODER2: Final[Family] = decoder(
    "Starcoder2",
    "starcoder2",
    "starcoder2",
    (
        *trunk(),
        Rule("{base}norm.bias", "output_norm.bias", ("hidden",)),
        *BIASED_NORMS,
        *attention_biases(Order.SAME, ""),
        Rule(ATTN + "o_proj.bias", "blk.{n}.attn_output.bias", ("hidden",)),
        Rule(LAYER + "mlp.c_fc.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden")),
        Rule(LAYER + "mlp.c_fc.bias", "blk.{n}.ffn_up.bias", ("ffn",)),
        Rule(LAYER + "mlp.c_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
        Rule(LAYER + "mlp.c_proj.bias", "blk.{n}.ffn_down.bias", ("hidden",)),
    ),
    (*defaulting(SIZES, num_key_value_heads=2), layer_norm_eps("norm_epsilon")),
    (Rope(theta=10000.0).pair(),),
    assumptions=(
        Assumption("hidden_act", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh"),
        Assumption("use_bias", (True,), True),
        Assumption("sliding_window", (None,), None, written=False, loss=WINDOW_LOSS),
    ),
    tied=True,
)
