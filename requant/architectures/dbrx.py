"""DBRX: the experts of a layer in three tensors, rows behind rows; queries, keys and values in one, and clamped.

Facts: llama.cpp's conversion/dbrx.py and src/models/dbrx.cpp; the tensors' names are those of the release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.decoders import norm
from requant.architectures.numbers import number, positive, shortest
from requant.architectures.rules import (
    Config,
    Default,
    Family,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed

_BLOCK: Final = "{base}blocks.{n}."
_ATTN: Final = _BLOCK + "norm_attn_norm."
_EXPERTS: Final = _BLOCK + "ffn.experts.mlp."
_THETA, _CLAMP = "rope.freq_base", "attention.clamp_kqv"
_PARTS: Final = ("attn_config", "ffn_config")


def _inner(config: Config, part: str) -> Config:
    found = config.get(part)
    if not isinstance(found, dict):
        raise PlanError(f"config.json: {part} is no object")
    return found


def _count(part: str, name: str) -> Default:
    def of(config: Config) -> Json:
        return _inner(config, part).get(name)

    return of


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    attention, ffn = (_inner(config, part) for part in _PARTS)
    if ffn.get("moe_normalize_expert_weights", 1) != 1:
        raise PlanError("config.json: ffn_config.moe_normalize_expert_weights is not 1; llama.cpp knows no other")
    return ToGgml(
        {
            _THETA: Typed("f32", positive(attention, "rope_theta", 10000.0)),
            _CLAMP: Typed("f32", positive(attention, "clip_qkv")),
        }
    )


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    attention: Json = {
        "kv_n_heads": sizes["kv_heads"],
        "clip_qkv": shortest(number(values, _CLAMP)),
        "rope_theta": shortest(number(values, _THETA, 10000.0)),
    }
    ffn: Json = {
        "ffn_hidden_size": sizes["ffn"],
        "moe_num_experts": sizes["experts"],
        "moe_top_k": int(number(values, "expert_used_count")),
        "moe_normalize_expert_weights": 1.0,
    }
    return ToHf({"attn_config": attention, "ffn_config": ffn}, keys=frozenset({_THETA, _CLAMP}))


def _stack(part: str, ggml: str, order: Order = Order.SAME) -> Rule:
    return Rule(
        _EXPERTS + part,
        f"blk.{{n}}.ffn_{ggml}_exps.weight",
        ("expert_rows", "hidden"),
        order,
        flat=("experts", "ffn", "hidden"),
    )


DBRX: Final = Family(
    model_type="dbrx",
    ggml="dbrx",
    classes=("DbrxForCausalLM", "DbrxModel"),
    headless=frozenset({"DbrxModel"}),
    bases=("transformer.", ""),
    rules=(
        Rule("{base}wte.weight", "token_embd.weight", ("vocab", "hidden")),
        *norm("{base}norm_f", "output_norm"),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
        *norm(_ATTN + "norm_1", "blk.{n}.attn_norm"),
        Rule(_ATTN + "attn.Wqkv.weight", "blk.{n}.attn_qkv.weight", ("qkv", "hidden")),
        Rule(_ATTN + "attn.out_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        *norm(_ATTN + "norm_2", "blk.{n}.attn_output_norm"),
        Rule(_BLOCK + "ffn.router.layer.weight", "blk.{n}.ffn_gate_inp.weight", ("experts", "hidden")),
        _stack("w1", "gate"),
        _stack("v1", "up"),
        _stack("w2", "down", Order.TRANSPOSED),
    ),
    keys=(
        Key(("n_layers",), "block_count", "u32"),
        Key(("max_seq_len",), "context_length", "u32"),
        Key(("d_model",), "embedding_length", "u32"),
        Key((), "feed_forward_length", "u32", _count("ffn_config", "ffn_hidden_size")),
        Key(("n_heads",), "attention.head_count", "u32"),
        Key((), "attention.head_count_kv", "u32", _count("attn_config", "kv_n_heads")),
        Key((), "expert_count", "u32", _count("ffn_config", "moe_num_experts")),
        Key((), "expert_used_count", "u32", _count("ffn_config", "moe_top_k")),
        Key((), "attention.layer_norm_epsilon", "f32", always(1e-5), always(1e-5)),
    ),
    embedding="token_embd.weight",
    irregular=(Irregular(_to_ggml, _to_hf),),
)
