"""Jina's embeddings v2: BERT with ALiBi in place of positions, and a feed-forward network whose gate is one matrix
with what it gates. The models for code have norms of queries and keys, and a second norm behind attention.

Facts: llama.cpp's conversion/bert.py, src/models/jina-bert-v2.cpp and bert.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.bert import BERT
from requant.architectures.rules import (
    Assumption,
    Family,
    Ignored,
    Key,
    always,
    module,
)

_LAYER: Final = "{base}encoder.layer.{n}."


_ATTENTION: Final = tuple(
    rule for rule in BERT.rules if not any(part in rule.ggml for part in ("position_embd", "ffn_", "layer_output_norm"))
)

JINA_BERT_V2: Final[Family] = replace(
    BERT,
    ggml="jina-bert-v2",
    classes=("JinaBertModel", "JinaBertForMaskedLM"),
    rules=(
        *_ATTENTION,
        *module(_LAYER + "attention.self.layer_norm_q", "blk.{n}.attn_q_norm", ("hidden",), when="norms"),
        *module(_LAYER + "attention.self.layer_norm_k", "blk.{n}.attn_k_norm", ("hidden",), when="norms"),
        *module(_LAYER + "layer_norm_1", "blk.{n}.attn_norm_2", ("hidden",), when="code"),
        *module(_LAYER + "mlp.gated_layers", "blk.{n}.ffn_up", ("ffn_pair", "hidden"), when="!code", bias=False),
        *module(_LAYER + "mlp.up_gated_layer", "blk.{n}.ffn_up", ("ffn_pair", "hidden"), when="code", bias=False),
        *module(_LAYER + "mlp.wo", "blk.{n}.ffn_down", ("hidden", "ffn"), when="!code"),
        *module(_LAYER + "mlp.down_layer", "blk.{n}.ffn_down", ("hidden", "ffn"), when="code"),
        *module(_LAYER + "mlp.layernorm", "blk.{n}.layer_output_norm", ("hidden",), when="!code"),
        *module(_LAYER + "layer_norm_2", "blk.{n}.layer_output_norm", ("hidden",), when="code"),
    ),
    keys=tuple(
        Key(("type_vocab_size",), key.ggml, "u32", default=always(2)) if key.ggml.startswith("tokenizer.") else key
        for key in BERT.keys
    ),
    assumptions=(
        Assumption("position_embedding_type", ("alibi",), "absolute"),
        Assumption("feed_forward_type", ("geglu",), "original"),
    ),
    ignored=(
        *BERT.ignored,
        Ignored(r"(lm_head|classifier)\..*", "a head, which embeddings do not need", lost=True),
    ),
    present={"code": r"\.mlp\.up_gated_layer\.weight", "norms": r"\.attention\.self\.layer_norm_q\.weight"},
    renamed=(),
    classifier=None,
)
