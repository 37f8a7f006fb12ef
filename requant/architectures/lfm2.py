"""LFM2, dense and with experts: short convolutions, between them some layers that look back.

Facts: llama.cpp's conversion/lfm2.py and src/models/lfm2.cpp; transformers' modeling_lfm2.py, modeling_lfm2_moe.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.attending import ATTENDING, key_value_heads, layers_of, listed_kinds
from requant.architectures.decoders import ATTN, LAYER, SIZES, VOCABULARY_SIZE, decoder, norm
from requant.architectures.direction import CAUSAL
from requant.architectures.experts import expert_rules
from requant.architectures.mixture import LEADING, SIGMOID, correction, counts, dense_layers, gating
from requant.architectures.numbers import number
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToHf,
    always,
    unsaid,
)
from requant.ir import Json, Tensor

_CONV: Final = "conv"
_FULL: Final = "full_attention"
_NETWORK: Final = LAYER + "feed_forward."
#: gate, down and up.
_NAMES: Final = ("w1", "w2", "w3")


def _which(config: Config) -> list[bool]:
    """By the list, or that of the layers that look back; transformers lets all of them, where neither is there."""
    listed = listed_kinds(config, {_CONV: False, _FULL: True})
    if listed is not None:
        return listed
    chosen, layers = config.get("full_attn_idxs"), layers_of(config)
    return [not isinstance(chosen, list) or n in chosen for n in range(layers)]


def _adjusted(config: Config) -> Json:
    """The width of the network, which config.json may say as that of one without gates, to be rounded up."""
    said = next((config[name] for name in ("block_ff_dim", "intermediate_size") if config.get(name) is not None), 12288)
    width = int(number({"intermediate_size": said}, "intermediate_size"))
    if not config.get("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    factor = config.get("block_ffn_dim_multiplier", 1.0)
    if factor is None:
        return width
    multiple = max(1, int(number(config, "block_multiple_of", 256)))
    return -(-int(number({"factor": factor}, "factor") * width) // multiple) * multiple


def _kinds(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    attends = ATTENDING["attends"](values)
    types: Json = [_FULL if looks_back else _CONV for looks_back in attends]
    return ToHf({"layer_types": types, "num_key_value_heads": sizes["kv_heads"]})


def _width(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"intermediate_size": sizes["ffn"], "block_auto_adjust_ff_dim": False})


def _network(when: str = "") -> tuple[Rule, ...]:
    parts = zip(("gate", "down", "up"), _NAMES, strict=True)
    return tuple(
        Rule(
            f"{_NETWORK}{name}.weight",
            f"blk.{{n}}.ffn_{part}.weight",
            ("hidden", "ffn") if part == "down" else ("ffn", "hidden"),
            when=when,
        )
        for part, name in parts
    )


_MIXERS: Final = (
    Rule("{base}embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
    # llama.cpp's name for it, though it is the last norm
    Rule("{base}embedding_norm.weight", "token_embd_norm.weight", ("hidden",)),
    *norm(LAYER + "operator_norm", "blk.{n}.attn_norm"),
    *norm(LAYER + "ffn_norm", "blk.{n}.ffn_norm"),
    Rule(ATTN + "q_proj.weight", "blk.{n}.attn_q.weight", ("q", "hidden"), when="attends"),
    Rule(ATTN + "k_proj.weight", "blk.{n}.attn_k.weight", ("kv", "hidden"), when="attends"),
    Rule(ATTN + "v_proj.weight", "blk.{n}.attn_v.weight", ("kv", "hidden"), when="attends"),
    Rule(ATTN + "out_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q"), when="attends"),
    *norm(ATTN + "q_layernorm", "blk.{n}.attn_q_norm", "head", when="attends"),
    *norm(ATTN + "k_layernorm", "blk.{n}.attn_k_norm", "head", when="attends"),
    Rule(
        LAYER + "conv.conv.weight",
        "blk.{n}.shortconv.conv.weight",
        ("hidden", "one", "kernel"),
        flat=("hidden", "kernel"),
        when="!attends",
    ),
    Rule(
        LAYER + "conv.in_proj.weight", "blk.{n}.shortconv.in_proj.weight", ("hidden_triple", "hidden"), when="!attends"
    ),
    Rule(LAYER + "conv.out_proj.weight", "blk.{n}.shortconv.out_proj.weight", ("hidden", "hidden"), when="!attends"),
)
_HEAD: Final = Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied")
_KEYS: Final = (
    *(key for key in SIZES if key.ggml not in ("attention.head_count_kv", "feed_forward_length")),
    Key(("norm_eps", "block_norm_eps"), "attention.layer_norm_rms_epsilon", "f32", always(1e-5)),
    Key(("conv_L_cache",), "shortconv.l_cache", "u32", always(3)),
    VOCABULARY_SIZE,
)
_KV: Final = key_value_heads(_which, lambda config: config.get("num_key_value_heads", 8))
_NO_BIAS: Final = Assumption("conv_bias", (False,), False)

LFM2: Final[Family] = replace(
    decoder(
        "Lfm2",
        "lfm2",
        "lfm2",
        (*_MIXERS, *_network(), _HEAD),
        (*_KEYS, _KV, Key((), "feed_forward_length", "u32", default=_adjusted)),
        (Rope(theta=1_000_000.0).pair(), Irregular(unsaid, _kinds), Irregular(unsaid, _width)),
        # without causality llama.cpp's convolutions look to both sides, too, which transformers' do not
        assumptions=(_NO_BIAS, Assumption("is_causal", (True, None), written=False)),
        tied=True,
        more=("LFM2ForCausalLM",),
    ),
    layers=ATTENDING,
)
#: The encoder, whose attention and convolutions look to both sides.
LFM2_BIDIRECTIONAL: Final[Family] = replace(
    LFM2,
    model_type="lfm2_bidirectional",
    classes=("Lfm2BidirectionalModel",),
    headless=frozenset({"Lfm2BidirectionalModel"}),
    bases=("", "model."),
    keys=(*LFM2.keys, Key((), CAUSAL, "bool", always(False), always(False))),
    assumptions=(_NO_BIAS,),
    other_types=("lfm2",),
    alone=("Lfm2BidirectionalModel", "lfm2"),
    claims=lambda values: values.get(CAUSAL) is False,
)
LFM2_MOE: Final[Family] = replace(
    decoder(
        "Lfm2Moe",
        "lfm2_moe",
        "lfm2moe",
        (
            *_MIXERS,
            *_network("dense"),
            *(replace(rule, when="!dense") for rule in expert_rules(_NETWORK, "expert_ffn", _NAMES)),
            correction("feed_forward.expert_bias"),
            _HEAD,
        ),
        (
            *_KEYS,
            _KV,
            Key(("intermediate_size",), "feed_forward_length", "u32", always(7168)),
            *counts(32, 4, "num_experts", "num_local_experts", ffn=always(1792)),
            Key(("num_dense_layers",), LEADING, "u32", always(2)),
            gating(SIGMOID),
        ),
        (Rope(theta=1_000_000.0).pair(), Irregular(unsaid, _kinds)),
        assumptions=(
            _NO_BIAS,
            Assumption("use_expert_bias", (True,), True),
            Assumption("norm_topk_prob", (True,), True),
            Assumption("routed_scaling_factor", (1.0,), 1.0),
        ),
        tied=True,
    ),
    layers={**ATTENDING, **dense_layers()},
)
