"""NeoBERT: an encoder like a llama that sees to both sides; queries, keys and values of a head lie behind each other.

llama.cpp's graph takes queries of all heads, then keys, then values, and its converter leaves the rows in the release's
order, by heads: its embeddings are those of another model. Here the rows are in the graph's order. Facts: llama.cpp's
conversion/bert.py and src/models/neo-bert.cpp; the released model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.changes import Grid
from requant.architectures.classifier import Classifier
from requant.architectures.decoders import UNSCALED, norm
from requant.architectures.numbers import positive
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToHf,
    always,
    module,
    unsaid,
)
from requant.ir import Json, Tensor

_LAYER: Final = "{base}transformer_encoder.{n}."


def _width(config: Config) -> Json:
    """Two thirds of what is said, in steps of 8."""
    said = int(positive({"intermediate_size": config.get("intermediate_size", 3072)}, "intermediate_size"))
    return -(-int(2 * said / 3) // 8) * 8


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"intermediate_size": -(-3 * sizes["ffn"] // 2)})


NEO_BERT: Final = Family(
    model_type="neobert",
    ggml="neo-bert",
    classes=("NeoBERT", "NeoBERTLMHead"),
    headless=frozenset(),
    bases=("", "model."),
    rules=(
        Rule("{base}encoder.weight", "token_embd.weight", ("vocab", "hidden")),
        *norm(_LAYER + "attention_norm", "blk.{n}.attn_norm"),
        Rule(
            _LAYER + "qkv.weight",
            "blk.{n}.attn_qkv.weight",
            ("qkv", "hidden"),
            changes=(Grid(("heads", 3, "head"), (1, 0, 2)),),
        ),
        Rule(_LAYER + "wo.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        *norm(_LAYER + "ffn_norm", "blk.{n}.ffn_norm"),
        Rule(_LAYER + "ffn.w12.weight", "blk.{n}.ffn_up.weight", ("ffn_pair", "hidden")),
        Rule(_LAYER + "ffn.w3.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
        *norm("{base}layer_norm", "enc.output_norm"),
    ),
    keys=(
        Key(("num_hidden_layers",), "block_count", "u32", always(28)),
        Key(("max_length",), "context_length", "u32", always(1024)),
        Key(("hidden_size",), "embedding_length", "u32", always(768)),
        Key((), "feed_forward_length", "u32", _width),
        Key(("num_attention_heads",), "attention.head_count", "u32", always(12)),
        Key(("norm_eps",), "attention.layer_norm_rms_epsilon", "f32", always(1e-6)),
        Key((), "rope.freq_base", "f32", always(10000.0), always(10000.0)),
        UNSCALED,
        Key((), "attention.causal", "bool", always(False), always(False)),
        Key((), "pooling_type", "u32", always(2)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("rope", (True,), True, written=False),
        Assumption("rms_norm", (True,), True, written=False),
        Assumption("hidden_act", ("SwiGLU", "swiglu"), "SwiGLU", written=False),
        Assumption("ngpt", (False,), False, written=False),
    ),
    ignored=(
        Ignored(r"(model\.)?freqs_cis", "computed from the width of a head"),
        Ignored(r"decoder\..*", "a pre-training head, which embeddings do not need", lost=True),
    ),
    irregular=(Irregular(unsaid, _to_hf),),
    tied=True,
    classifier=Classifier(
        classes=("NeoBERTForSequenceClassification",),
        rules=(
            *module("dense", "cls", ("hidden", "hidden")),
            *module("classifier", "cls.output", ("labels", "hidden")),
        ),
        last=False,
    ),
)
