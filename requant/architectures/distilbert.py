"""DistilBERT: BERT without token types, under other names.

Its classifier has a ReLU where llama.cpp's has tanh, gelu or silu, and is not taken; llama.cpp's converter takes it.

Facts: llama.cpp's conversion/bert.py, src/models/bert.cpp; transformers' modeling_distilbert.py.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import norm
from requant.architectures.rules import (
    Assumption,
    Family,
    Ignored,
    Key,
    Rule,
    always,
    module,
)
from requant.encodings import F16

_LAYER: Final = "{base}transformer.layer.{n}."


DISTILBERT: Final = Family(
    model_type="distilbert",
    ggml="bert",
    classes=("DistilBertModel", "DistilBertForMaskedLM"),
    headless=frozenset(),
    bases=("", "distilbert."),
    rules=(
        Rule("{base}embeddings.word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        Rule("{base}embeddings.position_embeddings.weight", "position_embd.weight", ("positions", "hidden")),
        *norm("{base}embeddings.LayerNorm", "token_embd_norm", bias=True),
        *module(_LAYER + "attention.q_lin", "blk.{n}.attn_q", ("q", "hidden")),
        *module(_LAYER + "attention.k_lin", "blk.{n}.attn_k", ("q", "hidden")),
        *module(_LAYER + "attention.v_lin", "blk.{n}.attn_v", ("q", "hidden")),
        *module(_LAYER + "attention.out_lin", "blk.{n}.attn_output", ("hidden", "q")),
        *norm(_LAYER + "sa_layer_norm", "blk.{n}.attn_output_norm", bias=True),
        *module(_LAYER + "ffn.lin1", "blk.{n}.ffn_up", ("ffn", "hidden")),
        *module(_LAYER + "ffn.lin2", "blk.{n}.ffn_down", ("hidden", "ffn")),
        *norm(_LAYER + "output_layer_norm", "blk.{n}.layer_output_norm", bias=True),
    ),
    keys=(
        Key(("n_layers", "num_hidden_layers"), "block_count", "u32", default=always(6)),
        Key(("max_position_embeddings",), "context_length", "u32", default=always(512)),
        Key(("dim", "hidden_size"), "embedding_length", "u32", default=always(768)),
        Key(("hidden_dim",), "feed_forward_length", "u32", default=always(3072)),
        Key(("n_heads", "num_attention_heads"), "attention.head_count", "u32", default=always(12)),
        # of which config.json says nothing
        Key((), "attention.layer_norm_epsilon", "f32", default=always(1e-12), implied=always(1e-12)),
        Key((), "tokenizer.ggml.token_type_count", "u32", default=always(1)),
        Key((), "attention.causal", "bool", default=always(False), implied=always(False)),
    ),
    embedding="token_embd.weight",
    assumptions=(Assumption("activation", ("gelu",), "gelu"),),
    ignored=(Ignored(r"vocab_.*", "a pre-training head, which embeddings do not need", lost=True),),
    tied=True,
    half=F16,
    lacks="token_types.weight",
)
