"""Falcon-H1: in every layer heads that look back beside a mixer of Mamba 2, and factors for what each of them is given.

ggml has weights multiplied by the factors, which a GGUF does not say. Facts: llama.cpp's conversion/falcon_h1.py and
src/models/falcon-h1.cpp; transformers' modeling_falcon_h1.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import LAYER, SIZES, VOCABULARY_SIZE, decoder, norm, rms_norm_eps
from requant.architectures.llama import HEAD_KEYS, SILU, TRUNK, attention
from requant.architectures.mamba import UNLIMITED, grouped_scan
from requant.architectures.numbers import number, shown
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    Times,
    ToGgml,
    ToHf,
    always,
)
from requant.architectures.states import check_width, width_of_heads
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor

_SINGLE: Final = (
    *("embedding_multiplier", "lm_head_multiplier", "key_multiplier", "attention_in_multiplier"),
    *("attention_out_multiplier", "ssm_in_multiplier", "ssm_out_multiplier"),
)
_SEVERAL: Final = {"mlp_multipliers": 2, "ssm_multipliers": 5}
#: Sizes of the rows of the mixer's first matrix: gates, values, two states, steps.
_SECTIONS: Final = ("inner", "inner", "group_states", "group_states", "linear_heads")


def _factors(config: Config) -> Mapping[str, float]:
    found = {name: number(config, name, 1.0) for name in _SINGLE}
    for name, count in _SEVERAL.items():
        listed = config.get(name)
        if listed is None:
            listed = [1.0] * count
        if not isinstance(listed, list) or len(listed) != count:
            raise PlanError(f"config.json: {name} is {shown(listed)}, a list of {count} numbers is needed")
        found |= {f"{name}.{n}": number({name: item}, name) for n, item in enumerate(listed)}
    return found


def _times(rule: Rule) -> Rule:
    """The factors of a tensor."""
    name = rule.hf.removeprefix("{base}").removesuffix(".weight").rpartition(".")[2]
    factors: dict[str, tuple[str, ...]] = {
        "embed_tokens": ("embedding_multiplier",),
        "lm_head": ("lm_head_multiplier",),
        "q_proj": ("attention_in_multiplier",),
        "k_proj": ("key_multiplier", "attention_in_multiplier"),
        "v_proj": ("attention_in_multiplier",),
        "o_proj": ("attention_out_multiplier",),
        "out_proj": ("ssm_out_multiplier",),
        "gate_proj": ("mlp_multipliers.0",),
        "down_proj": ("mlp_multipliers.1",),
    }
    if name == "in_proj":
        sections = enumerate(_SECTIONS)
        return replace(
            rule, times=tuple(Times(("ssm_in_multiplier", f"ssm_multipliers.{n}"), size) for n, size in sections)
        )
    return replace(rule, times=(Times(factors[name]),)) if name in factors else rule


def _inner(config: Config) -> Json:
    said = config.get("mamba_d_ssm", 1024)
    return int(number(config, "mamba_expand", 2) * number(config, "hidden_size")) if said is None else said


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    check_width(config, sizes)
    normed = bool(config.get("mamba_rms_norm", False))
    if normed != any(tensor.name.endswith(".mamba.norm.weight") for tensor in checkpoint.tensors):
        raise PlanError(f"config.json: mamba_rms_norm is {normed}, which the tensors contradict")
    if normed and config.get("mamba_norm_before_gate", True):
        raise PlanError("config.json: mamba_norm_before_gate is true; llama.cpp takes the norm of what is gated")
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    ones: dict[str, Json] = dict.fromkeys(_SINGLE, 1.0)
    lists: dict[str, Json] = {name: [1.0] * count for name, count in _SEVERAL.items()}
    normed = "blk.0.ssm_norm.weight" in tensors
    config: dict[str, Json] = {
        "mamba_d_ssm": sizes["inner"],
        "mamba_d_head": width_of_heads(sizes),
        "mamba_rms_norm": normed,
        "mamba_norm_before_gate": not normed,
    }
    return ToHf(ones | lists | config)


_FORWARD: Final = LAYER + "feed_forward."
_SCAN: Final = tuple(
    replace(rule, optional=rule.ggml.endswith("ssm_norm.weight")) for rule in grouped_scan(LAYER + "mamba.")
)

FALCON_H1: Final[Family] = replace(
    decoder(
        "FalconH1",
        "falcon_h1",
        "falcon-h1",
        tuple(
            _times(rule)
            for rule in (
                TRUNK[0],
                *norm("{base}final_layernorm", "output_norm"),
                TRUNK[2],
                *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"),
                *attention(Order.SAME),
                *_SCAN,
                # the one norm that llama.cpp calls so
                Rule(LAYER + "pre_ff_layernorm.weight", "blk.{n}.ffn_norm", ("hidden",)),
                Rule(_FORWARD + "gate_proj.weight", "blk.{n}.ffn_gate.weight", ("ffn", "hidden")),
                Rule(_FORWARD + "up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden")),
                Rule(_FORWARD + "down_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
            )
        ),
        (
            *SIZES,
            rms_norm_eps(1e-5),
            *HEAD_KEYS,
            VOCABULARY_SIZE,
            Key(("mamba_d_conv",), "ssm.conv_kernel", "u32", always(4)),
            Key((), "ssm.inner_size", "u32", _inner),
            Key(("mamba_d_state",), "ssm.state_size", "u32", always(256)),
            Key(("mamba_n_heads",), "ssm.time_step_rank", "u32", always(128)),
            Key(("mamba_n_groups",), "ssm.group_count", "u32", always(1)),
        ),
        (Rope(theta=10000.0).pair(), Irregular(_to_ggml, _to_hf)),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("mlp_bias", (False,), False),
            Assumption("projectors_bias", (False,), False),
            Assumption("mamba_conv_bias", (True,), True),
            Assumption("mamba_proj_bias", (False,), False),
            UNLIMITED,
        ),
    ),
    factors=_factors,
)
