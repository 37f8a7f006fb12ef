"""Nomic's encoders (nomic-embed-text v1.5; v2 with experts in every other layer) and Jina's embeddings v3: BERT with
rotation in place of positions, under the names that the releases have.

Facts: llama.cpp's conversion/bert.py, src/models/bert.cpp; transformers' modeling_nomic_bert.py and
modeling_jina_embeddings_v3.py, which load and save these names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import norm
from requant.architectures.numbers import number, positive, shortest
from requant.architectures.rope import parameters
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    module,
    unsaid,
)
from requant.encodings import F16
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed

_LAYER: Final = "{base}encoder.layers.{n}."
_THETA: Final = "rope.freq_base"
_EVERY: Final = "moe_every_n_layers"
#: What Nomic's releases were trained for, by what they say: llama.cpp's converter knows these two.
_TRAINED: Final[Mapping[int, int]] = {8192: 2048, 2048: 512}


def _context(config: Config) -> Json:
    """Tokens of training. The releases say `n_positions`, transformers `max_position_embeddings`."""
    said = config.get("n_positions")
    if said is None:
        return config.get("max_position_embeddings", 2048)
    if config.get("max_trained_positions", 2048) == 2048 and isinstance(said, int):
        return _TRAINED.get(said, said)
    return said


def _positions(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    context = sizes["positions"]
    said = next((said for said, trained in _TRAINED.items() if trained == context), context)
    trained = 2048 if said != context else context
    return ToHf({"n_positions": said, "max_trained_positions": trained, "max_position_embeddings": context})


def _rope(absent: float) -> Irregular:
    """The base of the rotation, under its names."""

    def to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
        older = number(config, "rotary_emb_base", absent)
        found = parameters(config, older)
        if found["rope_type"] != "default":
            raise PlanError(f"config.json: rope type {found['rope_type']!r}; llama.cpp has no scaling for this model")
        return ToGgml({_THETA: Typed("f32", positive(found, "rope_theta"))})

    def to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
        theta = shortest(number(values, _THETA, 10000.0))
        config: dict[str, Json] = {
            "rotary_emb_base": theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        }
        return ToHf(config, keys=frozenset({_THETA}))

    return Irregular(to_ggml, to_hf)


def _common(attention: str, *, bias: bool) -> tuple[Rule, ...]:
    """All but the feed-forward network. attention: what its module is called."""
    return (
        Rule("{base}embeddings.word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        Rule("{base}embeddings.token_type_embeddings.weight", "token_types.weight", ("types", "hidden")),
        *norm("{base}emb_ln", "token_embd_norm", bias=True),
        *module(_LAYER + f"{attention}.Wqkv", "blk.{n}.attn_qkv", ("qkv", "hidden"), bias=bias),
        *module(_LAYER + f"{attention}.out_proj", "blk.{n}.attn_output", ("hidden", "q"), bias=bias),
        *norm(_LAYER + "norm1", "blk.{n}.attn_output_norm", bias=True),
        *norm(_LAYER + "norm2", "blk.{n}.layer_output_norm", bias=True),
    )


def _plain_mlp(when: str = "") -> tuple[Rule, ...]:
    return (
        *module(_LAYER + "mlp.fc1", "blk.{n}.ffn_up", ("ffn", "hidden"), bias=True, when=when),
        *module(_LAYER + "mlp.fc2", "blk.{n}.ffn_down", ("hidden", "ffn"), bias=True, when=when),
    )


def _keys(context: Key, layers: str, hidden: str, ffn: str, heads: str, epsilon: str) -> tuple[Key, ...]:
    """Hyperparameters; each size has a name of GPT-2 in the releases, and one of BERT in transformers."""
    return (
        Key((layers, "num_hidden_layers"), "block_count", "u32"),
        context,
        Key((hidden, "hidden_size"), "embedding_length", "u32"),
        Key((ffn, "intermediate_size"), "feed_forward_length", "u32"),
        Key((heads, "num_attention_heads"), "attention.head_count", "u32"),
        Key((epsilon, "layer_norm_eps"), "attention.layer_norm_epsilon", "f32", default=always(1e-12)),
        Key(("type_vocab_size",), "tokenizer.ggml.token_type_count", "u32", default=always(2)),
        Key((), "attention.causal", "bool", default=always(False), implied=always(False)),
    )


_GPT2_KEYS: Final = _keys(
    Key((), "context_length", "u32", default=_context),
    "n_layer",
    "n_embd",
    "n_inner",
    "n_head",
    "layer_norm_epsilon",
)
_COMMON: Final = (
    Assumption("causal", (False,), False),
    Assumption("prenorm", (False,), False),
    Assumption("rotary_emb_fraction", (1.0,), 1.0),
    Assumption("rotary_emb_interleaved", (False,), False),
    Assumption("rotary_emb_scale_base", (None,), None),
)


def _has_biases(said: bool) -> tuple[Assumption, ...]:
    names = ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias")
    return tuple(Assumption(name, (said,), said) for name in names)


NOMIC_BERT: Final = Family(
    model_type="nomic_bert",
    ggml="nomic-bert",
    classes=("NomicBertModel",),
    headless=frozenset(),
    bases=("", "bert."),
    rules=(
        *_common("attn", bias=False),
        *module(_LAYER + "mlp.fc12", "blk.{n}.ffn_gate", ("ffn", "hidden"), bias=False),
        *module(_LAYER + "mlp.fc11", "blk.{n}.ffn_up", ("ffn", "hidden"), bias=False),
        *module(_LAYER + "mlp.fc2", "blk.{n}.ffn_down", ("hidden", "ffn"), bias=False),
    ),
    keys=_GPT2_KEYS,
    embedding="token_embd.weight",
    assumptions=(
        *_COMMON,
        *_has_biases(False),
        Assumption("activation_function", ("swiglu",), "swiglu"),
        Assumption("hidden_act", ("silu",), "silu"),
    ),
    ignored=(
        Ignored(r"(bert\.)?pooler\.dense\.(weight|bias)", "llama.cpp has no use for the pooler", lost=True),
        Ignored(r"(cls|lm_head)\..*", "a pre-training head, which embeddings do not need", lost=True),
    ),
    irregular=(_rope(1000.0), Irregular(unsaid, _positions)),
    tied=True,
    half=F16,
    suits=lambda config: not config.get(_EVERY),
)


def _sparse(values: Config) -> Sequence[bool]:
    """The layers that have experts: llama.cpp takes the second of every so many."""
    layers, every = values.get("block_count"), values.get(_EVERY)
    if not isinstance(layers, int) or not isinstance(every, int) or every < 1:
        return []  # which `sizes_of` reports
    return [n % every == 1 for n in range(min(layers, 1 << 16))]


NOMIC_BERT_MOE: Final = replace(
    NOMIC_BERT,
    ggml="nomic-bert-moe",
    rules=(
        *_common("attn", bias=True),
        *_plain_mlp("!sparse"),
        Rule(_LAYER + "mlp.router.layer.weight", "blk.{n}.ffn_gate_inp.weight", ("experts", "hidden"), when="sparse"),
        Rule(
            _LAYER + "mlp.experts.mlp.w1",
            "blk.{n}.ffn_up_exps.weight",
            ("expert_rows", "hidden"),
            flat=("experts", "ffn", "hidden"),
            when="sparse",
        ),
        Rule(
            _LAYER + "mlp.experts.mlp.w2",
            "blk.{n}.ffn_down_exps.weight",
            ("expert_rows", "hidden"),
            Order.TRANSPOSED,
            flat=("experts", "ffn", "hidden"),
            when="sparse",
        ),
    ),
    keys=(
        *_GPT2_KEYS,
        Key(("num_experts", "num_local_experts"), "expert_count", "u32"),
        Key(("moe_top_k",), "expert_used_count", "u32"),
        Key((_EVERY,), _EVERY, "u32"),
    ),
    assumptions=(
        *_COMMON,
        *_has_biases(True),
        Assumption("activation_function", ("gelu",), "gelu"),
        Assumption("moe_normalize_expert_weights", (False,), False),
    ),
    layers={"sparse": _sparse},
    ignored=(*NOMIC_BERT.ignored, Ignored(r".*\.mlp\.experts\.bias", "llama.cpp has no bias of experts", lost=True)),
    irregular=(_rope(1000.0), Irregular(unsaid, _positions)),
    suits=lambda config: bool(config.get(_EVERY)),
)

#: XLM-RoBERTa counts positions from behind the padding, and Jina's configuration has kept that.
_BEHIND: Final = 2


def _counted(config: Config) -> Json:
    rows = config.get("max_position_embeddings", 8194)
    return rows - _BEHIND if isinstance(rows, int) and rows > _BEHIND else None


def _behind(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"max_position_embeddings": sizes["positions"] + _BEHIND, "pad_token_id": _BEHIND - 1})


JINA_BERT_V3: Final = Family(
    model_type="jina_embeddings_v3",
    ggml="jina-bert-v3",
    classes=("JinaEmbeddingsV3Model", "XLMRobertaModel"),
    headless=frozenset(),
    bases=("", "roberta."),
    rules=(*_common("mixer", bias=True), *_plain_mlp()),
    keys=(
        Key(("num_hidden_layers",), "block_count", "u32", default=always(24)),
        Key((), "context_length", "u32", default=_counted),
        Key(("hidden_size",), "embedding_length", "u32", default=always(1024)),
        Key(("intermediate_size",), "feed_forward_length", "u32", default=always(4096)),
        Key(("num_attention_heads",), "attention.head_count", "u32", default=always(16)),
        Key(("layer_norm_eps",), "attention.layer_norm_epsilon", "f32", default=always(1e-5)),
        Key(("type_vocab_size",), "tokenizer.ggml.token_type_count", "u32", default=always(1)),
        Key((), "attention.causal", "bool", default=always(False), implied=always(False)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("hidden_act", ("gelu",), "gelu"),
        Assumption("pad_token_id", (_BEHIND - 1,), _BEHIND - 1, written=False),
    ),
    ignored=(
        Ignored(r"(roberta\.)?pooler\.dense\..*", "llama.cpp has no use for the pooler", lost=True),
        Ignored(r"lm_head\..*", "a pre-training head, which embeddings do not need", lost=True),
        Ignored(r".*\.lora_[AB]", "an adapter for a task, which llama.cpp keeps in a file of its own", lost=True),
    ),
    irregular=(_rope(20000.0), Irregular(unsaid, _behind)),
    tied=True,
    renamed=((".parametrizations.weight.original", ".weight"),),
    other_types=("xlm-roberta",),
    suits=lambda config: bool(config.get("lora_adaptations")) or config.get("model_type") == "jina_embeddings_v3",
)
