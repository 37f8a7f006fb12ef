"""Jamba: layers of Mamba and some that look back, without positions; experts in some of either.

Facts: llama.cpp's conversion/jamba.py and src/models/jamba.cpp; transformers' modeling_jamba.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.attending import ATTENDING, KV_HEADS, key_value_heads, layers_of
from requant.architectures.decoders import LAYER, SIZES, decoder, norm, rms_norm_eps
from requant.architectures.experts import expert_rules
from requant.architectures.llama import MLP, SILU, TRUNK, attention
from requant.architectures.mamba import scan, step_rank
from requant.architectures.numbers import number
from requant.architectures.rules import (
    Assumption,
    Config,
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
from requant.ir import Checkpoint, Json, Tensor

_FORWARD: Final = LAYER + "feed_forward."
_MIXER: Final = LAYER + "mamba."
#: Every so many layers, from one on: which look back, and which have experts, with transformers' defaults.
_ATTENDS: Final = ("attn_layer_period", "attn_layer_offset", 8, 4)
_SPARSE: Final = ("expert_layer_period", "expert_layer_offset", 2, 1)


def _every(config: Config, names: tuple[str, str, int, int]) -> list[bool]:
    period, offset = int(number(config, names[0], names[2])), int(number(config, names[1], names[3]))
    if not 0 <= offset < period:
        raise PlanError(f"config.json: {names[0]} is {period}, {names[1]} is {offset}")
    return [n % period == offset for n in range(layers_of(config))]


def _attending(config: Config) -> list[bool]:
    return _every(config, _ATTENDS)


def _period(which: Sequence[bool], names: tuple[str, str, int, int]) -> dict[str, Json]:
    """The period and offset that say these layers."""
    chosen = [n for n, is_one in enumerate(which) if is_one]
    if not chosen:  # further away than there are layers
        return {names[0]: len(which) + 1, names[1]: len(which)}
    period = chosen[1] - chosen[0] if len(chosen) > 1 else len(which)
    if [n % period == chosen[0] for n in range(len(which))] != list(which):
        raise PlanError(f"layers {chosen[:5]} are not every {period} from {chosen[0]} on, as config.json would say")
    return {names[0]: period, names[1]: chosen[0]}


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    """Layers have experts where config.json says it, or the model has none."""
    told = _every(config, _SPARSE) if sizes["experts"] > 1 else [False] * sizes["layers"]
    names = {tensor.name for tensor in checkpoint.tensors}
    routers = [f"layers.{n}.feed_forward.router.weight" for n in range(len(told))]
    has = [router in names or f"model.{router}" in names for router in routers]
    if has != told:
        raise PlanError("config.json: expert_layer_period and expert_layer_offset do not say which layers have experts")
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    attends = ATTENDING["attends"](values)
    sparse = [f"blk.{n}.ffn_gate_inp.weight" in tensors for n in range(sizes["layers"])]
    config: dict[str, Json] = {
        "num_key_value_heads": sizes["kv_heads"],
        "mamba_dt_rank": sizes["linear_heads"],
        **_period(attends, _ATTENDS),
        **_period(sparse, _SPARSE),
    }
    return ToHf(config)


def _norms() -> tuple[Rule, ...]:
    found: tuple[Rule, ...] = ()
    for name, size in (("dt", "linear_heads"), ("b", "state"), ("c", "state")):
        found += norm(f"{_MIXER}{name}_layernorm", f"blk.{{n}}.ssm_{name}_norm", size, when="!attends")
    return found


JAMBA: Final[Family] = replace(
    decoder(
        "Jamba",
        "jamba",
        "jamba",
        (
            TRUNK[0],
            *norm("{base}final_layernorm", "output_norm"),
            TRUNK[2],
            *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"),
            *norm(LAYER + "pre_ff_layernorm", "blk.{n}.ffn_norm"),
            *(replace(rule, when="attends") for rule in attention(Order.SAME)),
            *scan(_MIXER, "!attends"),
            *_norms(),
            *(replace(rule, hf=rule.hf.replace(".mlp.", ".feed_forward."), when="!sparse") for rule in MLP),
            *(
                replace(rule, hf=rule.hf.replace(".gate.weight", ".router.weight"), when="sparse")
                for rule in expert_rules(_FORWARD, "ffn")
            ),
        ),
        (
            *(key for key in SIZES if key.ggml != KV_HEADS),
            key_value_heads(_attending, lambda config: config.get("num_key_value_heads", 8)),
            rms_norm_eps(1e-6),
            Key(("mamba_d_conv",), "ssm.conv_kernel", "u32", always(4)),
            Key((), "ssm.inner_size", "u32", lambda config: 2 * int(number(config, "hidden_size"))),
            Key(("mamba_d_state",), "ssm.state_size", "u32", always(16)),
            Key((), "ssm.time_step_rank", "u32", step_rank("mamba_dt_rank")),
            Key(("num_experts", "num_local_experts"), "expert_count", "u32", always(16), always(0)),
            Key(("num_experts_per_tok",), "expert_used_count", "u32", always(2), always(0)),
        ),
        (Irregular(_to_ggml, _to_hf),),
        assumptions=(
            SILU,
            Assumption("mamba_expand", (2,), 2),
            Assumption("mamba_conv_bias", (True,), True),
            Assumption("mamba_proj_bias", (False,), False),
        ),
    ),
    layers=ATTENDING,
    told={"sparse": (_FORWARD + "router.weight", "blk.{n}.ffn_gate_inp.weight")},
)
