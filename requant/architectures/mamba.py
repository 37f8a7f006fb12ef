"""Mamba, Falcon Mamba and Mamba 2: layers of a state alone, neither attention nor a network.

A GGUF says 0 heads and a network of 0, and a context without end. Facts: llama.cpp's conversion/mamba.py and
src/models/mamba.cpp, mamba-base.cpp; transformers' modeling_mamba.py, modeling_falcon_mamba.py, modeling_mamba2.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.changes import Negative
from requant.architectures.decoders import norm
from requant.architectures.llama import SILU
from requant.architectures.numbers import number
from requant.architectures.rules import (
    Assumption,
    Config,
    Default,
    Family,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    unsaid,
)
from requant.architectures.states import expansion, width_of_heads
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor
from requant.losses import Loss, LossKind

_LAYER: Final = "{base}layers.{n}."
#: What llama.cpp's converter says of models that have no end of their context.
ENDLESS: Final = Key((), "context_length", "u32", default=always(1 << 20))


def scan(module: str, when: str = "") -> tuple[Rule, ...]:
    """The tensors of Mamba's mixer. module: up to its dot."""
    rules = (
        Rule(module + "in_proj.weight", "blk.{n}.ssm_in.weight", ("inner_pair", "hidden")),
        Rule(
            module + "conv1d.weight",
            "blk.{n}.ssm_conv1d.weight",
            ("inner", "one", "kernel"),
            flat=("inner", "kernel"),
        ),
        Rule(module + "conv1d.bias", "blk.{n}.ssm_conv1d.bias", ("inner",)),
        Rule(module + "x_proj.weight", "blk.{n}.ssm_x.weight", ("step_and_states", "inner")),
        Rule(module + "dt_proj.weight", "blk.{n}.ssm_dt.weight", ("inner", "linear_heads")),
        Rule(module + "dt_proj.bias", "blk.{n}.ssm_dt.bias", ("inner",)),
        Rule(module + "A_log", "blk.{n}.ssm_a", ("inner", "state"), changes=(Negative(),)),
        Rule(module + "D", "blk.{n}.ssm_d", ("inner",)),
        Rule(module + "out_proj.weight", "blk.{n}.ssm_out.weight", ("hidden", "inner")),
    )
    return tuple(replace(rule, when=when) for rule in rules)


def grouped_scan(module: str, when: str = "") -> tuple[Rule, ...]:
    """The tensors of Mamba 2's mixer, a number for each head where Mamba has a row of the state."""
    rules = (
        Rule(module + "in_proj.weight", "blk.{n}.ssm_in.weight", ("scanned", "hidden")),
        Rule(
            module + "conv1d.weight",
            "blk.{n}.ssm_conv1d.weight",
            ("channels", "one", "kernel"),
            flat=("channels", "kernel"),
        ),
        Rule(module + "conv1d.bias", "blk.{n}.ssm_conv1d.bias", ("channels",)),
        Rule(module + "dt_bias", "blk.{n}.ssm_dt.bias", ("linear_heads",)),
        Rule(module + "A_log", "blk.{n}.ssm_a", ("linear_heads",), flat=("linear_heads", "one"), changes=(Negative(),)),
        Rule(module + "D", "blk.{n}.ssm_d", ("linear_heads",), flat=("linear_heads", "one")),
        Rule(module + "norm.weight", "blk.{n}.ssm_norm.weight", ("inner",), flat=("linear_keys", "group_inner")),
        Rule(module + "out_proj.weight", "blk.{n}.ssm_out.weight", ("hidden", "inner")),
    )
    return tuple(replace(rule, when=when) for rule in rules)


def _inner(config: Config) -> Json:
    return int(number(config, "expand", 2) * number(config, "hidden_size"))


def step_rank(name: str) -> Default:
    """Numbers that the step of time is computed from: a sixteenth of the width, where config.json says "auto"."""

    def rank(config: Config) -> Json:
        said = config.get(name, config.get("dt_rank", "auto"))
        return -(-int(number(config, "hidden_size")) // 16) if said in ("auto", None) else said

    return rank


def _rank(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"time_step_rank": sizes["linear_heads"], "expand": 2})


def _one_width(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    heads, width = number(config, "num_heads", 128), number(config, "head_dim", 64)
    if heads * width != sizes["inner"] or heads != sizes["linear_heads"]:
        raise PlanError(f"config.json: {heads:g} heads of {width:g} are not the {sizes['inner']} numbers of the state")
    return ToGgml()


def _heads(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    heads = sizes["linear_heads"]
    return ToHf({"num_heads": heads, "head_dim": width_of_heads(sizes), "expand": expansion(sizes)})


_TRUNK: Final = (
    Rule("{base}embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    *norm(_LAYER + "norm", "blk.{n}.attn_norm"),
    *norm("{base}norm_f", "output_norm"),
    Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
)
_KEYS: Final = (
    Key(("num_hidden_layers", "n_layer"), "block_count", "u32"),
    ENDLESS,
    Key(("hidden_size", "d_model"), "embedding_length", "u32"),
    Key((), "feed_forward_length", "u32", default=always(0)),
    Key((), "attention.head_count", "u32", default=always(0)),
    Key(("conv_kernel", "d_conv"), "ssm.conv_kernel", "u32", always(4)),
    Key((), "ssm.inner_size", "u32", default=_inner),
    Key(("layer_norm_epsilon", "rms_norm_eps"), "attention.layer_norm_rms_epsilon", "f32", always(1e-5)),
)
#: transformers keeps steps of time within limits, where a model has any; llama.cpp has none.
UNLIMITED: Final = Assumption(
    "time_step_limit",
    (None, [0.0, math.inf], [0.0, {"__float__": "Infinity"}], [0.0, "Infinity"]),
    written=False,
    loss="llama.cpp lets steps of time be as long or short as they come out",
)
_NORMS_OF_STEPS: Final = "ssm.dt_b_c_rms"
_CHOICES: Final = (
    SILU,
    Assumption("use_bias", (False,), False),
    Assumption("use_conv_bias", (True,), True),
)

MAMBA: Final = Family(
    model_type="mamba",
    ggml="mamba",
    classes=("MambaForCausalLM", "MambaModel", "MambaLMHeadModel"),
    headless=frozenset({"MambaModel"}),
    bases=("backbone.", ""),
    rules=(*_TRUNK, *scan(_LAYER + "mixer.")),
    keys=(
        *_KEYS,
        Key(("state_size", "d_state"), "ssm.state_size", "u32", always(16)),
        Key((), "ssm.time_step_rank", "u32", default=step_rank("time_step_rank")),
        Key((), _NORMS_OF_STEPS, "bool", always(False), always(False)),
    ),
    embedding="token_embd.weight",
    # llama.cpp has one width of the state: twice the model's
    assumptions=(*_CHOICES, Assumption("expand", (2,), 2)),
    irregular=(Irregular(unsaid, _rank),),
    tied=True,
    renamed=(("backbone.embedding.weight", "backbone.embeddings.weight"),),
)


def _one_epsilon(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    inner, outer = number(config, "mixer_rms_eps", 1e-6), number(config, "layer_norm_epsilon", 1e-5)
    if inner == outer:
        return ToGgml()
    detail = f"{inner:g}: llama.cpp has one epsilon for all norms, {outer:g}"
    return ToGgml(losses=(Loss(LossKind.METADATA_DROPPED, "mixer_rms_eps", detail),))


FALCON_MAMBA: Final = replace(
    MAMBA,
    model_type="falcon_mamba",
    classes=("FalconMambaForCausalLM", "FalconMambaModel"),
    headless=frozenset({"FalconMambaModel"}),
    keys=(*MAMBA.keys[:-1], Key((), _NORMS_OF_STEPS, "bool", always(True))),
    irregular=(*MAMBA.irregular, Irregular(_one_epsilon, lambda values, tensors, sizes: ToHf())),
    renamed=(),
    claims=lambda values: bool(values.get(_NORMS_OF_STEPS)),
)
MAMBA2: Final = replace(
    MAMBA,
    model_type="mamba2",
    ggml="mamba2",
    classes=("Mamba2ForCausalLM", "Mamba2Model"),
    headless=frozenset({"Mamba2Model"}),
    rules=(*_TRUNK, *grouped_scan(_LAYER + "mixer.")),
    keys=(
        *_KEYS,
        Key(("state_size", "d_state"), "ssm.state_size", "u32", always(128)),
        Key((), "ssm.time_step_rank", "u32", default=lambda config: int(number(config, "num_heads", 128))),
        Key(("n_groups",), "ssm.group_count", "u32", always(8)),
    ),
    assumptions=(*_CHOICES, UNLIMITED),
    irregular=(Irregular(_one_width, _heads),),
    tied=False,
    renamed=(),
)
