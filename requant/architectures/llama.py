"""Llama 1 to 3, SmolLM, Mistral and Mixtral: one ggml architecture, three HF model types.

Facts: llama.cpp's conversion/llama.py and src/models/llama.cpp; defaults from transformers' configuration classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.experts import expert_rules
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Key,
    Order,
    Rule,
    always,
    defaulting,
    same_as,
    unless_null,
)
from requant.ir import Json

_LAYER: Final = "{base}layers.{n}."
_ATTN: Final = _LAYER + "self_attn."

#: Buffers that older transformers saved with the weights.
BUFFERS: Final = (Ignored(r".*\.rotary_emb\.inv_freq", "computed from the rope parameters"),)


def head_width(config: Config) -> Json:
    """Numbers per head when `head_dim` is not given."""
    return _quotient(config.get("hidden_size"), config.get("num_attention_heads"))


def head_width_implied(values: Config) -> Json:
    """The same from GGUF keys."""
    return _quotient(values.get("embedding_length"), values.get("attention.head_count"))


def _quotient(hidden: Json, heads: Json) -> Json:
    """None where it does not divide, which `sizes_of` reports."""
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 and hidden % heads == 0:
        return hidden // heads
    return None


#: Hyperparameters that most decoders share.
DECODER_KEYS: Final = (
    Key(("num_hidden_layers",), "block_count", "u32"),
    Key(("max_position_embeddings",), "context_length", "u32"),
    Key(("hidden_size",), "embedding_length", "u32"),
    Key(("intermediate_size",), "feed_forward_length", "u32"),
    Key(("num_attention_heads",), "attention.head_count", "u32"),
    Key(
        ("num_key_value_heads",),
        "attention.head_count_kv",
        "u32",
        default=same_as("num_attention_heads"),
        implied=same_as("attention.head_count"),
    ),
    Key(("rms_norm_eps",), "attention.layer_norm_rms_epsilon", "f32", default=always(1e-6)),
)

#: Where `head_dim` is written out.
HEAD_KEYS: Final = (
    Key(("head_dim",), "attention.key_length", "u32", default=head_width, implied=head_width_implied),
    Key((), "attention.value_length", "u32", default=same_as("head_dim"), implied=same_as("attention.key_length")),
)


def heads_of(width: int) -> tuple[Key, Key]:
    """`HEAD_KEYS` of models whose heads are as wide where config.json does not say so."""
    return replace(HEAD_KEYS[0], default=always(width)), HEAD_KEYS[1]


#: Embedding, norms and head of most decoders.
TRUNK: Final = (
    Rule("{base}embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
    Rule("{base}norm.weight", "output_norm.weight", ("hidden",)),
    Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
)
NORMS: Final = (
    Rule(_LAYER + "input_layernorm.weight", "blk.{n}.attn_norm.weight", ("hidden",)),
    Rule(_LAYER + "post_attention_layernorm.weight", "blk.{n}.ffn_norm.weight", ("hidden",)),
)
#: The gated feed-forward network.
MLP: Final = (
    Rule(_LAYER + "mlp.gate_proj.weight", "blk.{n}.ffn_gate.weight", ("ffn", "hidden")),
    Rule(_LAYER + "mlp.up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden")),
    Rule(_LAYER + "mlp.down_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
)


def attention(order: Order) -> tuple[Rule, ...]:
    """The four projections; q and k in `order`."""
    return (
        Rule(_ATTN + "q_proj.weight", "blk.{n}.attn_q.weight", ("q", "hidden"), order),
        Rule(_ATTN + "k_proj.weight", "blk.{n}.attn_k.weight", ("kv", "hidden"), order, heads="kv_heads"),
        Rule(_ATTN + "v_proj.weight", "blk.{n}.attn_v.weight", ("kv", "hidden")),
        Rule(_ATTN + "o_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
    )


def attention_biases(order: Order, when: str) -> tuple[Rule, ...]:
    """Biases of q, k and v."""
    return (
        Rule(_ATTN + "q_proj.bias", "blk.{n}.attn_q.bias", ("q",), order, when=when),
        Rule(_ATTN + "k_proj.bias", "blk.{n}.attn_k.bias", ("kv",), order, heads="kv_heads", when=when),
        Rule(_ATTN + "v_proj.bias", "blk.{n}.attn_v.bias", ("kv",), when=when),
    )


OUTPUT_BIAS: Final = Rule(_ATTN + "o_proj.bias", "blk.{n}.attn_output.bias", ("hidden",), when="attention_bias")

_MLP_BIASES: Final = (
    Rule(_LAYER + "mlp.gate_proj.bias", "blk.{n}.ffn_gate.bias", ("ffn",), when="mlp_bias"),
    Rule(_LAYER + "mlp.up_proj.bias", "blk.{n}.ffn_up.bias", ("ffn",), when="mlp_bias"),
    Rule(_LAYER + "mlp.down_proj.bias", "blk.{n}.ffn_down.bias", ("hidden",), when="mlp_bias"),
)

_MOE: Final = _LAYER + "block_sparse_moe."
MOE_EXPERTS: Final = expert_rules(_MOE, "ffn", ("w1", "w2", "w3"), memory=_LAYER + "mlp.")

#: What llama.cpp's converter says of every llama besides.
PLAIN_ROTARY: Final = (
    Key((), "vocab_size", "u32", default=same_as("vocab_size"), implied=same_as("vocabulary")),
    Key((), "rope.dimension_count", "u32", default=same_as("head_dim"), implied=same_as("attention.key_length")),
)

SILU: Final = Assumption("hidden_act", ("silu",), "silu")

LLAMA: Final = Family(
    model_type="llama",
    ggml="llama",
    classes=("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
    headless=frozenset({"LlamaModel"}),
    bases=("model.", ""),
    rules=(
        *TRUNK,
        *NORMS,
        *attention(Order.ROPE),
        *attention_biases(Order.ROPE, "attention_bias"),
        OUTPUT_BIAS,
        *MLP,
        *_MLP_BIASES,
    ),
    keys=(*DECODER_KEYS, *HEAD_KEYS, *PLAIN_ROTARY),
    embedding="token_embd.weight",
    assumptions=(SILU,),
    flags={"attention_bias": False, "mlp_bias": False},
    ignored=BUFFERS,
    irregular=(Rope(theta=10000.0).pair(),),
)

#: What becomes of `sliding_window` where llama.cpp has none.
WINDOW_LOSS: Final = (
    "llama.cpp lets this architecture attend to the whole context; the window stays in the file, unread"
)

MISTRAL: Final = replace(
    LLAMA,
    model_type="mistral",
    classes=("MistralForCausalLM", "MistralModel"),
    headless=frozenset({"MistralModel"}),
    rules=(*TRUNK, *NORMS, *attention(Order.ROPE), *MLP),
    keys=(
        *defaulting(LLAMA.keys, num_key_value_heads=8),
        Key(("sliding_window",), "attention.sliding_window", "u32", unless_null("sliding_window", 4096), always(None)),
    ),
    assumptions=(SILU, Assumption("sliding_window", (None,), 4096, written=False, loss=WINDOW_LOSS)),
    flags={},
    claims=lambda values: "attention.sliding_window" in values,
)

MIXTRAL: Final = replace(
    LLAMA,
    model_type="mixtral",
    classes=("MixtralForCausalLM", "MixtralModel"),
    headless=frozenset({"MixtralModel"}),
    rules=(*TRUNK, *NORMS, *attention(Order.ROPE), *MOE_EXPERTS),
    keys=(
        *defaulting(LLAMA.keys, num_key_value_heads=8, rms_norm_eps=1e-5),
        Key(("num_local_experts",), "expert_count", "u32", always(8)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(2)),
        Key(("sliding_window",), "attention.sliding_window", "u32", always(None), always(None)),
    ),
    assumptions=(SILU, Assumption("sliding_window", (None,), None, written=False, loss=WINDOW_LOSS)),
    flags={},
    irregular=(Rope(theta=1_000_000.0).pair(),),
    claims=lambda values: bool(values.get("expert_count")),
)
