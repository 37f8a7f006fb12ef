"""GPT-2: learned positions, fused qkv, and Conv1D weights stored [in, out].

Facts: llama.cpp's conversion/gpt2.py and src/models/gpt2.cpp.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.rules import (
    Assumption,
    Family,
    Ignored,
    Key,
    Order,
    Rule,
    always,
    four_times,
)
from requant.encodings import F16


def _layer(hf: str, ggml: str, weight: tuple[str, ...], bias: str, order: Order = Order.SAME) -> tuple[Rule, Rule]:
    """Weight and bias of one module of a layer."""
    hf, ggml = "{base}h.{n}." + hf, "blk.{n}." + ggml
    return Rule(hf + ".weight", ggml + ".weight", weight, order), Rule(hf + ".bias", ggml + ".bias", (bias,))


GPT2: Final = Family(
    model_type="gpt2",
    ggml="gpt2",
    classes=("GPT2LMHeadModel", "GPT2Model"),
    headless=frozenset({"GPT2Model"}),
    bases=("transformer.", ""),
    upright="model.",
    rules=(
        Rule("{base}wte.weight", "token_embd.weight", ("vocab", "hidden")),
        Rule("{base}wpe.weight", "position_embd.weight", ("positions", "hidden")),
        *_layer("ln_1", "attn_norm", ("hidden",), "hidden"),
        *_layer("attn.c_attn", "attn_qkv", ("hidden", "qkv"), "qkv", Order.TRANSPOSED),
        *_layer("attn.c_proj", "attn_output", ("hidden", "hidden"), "hidden", Order.TRANSPOSED),
        *_layer("ln_2", "ffn_norm", ("hidden",), "hidden"),
        *_layer("mlp.c_fc", "ffn_up", ("hidden", "ffn"), "ffn", Order.TRANSPOSED),
        *_layer("mlp.c_proj", "ffn_down", ("ffn", "hidden"), "hidden", Order.TRANSPOSED),
        Rule("{base}ln_f.weight", "output_norm.weight", ("hidden",)),
        Rule("{base}ln_f.bias", "output_norm.bias", ("hidden",)),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
    ),
    keys=(
        Key(("n_layer",), "block_count", "u32"),
        Key(("n_positions", "n_ctx"), "context_length", "u32"),
        Key(("n_embd",), "embedding_length", "u32"),
        Key(
            ("n_inner",),
            "feed_forward_length",
            "u32",
            default=four_times("n_embd"),
            implied=four_times("embedding_length"),
        ),
        Key(("n_head",), "attention.head_count", "u32"),
        Key(("layer_norm_epsilon",), "attention.layer_norm_epsilon", "f32", default=always(1e-5)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new"),
        Assumption("scale_attn_weights", (True,), True),
        Assumption("scale_attn_by_inverse_layer_idx", (False,), False),
        Assumption("add_cross_attention", (False,), False, written=False),
    ),
    ignored=(Ignored(r".*\.attn\.(bias|masked_bias)", "the causal mask, which is the same for every model"),),
    tied=True,
    half=F16,
)
