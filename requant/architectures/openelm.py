"""OpenELM: heads and the width of the network grow from layer to layer.

config.json lists the heads of each layer, and how many times as wide as the model its network is. Facts: llama.cpp's
conversion/openelm.py and src/models/openelm.cpp; the released configuration_openelm.py, which computes the heads anew
from the two ends of `qkv_multipliers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import norm
from requant.architectures.numbers import number, positive, shown
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
    same_as,
    unsaid,
)
from requant.errors import PlanError
from requant.ir import Json, Tensor

_LAYER: Final = "{base}layers.{n}."
_MULTIPLIERS: Final = "ffn_multipliers"
_DIVISOR: Final = 256
#: The ends of `qkv_multipliers` in all releases.
_RELEASED: Final = (0.5, 1.0)


def _divisible(value: float, divisor: int) -> int:
    """The multiple of the divisor that is nearest, but none that is smaller by more than a tenth."""
    found = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return found + divisor if found < 0.9 * value else found


def _widths(config: Config) -> Json:
    """Of the network of each layer."""
    said = config.get(_MULTIPLIERS)
    if not isinstance(said, list):
        raise PlanError(f"config.json: {_MULTIPLIERS} is {shown(said)}, a number for each layer is needed")
    width = int(positive(config, "model_dim"))
    divisor = int(positive(config, "ffn_dim_divisor", _DIVISOR))
    return [_divisible(positive({_MULTIPLIERS: item}, _MULTIPLIERS) * width, divisor) for item in said]


def _listed(values: Config, key: str, layers: int) -> list[int]:
    said = values.get(key)
    items = said if isinstance(said, list) else [said] * layers
    return [int(number({key: item}, key)) for item in items]


def _heads(ends: Sequence[float], sizes: Sizes, groups: int) -> list[int]:
    """As the released class computes them."""
    steps = max(1, sizes["layers"] - 1)
    between = (ends[0] + (ends[1] - ends[0]) * n / steps for n in range(sizes["layers"]))
    divisor = sizes["head"] * groups
    return [_divisible(sizes["hidden"] * round(part, 2), divisor) // sizes["head"] for part in between]


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    layers = sizes["layers"]
    widths = _listed(values, "feed_forward_length", layers)
    heads, kv_heads = (_listed(values, f"attention.head_count{end}", layers) for end in ("", "_kv"))
    if 0 in (*heads, *kv_heads, *widths):
        raise PlanError("metadata: a layer without heads or network; OpenELM has both in each")
    divisor = math.gcd(_DIVISOR, *widths)
    config: dict[str, Json] = {
        "num_query_heads": [*heads],
        "num_kv_heads": [*kv_heads],
        _MULTIPLIERS: [width / sizes["hidden"] for width in widths],
        "ffn_dim_divisor": divisor,
    }
    groups = {one // other for one, other in zip(heads, kv_heads, strict=True)}
    if len(groups) == 1:
        config["num_gqa_groups"] = count = min(groups)
        measured = (heads[0] * sizes["head"] / sizes["hidden"], heads[-1] * sizes["head"] / sizes["hidden"])
        ends = next((ends for ends in (_RELEASED, measured) if _heads(ends, sizes, count) == heads), None)
        config |= {} if ends is None else {"qkv_multipliers": [*ends]}
    return ToHf(config)


_QKV: Final = Rule(_LAYER + "attn.qkv_proj.weight", "blk.{n}.attn_qkv.weight", ("qkv", "hidden"))
_GATE: Final = Rule(
    _LAYER + "ffn.proj_1.weight",
    "blk.{n}.ffn_gate.weight",
    ("ffn_pair", "hidden"),
    turn=0,
    among=("ffn", "ffn"),
    flat=("ffn", "hidden"),
)
OPENELM: Final = Family(
    model_type="openelm",
    ggml="openelm",
    classes=("OpenELMForCausalLM", "OpenELMModel"),
    headless=frozenset({"OpenELMModel"}),
    bases=("transformer.", ""),
    rules=(
        Rule("{base}token_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        *norm("{base}norm", "output_norm"),
        *norm(_LAYER + "attn_norm", "blk.{n}.attn_norm"),
        _QKV,
        *norm(_LAYER + "attn.q_norm", "blk.{n}.attn_q_norm", "head"),
        *norm(_LAYER + "attn.k_norm", "blk.{n}.attn_k_norm", "head"),
        Rule(_LAYER + "attn.out_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        *norm(_LAYER + "ffn_norm", "blk.{n}.ffn_norm"),
        _GATE,
        replace(_GATE, ggml="blk.{n}.ffn_up.weight", turn=1),
        Rule(_LAYER + "ffn.proj_2.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
    ),
    keys=(
        Key(("num_transformer_layers",), "block_count", "u32"),
        Key(("max_context_length",), "context_length", "u32", always(2048)),
        Key(("model_dim",), "embedding_length", "u32"),
        Key((), "feed_forward_length", "u32*", _widths),
        Key(("num_query_heads",), "attention.head_count", "u32*"),
        Key(("num_kv_heads",), "attention.head_count_kv", "u32*"),
        Key(("rope_freq_constant",), "rope.freq_base", "f32", always(10000.0), always(10000.0)),
        Key((), "attention.layer_norm_rms_epsilon", "f32", always(1e-6), always(1e-6)),
        Key(("head_dim",), "attention.key_length", "u32", always(128)),
        Key((), "attention.value_length", "u32", same_as("head_dim"), same_as("attention.key_length")),
        Key((), "rope.dimension_count", "u32", same_as("head_dim"), same_as("attention.key_length")),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("activation_fn_name", ("swish", "silu"), "swish"),
        Assumption("ffn_with_glu", (True,), True),
        Assumption("normalization_layer_name", ("rms_norm",), "rms_norm"),
        Assumption("normalize_qk_projections", (True,), False),
        Assumption("share_input_output_layers", (True,), False),
    ),
    irregular=(Irregular(unsaid, _to_hf),),
    tied=True,
)
