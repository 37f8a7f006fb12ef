"""BERT encoders for embeddings (MiniLM, BGE, …): the pooler and the pre-training heads have no place in GGUF.

Facts: llama.cpp's conversion/bert.py and src/models/bert.cpp.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.classifier import Classifier
from requant.architectures.rules import Assumption, Family, Ignored, Key, Rule, always
from requant.encodings import F16

_EMBEDDINGS: Final = "{base}embeddings."


def _layer(hf: str, ggml: str, weight: tuple[str, ...], bias: str) -> tuple[Rule, Rule]:
    """Weight and bias of one module of a layer."""
    hf, ggml = "{base}encoder.layer.{n}." + hf, "blk.{n}." + ggml
    return Rule(hf + ".weight", ggml + ".weight", weight), Rule(hf + ".bias", ggml + ".bias", (bias,))


BERT: Final = Family(
    model_type="bert",
    ggml="bert",
    classes=("BertModel", "BertForMaskedLM"),
    headless=frozenset(),
    bases=("", "bert."),
    rules=(
        Rule(_EMBEDDINGS + "word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        Rule(_EMBEDDINGS + "token_type_embeddings.weight", "token_types.weight", ("types", "hidden")),
        Rule(_EMBEDDINGS + "position_embeddings.weight", "position_embd.weight", ("positions", "hidden")),
        Rule(_EMBEDDINGS + "LayerNorm.weight", "token_embd_norm.weight", ("hidden",)),
        Rule(_EMBEDDINGS + "LayerNorm.bias", "token_embd_norm.bias", ("hidden",)),
        *_layer("attention.self.query", "attn_q", ("q", "hidden"), "q"),
        *_layer("attention.self.key", "attn_k", ("q", "hidden"), "q"),
        *_layer("attention.self.value", "attn_v", ("q", "hidden"), "q"),
        *_layer("attention.output.dense", "attn_output", ("hidden", "q"), "hidden"),
        *_layer("attention.output.LayerNorm", "attn_output_norm", ("hidden",), "hidden"),
        *_layer("intermediate.dense", "ffn_up", ("ffn", "hidden"), "ffn"),
        *_layer("output.dense", "ffn_down", ("hidden", "ffn"), "hidden"),
        *_layer("output.LayerNorm", "layer_output_norm", ("hidden",), "hidden"),
    ),
    keys=(
        Key(("num_hidden_layers",), "block_count", "u32"),
        Key(("max_position_embeddings",), "context_length", "u32"),
        Key(("hidden_size",), "embedding_length", "u32"),
        Key(("intermediate_size",), "feed_forward_length", "u32"),
        Key(("num_attention_heads",), "attention.head_count", "u32"),
        Key(("layer_norm_eps",), "attention.layer_norm_epsilon", "f32", default=always(1e-12)),
        Key(("type_vocab_size",), "tokenizer.ggml.token_type_count", "u32", default=always(2)),
        Key((), "attention.causal", "bool", default=always(False), implied=always(False)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("hidden_act", ("gelu", "gelu_new", "gelu_pytorch_tanh"), "gelu"),
        Assumption("position_embedding_type", ("absolute",), "absolute"),
        Assumption("is_decoder", (False,), False, written=False),
    ),
    ignored=(
        Ignored(r"(bert\.)?embeddings\.position_ids", "counts from zero"),
        Ignored(r"(bert\.)?pooler\.dense\.(weight|bias)", "llama.cpp has no use for the pooler", lost=True),
        Ignored(r"cls\..*", "a pre-training head, which embeddings do not need", lost=True),
    ),
    tied=True,
    half=F16,
    renamed=((".gamma", ".weight"), (".beta", ".bias")),
    classifier=Classifier(
        classes=("BertForSequenceClassification",),
        rules=(
            Rule("{base}pooler.dense.weight", "cls.weight", ("hidden", "hidden")),
            Rule("{base}pooler.dense.bias", "cls.bias", ("hidden",)),
            Rule("classifier.weight", "cls.output.weight", ("labels", "hidden")),
            Rule("classifier.bias", "cls.output.bias", ("labels",)),
        ),
        last=False,
    ),
)
