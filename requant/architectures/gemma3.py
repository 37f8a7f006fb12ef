"""Gemma 3 text models: norms stored as offsets from one, and windows in five layers of six.

Facts: llama.cpp's conversion/gemma.py and src/models/gemma3.cpp (which scales the embedding, and knows the attention
scale from the width of a head, but from hidden size and heads in the 27B model).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.llama import BUFFERS, MLP
from requant.architectures.numbers import at_least_one, number, shortest
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    MMPROJ,
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
from requant.architectures.windows import (
    PATTERN,
    SLIDING,
    WINDOW,
    layer_types,
    regular,
    windowed,
    windowed_in_ggml,
)
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Json, Tensor, Typed

_LAYER: Final = "{base}layers.{n}."
_ATTN: Final = _LAYER + "self_attn."
#: One layer in so many sees the whole context, where a GGUF says nothing else.
_PERIOD: Final = 6
_LAYERS_27B: Final = 62


def _norm(hf: str, ggml: str, size: str = "hidden") -> Rule:
    return Rule(hf + ".weight", ggml + ".weight", (size,), add=1.0)


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    scalar = number(config, "query_pre_attn_scalar", 256)
    if scalar != _scalar(sizes):
        raise PlanError(
            f"config.json: query_pre_attn_scalar is {scalar:g}; llama.cpp scales attention by {_scalar(sizes)} here"
        )
    windows = windowed(config, sizes["layers"], _PERIOD)
    if not any(windows):
        return ToGgml()
    window = config.get("sliding_window", 4096)
    values = {
        WINDOW: Typed("u32", at_least_one({"sliding_window": window}, "sliding_window")),
        "rope.freq_base_swa": Typed("f32", local_theta(config)),
    }
    if windows != regular(sizes["layers"], _PERIOD):
        values[PATTERN] = Typed("[bool]", windows)
    return ToGgml(values)


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    windows = windowed_in_ggml(values, sizes["layers"], _PERIOD)
    config: dict[str, Json] = {
        "query_pre_attn_scalar": _scalar(sizes),
        "layer_types": layer_types(windows),
        "rope_local_base_freq": shortest(number(values, "rope.freq_base_swa", 10000.0)),
        "sliding_window": values.get(WINDOW) or 4096,
    }
    if windows == regular(sizes["layers"], _PERIOD):
        config["sliding_window_pattern"] = _PERIOD
    return ToHf(config, keys=frozenset({WINDOW, PATTERN, "rope.freq_base_swa"}))


def _scalar(sizes: Sizes) -> int:
    """What llama.cpp takes for `query_pre_attn_scalar`."""
    return sizes["hidden"] // sizes["heads"] if sizes["layers"] == _LAYERS_27B else sizes["head"]


def local_theta(config: Config) -> float:
    """The rope base of windowed layers, which nothing scales."""
    rope = config.get("rope_parameters")
    local = rope.get(SLIDING) if isinstance(rope, dict) else None
    if isinstance(local, dict):
        if local.get("rope_type", "default") != "default":
            raise UnsupportedError(f"config.json: rope type {local['rope_type']!r} in layers with a window")
        return number(local, "rope_theta", 10000.0)
    return number(config, "rope_local_base_freq", 10000.0)


GEMMA3: Final = Family(
    model_type="gemma3_text",
    ggml="gemma3",
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Gemma3TextModel"),
    headless=frozenset({"Gemma3TextModel"}),
    bases=("model.", "model.language_model.", "language_model.model.", ""),
    rules=(
        Rule("{base}embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
        _norm("{base}norm", "output_norm"),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
        _norm(_LAYER + "input_layernorm", "blk.{n}.attn_norm"),
        Rule(_ATTN + "q_proj.weight", "blk.{n}.attn_q.weight", ("q", "hidden")),
        Rule(_ATTN + "k_proj.weight", "blk.{n}.attn_k.weight", ("kv", "hidden")),
        Rule(_ATTN + "v_proj.weight", "blk.{n}.attn_v.weight", ("kv", "hidden")),
        Rule(_ATTN + "o_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        _norm(_ATTN + "q_norm", "blk.{n}.attn_q_norm", "head"),
        _norm(_ATTN + "k_norm", "blk.{n}.attn_k_norm", "head"),
        _norm(_LAYER + "post_attention_layernorm", "blk.{n}.post_attention_norm"),
        _norm(_LAYER + "pre_feedforward_layernorm", "blk.{n}.ffn_norm"),
        *MLP,
        _norm(_LAYER + "post_feedforward_layernorm", "blk.{n}.post_ffw_norm"),
    ),
    keys=(
        Key(("num_hidden_layers",), "block_count", "u32", default=always(26)),
        Key(("max_position_embeddings",), "context_length", "u32", default=always(131072)),
        Key(("hidden_size",), "embedding_length", "u32", default=always(2304)),
        Key(("intermediate_size",), "feed_forward_length", "u32", default=always(9216)),
        Key(("num_attention_heads",), "attention.head_count", "u32", default=always(8)),
        Key(
            ("num_key_value_heads",),
            "attention.head_count_kv",
            "u32",
            default=always(4),
            implied=same_as("attention.head_count"),
        ),
        Key(("rms_norm_eps",), "attention.layer_norm_rms_epsilon", "f32", default=always(1e-6)),
        Key(("head_dim",), "attention.key_length", "u32", default=always(256)),
        Key((), "attention.value_length", "u32", default=same_as("head_dim"), implied=same_as("attention.key_length")),
        Key(("final_logit_softcapping",), "final_logit_softcapping", "f32", default=always(None), implied=always(None)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh"),
        Assumption("attention_bias", (False,), False),
        Assumption("attn_logit_softcapping", (None,), None, written=False),
        Assumption("use_bidirectional_attention", (False, None), False, written=False),
    ),
    ignored=(
        *BUFFERS,
        Ignored(
            r"(model\.)?(vision_tower|multi_modal_projector)\..*",
            MMPROJ,
            lost=True,
        ),
    ),
    irregular=(Rope(theta=1_000_000.0).pair(), Irregular(_to_ggml, _to_hf)),
    tied=True,
    other_types=("gemma3",),
    outgrows_f16=True,
)

#: EmbeddingGemma: the same, seeing to both sides.
GEMMA_EMBEDDING: Final = replace(
    GEMMA3,
    ggml="gemma-embedding",
    classes=("Gemma3TextModel",),
    bases=("", "model."),
    keys=tuple(key for key in GEMMA3.keys if key.ggml != "final_logit_softcapping"),
    assumptions=(
        *GEMMA3.assumptions[:2],
        Assumption("attn_logit_softcapping", (None,), None, written=False),
        Assumption("final_logit_softcapping", (None,), None, written=False),
        Assumption("use_bidirectional_attention", (True,), False),
    ),
    suits=lambda config: config.get("use_bidirectional_attention") is True,
)
