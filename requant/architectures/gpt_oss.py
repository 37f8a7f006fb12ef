"""gpt-oss: experts as stacks whose gate and up are woven into each other, sinks, windows in every other layer.

As plain numbers transformers keeps the experts transposed, [experts, in, out], as parameters without ".weight"; MXFP4
blocks are [experts, out, in], as in ggml. Rows of a woven matrix go gate, up, gate, up, …, so that taking them apart
moves whole rows and leaves the codes as they are.

Facts: llama.cpp's conversion/gpt_oss.py and src/models/openai-moe.cpp, transformers' modeling_gpt_oss.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.llama import (
    BUFFERS,
    DECODER_KEYS,
    OUTPUT_BIAS,
    SILU,
    TRUNK,
    attention,
    attention_biases,
    heads_of,
)
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Apart,
    Assumption,
    Family,
    Key,
    Order,
    Rule,
    always,
    same_as,
)
from requant.architectures.windows import Windows
from requant.ir import Json

_LAYER: Final = "{base}layers.{n}."
_EXPERTS: Final = _LAYER + "mlp.experts."
#: Every other layer sees only a window, the first among them.
_PERIOD: Final = 2
#: transformers' rope where config.json says nothing; what OpenAI's models have.
_YARN: Final[Mapping[str, Json]] = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def _woven(part: str, turn: int) -> tuple[Rule, Rule]:
    """Weights and biases of gate or up."""
    up, columns = ("experts", "hidden", "ffn_pair"), ("experts", "ffn_pair")
    weight, bias = (f"blk.{{n}}.ffn_{part}_exps.{kind}" for kind in ("weight", "bias"))
    hf = _EXPERTS + "gate_up_proj"
    return (
        Rule(hf, weight, up, Order.TRANSPOSED, turn=turn, apart=_apart(part, "weight")),
        Rule(hf + "_bias", bias, columns, turn=turn, apart=_apart(part, "bias")),
    )


def _apart(part: str, kind: str) -> tuple[Apart, ...]:
    """Names in MLX, whose stacks are not woven, and in compressed-tensors, where each expert is a module."""
    return Apart(f"{_EXPERTS}{part}_proj.{kind}"), Apart(f"{_EXPERTS}{{e}}.{part}_proj.{kind}")


_GATE, _GATE_BIAS = _woven("gate", 0)
_UP, _UP_BIAS = _woven("up", 1)
_DOWN: Final = Rule(
    _EXPERTS + "down_proj",
    "blk.{n}.ffn_down_exps.weight",
    ("experts", "ffn", "hidden"),
    Order.TRANSPOSED,
    apart=_apart("down", "weight"),
)
_DOWN_BIAS: Final = Rule(
    _EXPERTS + "down_proj_bias", "blk.{n}.ffn_down_exps.bias", ("experts", "hidden"), apart=_apart("down", "bias")
)

GPT_OSS: Final = Family(
    model_type="gpt_oss",
    ggml="gpt-oss",
    classes=("GptOssForCausalLM", "GptOssModel"),
    headless=frozenset({"GptOssModel"}),
    bases=("model.", ""),
    rules=(
        *TRUNK,
        Rule(_LAYER + "input_layernorm.weight", "blk.{n}.attn_norm.weight", ("hidden",)),
        Rule(_LAYER + "post_attention_layernorm.weight", "blk.{n}.post_attention_norm.weight", ("hidden",)),
        *attention(Order.SAME),
        *attention_biases(Order.SAME, ""),
        replace(OUTPUT_BIAS, when=""),
        Rule(_LAYER + "self_attn.sinks", "blk.{n}.attn_sinks.weight", ("heads",)),
        Rule(_LAYER + "mlp.router.weight", "blk.{n}.ffn_gate_inp.weight", ("experts", "hidden")),
        Rule(_LAYER + "mlp.router.bias", "blk.{n}.ffn_gate_inp.bias", ("experts",)),
        _GATE,
        _UP,
        _GATE_BIAS,
        _UP_BIAS,
        _DOWN,
        _DOWN_BIAS,
    ),
    keys=(
        *DECODER_KEYS[:-1],
        Key(("rms_norm_eps",), "attention.layer_norm_rms_epsilon", "f32", default=always(1e-5)),
        *heads_of(64),
        Key(("num_local_experts", "num_experts"), "expert_count", "u32", always(128)),
        Key(("num_experts_per_tok", "experts_per_token"), "expert_used_count", "u32", always(4)),
        Key(
            (),
            "expert_feed_forward_length",
            "u32",
            default=same_as("intermediate_size"),
            implied=same_as("feed_forward_length"),
        ),
    ),
    embedding="token_embd.weight",
    assumptions=(
        SILU,
        Assumption("attention_bias", (True,), True),
        Assumption("tie_word_embeddings", (False,), False, written=False),
        Assumption("swiglu_alpha", (1.702,), 1.702, written=False),
        Assumption("swiglu_limit", (7.0,), 7.0),
    ),
    ignored=BUFFERS,
    irregular=(Windows(_PERIOD, 128, always=True).pair(), Rope(theta=150000.0, absent=_YARN, truncate=False).pair()),
)
