"""ModernBERT: an encoder with windows to both sides in two layers of three, and two bases of rotation.

Facts: llama.cpp's conversion/bert.py, src/models/modern-bert.cpp; transformers' modeling_modernbert.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from requant.architectures.classifier import Classifier
from requant.architectures.numbers import at_least_one, number, positive, shortest, shown
from requant.architectures.rope import parameters
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    same_as,
)
from requant.architectures.windows import FULL, PATTERN, SLIDING, WINDOW, layer_types
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Json, Tensor, Typed

_LAYER: Final = "{base}layers.{n}."
_PERIOD: Final = 3
_THETA, _LOCAL_THETA = "rope.freq_base", "rope.freq_base_swa"
#: What the classifier is given: llama.h's `llama_pooling_type` of what transformers calls it.
_POOLING: Final[Mapping[str, int]] = {"mean": 1, "cls": 2}
_POOLED: Final = "classifier.pooling_type"


def _windows(config: Config, layers: int) -> list[bool]:
    """For each layer, whether it sees only a window."""
    types = config.get("layer_types")
    if types is None:
        period = int(number(config, "global_attn_every_n_layers", _PERIOD))
        return [period <= 0 or n % period != 0 for n in range(layers)]
    if not isinstance(types, list) or len(types) != layers or not set(map(str, types)) <= {SLIDING, FULL}:
        raise PlanError(f"config.json: layer_types does not name {SLIDING} or {FULL} for {layers} layers")
    return [item == SLIDING for item in types]


def _regular(layers: int, period: int) -> list[bool]:
    return [n % period != 0 for n in range(layers)]


def _theta(config: Config, layer_type: str, older: str, absent: float) -> float:
    """The base of one type of layer; earlier releases say it under a name of its own. Nothing scales it."""
    found = parameters({**config, "rope_theta": config.get(older)}, absent, layer_type)
    if found["rope_type"] != "default":
        raise UnsupportedError(f"config.json: rope type {found['rope_type']!r}; llama.cpp has none for ModernBERT")
    return positive(found, "rope_theta")


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    layers = sizes["layers"]
    windows = _windows(config, layers)
    width = at_least_one({"local_attention": config.get("local_attention", 128)}, "local_attention")
    values = {
        WINDOW: Typed("u32", width),
        PATTERN: Typed("u32", _PERIOD) if windows == _regular(layers, _PERIOD) else Typed("[bool]", windows),
        _THETA: Typed("f32", _theta(config, FULL, "global_rope_theta", 160000.0)),
        _LOCAL_THETA: Typed("f32", _theta(config, SLIDING, "local_rope_theta", 10000.0)),
    }
    pooling = config.get("classifier_pooling", "cls")
    number_of = _POOLING.get(pooling) if isinstance(pooling, str) else None
    if number_of is None:
        raise PlanError(f"config.json: classifier_pooling is {shown(pooling)}, one of {', '.join(_POOLING)} is needed")
    return ToGgml({**values, _POOLED: Typed("u32", number_of)})


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    layers, pattern = sizes["layers"], values.get(PATTERN, _PERIOD)
    windows = [False] * layers
    if values.get(WINDOW) and isinstance(pattern, list) and len(pattern) >= layers:
        windows = [bool(item) for item in pattern[:layers]]
    elif values.get(WINDOW) and isinstance(pattern, int) and pattern > 0:
        windows = _regular(layers, pattern)
    full, local = (shortest(number(values, key, absent)) for key, absent in ((_THETA, 160000.0), (_LOCAL_THETA, 1e4)))
    pooling = next((name for name, n in _POOLING.items() if n == values.get(_POOLED)), "mean")
    config: dict[str, Json] = {
        "local_attention": int(number(values, WINDOW, 128)),
        "layer_types": layer_types(windows),
        "rope_parameters": {
            FULL: {"rope_type": "default", "rope_theta": full},
            SLIDING: {"rope_type": "default", "rope_theta": local},
        },
        "global_rope_theta": full,
        "local_rope_theta": local,
        "classifier_pooling": pooling,
    }
    if windows == _regular(layers, _PERIOD):
        config["global_attn_every_n_layers"] = _PERIOD
    return ToHf(config, keys=frozenset({WINDOW, PATTERN, _THETA, _LOCAL_THETA, _POOLED}))


def _first(values: Config) -> Sequence[bool]:
    layers = values.get("block_count")
    return [n == 0 for n in range(min(layers, 1 << 16))] if isinstance(layers, int) else []


MODERN_BERT: Final = Family(
    model_type="modernbert",
    ggml="modern-bert",
    classes=("ModernBertModel", "ModernBertForMaskedLM"),
    headless=frozenset(),
    bases=("", "model."),
    rules=(
        Rule("{base}embeddings.tok_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        Rule("{base}embeddings.norm.weight", "token_embd_norm.weight", ("hidden",)),
        # the norm of the embedding is that of the first layer
        Rule(_LAYER + "attn_norm.weight", "blk.{n}.attn_norm.weight", ("hidden",), when="!first"),
        Rule(_LAYER + "attn.Wqkv.weight", "blk.{n}.attn_qkv.weight", ("qkv", "hidden")),
        Rule(_LAYER + "attn.Wo.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        Rule(_LAYER + "mlp_norm.weight", "blk.{n}.ffn_norm.weight", ("hidden",)),
        Rule(_LAYER + "mlp.Wi.weight", "blk.{n}.ffn_up.weight", ("ffn_pair", "hidden")),
        Rule(_LAYER + "mlp.Wo.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
        Rule("{base}final_norm.weight", "output_norm.weight", ("hidden",)),
    ),
    keys=(
        Key(("num_hidden_layers",), "block_count", "u32", default=always(22)),
        Key(("max_position_embeddings",), "context_length", "u32", default=always(8192)),
        Key(("hidden_size",), "embedding_length", "u32", default=always(768)),
        Key(("intermediate_size",), "feed_forward_length", "u32", default=always(1152)),
        Key(("num_attention_heads",), "attention.head_count", "u32", default=always(12)),
        Key(("norm_eps",), "attention.layer_norm_epsilon", "f32", default=always(1e-5)),
        # the converter's reading of the same number; unread by llama.cpp here
        Key((), "attention.layer_norm_rms_epsilon", "f32", default=same_as("norm_eps")),
        Key(("hidden_activation",), "hidden_activation", "str", default=always("gelu"), implied=always("gelu")),
        Key(("classifier_activation",), "classifier.activation", "str", always("gelu"), always("gelu")),
        Key((), "vocab_size", "u32", default=same_as("vocab_size"), implied=same_as("vocabulary")),
        Key((), "rope.scaling.type", "str", default=always("none")),
        Key((), "attention.causal", "bool", default=always(False), implied=always(False)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("hidden_activation", ("gelu", "silu"), "gelu", written=False),
        Assumption("classifier_activation", ("gelu", "silu", "tanh"), "gelu", written=False),
        Assumption("attention_bias", (False,), False),
        Assumption("mlp_bias", (False,), False),
        Assumption("norm_bias", (False,), False),
        Assumption("classifier_bias", (False,), False),
    ),
    layers={"first": _first},
    ignored=(Ignored(r"(head|decoder)\..*", "a pre-training head, which embeddings do not need", lost=True),),
    irregular=(Irregular(_to_ggml, _to_hf),),
    tied=True,
    classifier=Classifier(
        classes=("ModernBertForSequenceClassification",),
        rules=(
            Rule("head.dense.weight", "cls.weight", ("hidden", "hidden")),
            Rule("head.norm.weight", "cls.norm.weight", ("hidden",)),
            Rule("classifier.weight", "cls.output.weight", ("labels", "hidden")),
            Rule("classifier.bias", "cls.output.bias", ("labels",)),
        ),
        last=False,
    ),
)
