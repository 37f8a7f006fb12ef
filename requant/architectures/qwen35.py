"""Qwen 3.5, 3.6 and 3.8, dense and with experts: three layers of linear attention to one that looks back.

Value heads of linear attention lie by their key head in HF, in turn in ggml. The vision model and the layers that
predict ahead (`mtp.`), which transformers leaves out, too, are told as lost. llama.cpp has one width for keys and
values. Facts: llama.cpp's conversion/qwen.py and src/models/qwen35.cpp, qwen35moe.cpp; transformers'
modeling_qwen3_5.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.changes import Change, ColumnGrid, Grid, Negative
from requant.architectures.decoders import (
    ATTN,
    LAYER,
    SIZES,
    decoder,
    norm,
    rms_norm_eps,
    shifted,
)
from requant.architectures.experts import expert_rules
from requant.architectures.llama import (
    BUFFERS,
    MLP,
    SILU,
    TRUNK,
    heads_of,
)
from requant.architectures.mrope import Sections
from requant.architectures.numbers import number
from requant.architectures.qwen import SHARED
from requant.architectures.rope import Rope, rotary
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
    defaulting,
)
from requant.architectures.windows import FULL
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor

LINEAR: Final = "linear_attention"
_RECURRENT: Final = "attention.recurrent_layers"
_INTERVAL: Final = "full_attention_interval"
_STATE: Final = LAYER + "linear_attn."
#: Heads by their key head; and in turn.
_HEADS: Final = ("linear_keys", "linear_group")
_TURN: Final = (1, 0)
_WIDE: Final = (*_HEADS, "state")
_WIDE_TURN: Final = (1, 0, 2)
_KEYS_FIRST: Final = (2, "linear_keys", "state")


def _types(config: Config) -> list[bool]:
    """Which layers keep a state."""
    layers, listed = int(number(config, "num_hidden_layers")), config.get("layer_types")
    if listed is None:
        period = int(number(config, _INTERVAL, 4))
        if period < 1:
            raise PlanError(f"config.json: {_INTERVAL} is {period}, a number above 0 is needed")
        return [(n + 1) % period != 0 for n in range(min(layers, 1 << 16))]
    if not isinstance(listed, list) or len(listed) != layers or not set(map(str, listed)) <= {LINEAR, "full_attention"}:
        raise PlanError(f"config.json: layer_types does not name {LINEAR} or full_attention for {layers} layers")
    return [kind == LINEAR for kind in listed]


def _recurrent(config: Config) -> Json:
    return [*_types(config)]


def _layers(values: Config) -> Sequence[bool]:
    """The same from GGUF keys; llama.cpp takes the interval where there is no list."""
    layers, listed, period = values.get("block_count"), values.get(_RECURRENT), values.get(_INTERVAL)
    if not isinstance(layers, int):
        return []  # which `sizes_of` reports
    if isinstance(listed, list) and len(listed) >= layers:
        return [bool(item) for item in listed[:layers]]
    every = period if isinstance(period, int) and period > 0 else 4
    return [(n + 1) % every != 0 for n in range(min(layers, 1 << 16))]


LINEAR_LAYERS: Final[Mapping[str, Callable[[Config], Sequence[bool]]]] = {"linear": _layers}


def _check(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    keys, values = number(config, "linear_key_head_dim", 128), number(config, "linear_value_head_dim", 128)
    if keys != values:
        raise PlanError(
            f"config.json: linear_key_head_dim is {keys:g}, linear_value_head_dim {values:g}; llama.cpp has one width"
        )
    return ToGgml()


def _back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    if sizes["inner"] != sizes["linear_heads"] * sizes["state"]:
        raise PlanError(
            f"metadata: ssm.inner_size is {sizes['inner']}, {sizes['linear_heads']} heads of {sizes['state']} are said"
        )
    types: Json = [LINEAR if linear else FULL for linear in _layers(values)]
    return ToHf({"layer_types": types, "linear_value_head_dim": sizes["state"]})


def _inner(config: Config) -> Json:
    return int(number(config, "linear_num_value_heads", 32)) * int(number(config, "linear_value_head_dim", 128))


LINEAR_TYPES: Final = Irregular(_check, _back)
_SSM: Final = (
    Key(("linear_conv_kernel_dim",), "ssm.conv_kernel", "u32", always(4)),
    Key(("linear_key_head_dim",), "ssm.state_size", "u32", always(128)),
    Key(("linear_num_key_heads",), "ssm.group_count", "u32", always(16)),
    Key(("linear_num_value_heads",), "ssm.time_step_rank", "u32", always(32)),
    Key((), "ssm.inner_size", "u32", default=_inner),
    Key((), _RECURRENT, "[bool]", default=_recurrent),
    Key((_INTERVAL,), _INTERVAL, "u32", always(4), always(4)),
)

#: Queries and their gates are one matrix, in ggml as in HF.
LOOKING_BACK: Final = (
    Rule(ATTN + "q_proj.weight", "blk.{n}.attn_q.weight", ("query_and_gate", "hidden"), when="!linear"),
    Rule(ATTN + "k_proj.weight", "blk.{n}.attn_k.weight", ("kv", "hidden"), when="!linear"),
    Rule(ATTN + "v_proj.weight", "blk.{n}.attn_v.weight", ("kv", "hidden"), when="!linear"),
    Rule(ATTN + "o_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q"), when="!linear"),
    *shifted(norm(ATTN + "q_norm", "blk.{n}.attn_q_norm", "head", when="!linear")),
    *shifted(norm(ATTN + "k_norm", "blk.{n}.attn_k_norm", "head", when="!linear")),
)


def state(hf: str, ggml: str, shape: tuple[str, ...], *changes: Change) -> Rule:
    """A tensor of the layers with linear attention."""
    return Rule(_STATE + hf, f"blk.{{n}}.{ggml}", shape, changes=changes, when="linear")


_IN_TURN: Final = Grid(_WIDE, _WIDE_TURN)
_VALUES_IN_TURN: Final = Grid(_WIDE, _WIDE_TURN, after=_KEYS_FIRST)
_EACH_IN_TURN: Final = Grid(_HEADS, _TURN)
_LINEAR_ATTENTION: Final = (
    state("in_proj_qkv.weight", "attn_qkv.weight", ("channels", "hidden"), _VALUES_IN_TURN),
    state("in_proj_z.weight", "attn_gate.weight", ("inner", "hidden"), _IN_TURN),
    replace(
        state("conv1d.weight", "ssm_conv1d.weight", ("channels", "one", "kernel"), _VALUES_IN_TURN),
        flat=("channels", "kernel"),
    ),
    state("dt_bias", "ssm_dt.bias", ("linear_heads",), _EACH_IN_TURN),
    state("A_log", "ssm_a", ("linear_heads",), Negative(), _EACH_IN_TURN),
    state("in_proj_b.weight", "ssm_beta.weight", ("linear_heads", "hidden"), _EACH_IN_TURN),
    state("in_proj_a.weight", "ssm_alpha.weight", ("linear_heads", "hidden"), _EACH_IN_TURN),
    state("norm.weight", "ssm_norm.weight", ("state",)),
    state("out_proj.weight", "ssm_out.weight", ("hidden", "inner"), ColumnGrid(_WIDE, _WIDE_TURN)),
)
NORMS: Final = shifted(
    (
        *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"),
        *norm(LAYER + "post_attention_layernorm", "blk.{n}.post_attention_norm"),
    )
)
KEYS: Final = (
    *SIZES,
    rms_norm_eps(1e-6),
    *heads_of(256),
    Key((), "rope.dimension_count", "u32", default=rotary(0.25)),
    *_SSM,
)
_ROPE: Final = Sections(Rope(theta=10000.0, in_part=0.25), (11, 11, 10), interleaved=True, kept=True)

#: What transformers leaves out, too.
AHEAD: Final = (
    *BUFFERS,
    Ignored(r"mtp\..*", "what predicts more than one token ahead; the model itself does without", lost=True),
)

QWEN35: Final[Family] = replace(
    decoder(
        "Qwen3_5",
        "qwen3_5_text",
        "qwen35",
        (*shifted(TRUNK), *NORMS, *LOOKING_BACK, *_LINEAR_ATTENTION, *MLP),
        defaulting(KEYS, num_key_value_heads=4),
        (_ROPE.pair(), LINEAR_TYPES),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("attn_output_gate", (True,), True, written=False),
        ),
        more=("Qwen3_5ForConditionalGeneration", "Qwen3_5TextModel"),
    ),
    headless=frozenset({"Qwen3_5Model", "Qwen3_5TextModel"}),
    bases=("model.", "model.language_model.", "language_model.", ""),
    layers=LINEAR_LAYERS,
    ignored=(
        *AHEAD,
        Ignored(
            r"(model\.)?visual\..*",
            MMPROJ,
            lost=True,
        ),
    ),
    other_types=("qwen3_5",),
)
_MOE: Final = LAYER + "mlp."
QWEN35MOE: Final[Family] = replace(
    QWEN35,
    model_type="qwen3_5_moe_text",
    ggml="qwen35moe",
    classes=(
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen3_5MoeModel",
        "Qwen3_5MoeTextModel",
    ),
    headless=frozenset({"Qwen3_5MoeModel", "Qwen3_5MoeTextModel"}),
    rules=(
        *shifted(TRUNK),
        *NORMS,
        *LOOKING_BACK,
        *_LINEAR_ATTENTION,
        *expert_rules(_MOE, "expert_ffn"),
        *SHARED,
    ),
    keys=(
        *(
            replace(key, default=always(None), implied=always(None)) if key.ggml == "feed_forward_length" else key
            for key in defaulting(KEYS, num_key_value_heads=2)
        ),
        Key(("num_experts", "num_local_experts"), "expert_count", "u32", always(256)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(8)),
        Key(("moe_intermediate_size",), "expert_feed_forward_length", "u32", always(512)),
        Key(("shared_expert_intermediate_size",), "expert_shared_feed_forward_length", "u32", always(512)),
    ),
    assumptions=(
        *QWEN35.assumptions,
        Assumption("mlp_only_layers", ([], None), None, written=False),
        Assumption("norm_topk_prob", (True,), True, written=False),
    ),
    other_types=("qwen3_5_moe",),
)
