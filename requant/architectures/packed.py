"""Experts whose gates and what they gate are the columns of one stack: Qwen3-VL and Qwen3-Omni with experts, Llama 4.

Facts: llama.cpp's conversion/qwen3vl.py, llama.py and src/models/qwen3vlmoe.cpp, llama4.cpp (which knows layers without
rotation, chunks of attention and the temperature of queries as constants); transformers' modeling_qwen3_vl_moe.py and
modeling_llama4.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures.changes import Grid, Turned
from requant.architectures.decoders import LAYER, SIZES, VOCABULARY_SIZE, decoder, rms_norm_eps
from requant.architectures.llama import BUFFERS, HEAD_KEYS, MLP, NORMS, SILU, TRUNK, attention
from requant.architectures.mrope import Sections
from requant.architectures.numbers import number, shown
from requant.architectures.qwen import QWEN3MOE
from requant.architectures.qwen_vl import BASES, DEEPSTACK
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Apart,
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
    never,
    same_as,
)
from requant.architectures.seeing import SEEING
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor


def _stacks(module: str, when: str = "") -> tuple[Rule, ...]:
    """All experts of a layer. module: up to the dot before `experts`."""
    gate = Rule(
        f"{module}experts.gate_up_proj",
        "blk.{n}.ffn_gate_exps.weight",
        ("experts", "hidden", "expert_pair"),
        turn=0,
        changes=(Turned(("experts", "expert_pair", "hidden")), Grid(("experts", 2, "expert_ffn"), (1, 0, 2))),
        among=("expert_rows", "expert_rows"),
        flat=("experts", "expert_ffn", "hidden"),
        when=when,
    )
    return (
        gate,
        replace(gate, ggml="blk.{n}.ffn_up_exps.weight", turn=1),
        Rule(
            f"{module}experts.down_proj",
            "blk.{n}.ffn_down_exps.weight",
            ("experts", "expert_ffn", "hidden"),
            Order.TRANSPOSED,
            when=when,
        ),
    )


def _either(rule: Rule) -> Rule:
    """On the hub columns are outputs; releases of transformers since 5 save rows of outputs under the same name."""
    parts = 2 if rule.among else 1
    return replace(rule, apart=(Apart(rule.hf, part=rule.turn or 0, of=parts, loaded=True),))


def _told_apart(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    if sizes["hidden"] in (sizes["expert_pair"], sizes["expert_ffn"]):
        raise PlanError(
            f"config.json: hidden_size is {sizes['hidden']}, moe_intermediate_size {sizes['expert_ffn']}: shapes do "
            "not tell whether experts have outputs as rows or as columns"
        )
    return ToGgml()


_SECTIONS: Final = Sections(Rope(theta=500_000.0), (24, 20, 20), interleaved=True).pair()

#: What a GGUF of either becomes: text alone means nothing by sections.
QWEN3_VL_MOE_TEXT: Final[Family] = replace(
    QWEN3MOE, ggml="qwen3vlmoe", irregular=(_SECTIONS, DEEPSTACK), suits=lambda config: False
)
QWEN3_OMNI: Final[Family] = replace(
    QWEN3_VL_MOE_TEXT,
    model_type="qwen3_omni_moe",
    classes=("Qwen3OmniMoeForConditionalGeneration",),
    headless=frozenset(),
    bases=("thinker.model.",),
    ignored=(*QWEN3MOE.ignored, SEEING),
    other_types=("qwen3_omni_moe_thinker",),
    alone=("Qwen3MoeForCausalLM", "qwen3_moe"),
    suits=lambda config: True,
    claims=never,
)
QWEN3_VL_MOE: Final[Family] = replace(
    QWEN3_OMNI,
    model_type="qwen3_vl_moe",
    classes=("Qwen3VLMoeForConditionalGeneration",),
    bases=BASES,
    rules=(
        *(rule for rule in QWEN3MOE.rules if "_exps." not in rule.ggml),
        *map(_either, _stacks(LAYER + "mlp.")),
    ),
    irregular=(*QWEN3_OMNI.irregular, Irregular(_told_apart, lambda values, tensors, sizes: ToHf())),
    other_types=("qwen3_vl_moe_text",),
)

_FORWARD: Final = LAYER + "feed_forward."
_STEP: Final = "interleave_moe_layer_step"
#: Where llama.cpp has constants, by config.json's names of them.
_CONSTANTS: Final[tuple[tuple[str, Json], ...]] = (
    ("attention_chunk_size", 8192),
    ("floor_scale", 8192),
    ("attn_scale", 0.1),
    ("attn_temperature_tuning", True),
)


def _sparse(values: Config) -> Sequence[bool]:
    layers, step = values.get("block_count"), values.get(_STEP)
    if not isinstance(step, int) or step < 1:
        raise PlanError(f"{_STEP} is {shown(step)}, a number above 0 is needed")
    if not isinstance(layers, int):
        return []  # which `sizes_of` reports
    return [(n + 1) % step == 0 for n in range(min(layers, 1 << 16))]


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    rotated: list[Json] = [int((n + 1) % 4 != 0) for n in range(sizes["layers"])]
    told = config.get("no_rope_layers") or rotated
    types = config.get("layer_types")
    usual = [f"{'chunked' if n else 'full'}_attention" for n in rotated]
    step = int(number(config, _STEP, 1))
    sparse: list[Json] = [*range(step - 1, sizes["layers"], step)]
    if told != rotated or types not in (None, usual) or config.get("moe_layers") not in (None, sparse):
        raise PlanError(
            "config.json: no_rope_layers, layer_types or moe_layers; llama.cpp leaves out rotation and chunks in every "
            "fourth layer, and has experts in every so many"
        )
    if bool(config.get("use_qk_norm", True)) != (sizes["experts"] != 128):
        raise PlanError("config.json: use_qk_norm; llama.cpp has those norms in all models but that of 128 experts")
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"use_qk_norm": sizes["experts"] != 128})


LLAMA4: Final[Family] = replace(
    decoder(
        "Llama4",
        "llama4_text",
        "llama4",
        (
            *TRUNK,
            *NORMS,
            *attention(Order.SAME),
            *(replace(rule, hf=rule.hf.replace(".mlp.", ".feed_forward."), when="!sparse") for rule in MLP),
            Rule(_FORWARD + "router.weight", "blk.{n}.ffn_gate_inp.weight", ("experts", "hidden"), when="sparse"),
            *_stacks(_FORWARD, "sparse"),
            *(
                Rule(
                    f"{_FORWARD}shared_expert.{part}_proj.weight",
                    f"blk.{{n}}.ffn_{part}_shexp.weight",
                    ("hidden", "expert_ffn") if part == "down" else ("expert_ffn", "hidden"),
                    when="sparse",
                )
                for part in ("gate", "up", "down")
            ),
        ),
        (
            *(key for key in SIZES if key.ggml != "feed_forward_length"),
            Key(("intermediate_size_mlp",), "feed_forward_length", "u32", always(16384)),
            rms_norm_eps(1e-5),
            *HEAD_KEYS,
            VOCABULARY_SIZE,
            Key((), "rope.dimension_count", "u32", same_as("head_dim"), same_as("attention.key_length")),
            Key(("num_local_experts",), "expert_count", "u32", always(16)),
            Key(("num_experts_per_tok",), "expert_used_count", "u32", always(1)),
            Key(("intermediate_size",), "expert_feed_forward_length", "u32", always(8192)),
            Key((_STEP,), _STEP, "u32", always(1)),
        ),
        (Rope(theta=500_000.0).pair(), Irregular(_to_ggml, _to_hf)),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            *(Assumption(name, (value,), value) for name, value in _CONSTANTS),
        ),
        more=("Llama4ForConditionalGeneration",),
        other_types=("llama4",),
    ),
    headless=frozenset(),
    classes=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    bases=("model.", "language_model.model.", "model.language_model."),
    ignored=(*BUFFERS, SEEING),
    layers={"sparse": _sparse},
)
