"""Jina's embeddings v2: BERT with ALiBi in place of positions, and a feed-forward network whose gate is one matrix
with what it gates. The models for code have norms of queries and keys, and a second norm behind attention.

Facts: llama.cpp's conversion/bert.py, src/models/jina-bert-v2.cpp and bert.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.bert import BERT
from requant.architectures.rules import Assumption, Family, Ignored, Key, Rule, always

_LAYER: Final = "{base}encoder.layer.{n}."


def _module(hf: str, ggml: str, weight: tuple[str, ...], when: str = "", *, bias: bool = True) -> tuple[Rule, ...]:
    """Weight and bias of one module of a layer."""
    hf, ggml = _LAYER + hf, "blk.{n}." + ggml
    rule = Rule(hf + ".weight", ggml + ".weight", weight, when=when)
    return (rule, Rule(hf + ".bias", ggml + ".bias", weight[:1], when=when)) if bias else (rule,)


_ATTENTION: Final = tuple(
    rule for rule in BERT.rules if not any(part in rule.ggml for part in ("position_embd", "ffn_", "layer_output_norm"))
)

JINA_BERT_V2: Final[Family] = replace(
    BERT,
    ggml="jina-bert-v2",
    classes=("JinaBertModel", "JinaBertForMaskedLM"),
    rules=(
        *_ATTENTION,
        *_module("attention.self.layer_norm_q", "attn_q_norm", ("hidden",), "norms"),
        *_module("attention.self.layer_norm_k", "attn_k_norm", ("hidden",), "norms"),
        *_module("layer_norm_1", "attn_norm_2", ("hidden",), "code"),
        *_module("mlp.gated_layers", "ffn_up", ("ffn_pair", "hidden"), "!code", bias=False),
        *_module("mlp.up_gated_layer", "ffn_up", ("ffn_pair", "hidden"), "code", bias=False),
        *_module("mlp.wo", "ffn_down", ("hidden", "ffn"), "!code"),
        *_module("mlp.down_layer", "ffn_down", ("hidden", "ffn"), "code"),
        *_module("mlp.layernorm", "layer_output_norm", ("hidden",), "!code"),
        *_module("layer_norm_2", "layer_output_norm", ("hidden",), "code"),
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
