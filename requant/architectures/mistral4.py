"""Mistral Small 4 and Large 3: DeepSeek's latent attention, queries that grow with the distance from the beginning, and
experts in stacks.

Facts: llama.cpp's conversion/mistral3.py (which leaves out the growth of queries), src/models/deepseek2.cpp (which
reads it for this architecture, too) and src/models/mistral4.cpp; transformers' modeling_mistral4.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.changes import Grid
from requant.architectures.deepseek import DEEPSEEK3, latent_keys
from requant.architectures.llama import SILU
from requant.architectures.mistral3 import BETA, MISTRAL3, SCALE
from requant.architectures.numbers import at_least_one, number, positive, shortest
from requant.architectures.rope import Rope, parameters
from requant.architectures.rules import (
    Apart,
    Assumption,
    Config,
    Family,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    defaulting,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed, text_config

_LENGTH: Final = "attention.temperature_length"
_PART: Final = "partial_rotary_factor"
_YARN: Final[Mapping[str, Json]] = {
    "rope_type": "yarn",
    "factor": 128.0,
    "original_max_position_embeddings": 8192,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    BETA: 0.1,
}
_ROPE: Final = Rope(theta=10000.0, multiplied=0.1, absent=_YARN)


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    rope = parameters(config, 10000.0) if config.get("rope_parameters") else dict(_YARN)
    if number({**config, **rope}, _PART, _part(sizes)) != _part(sizes):
        raise PlanError(f"config.json: {_PART} is not the rotated part of a head, {_part(sizes):g}")
    whole = {key: value for key, value in rope.items() if key != _PART}
    # transformers 4 would have it beside the parameters, where a folder made of a GGUF says it once more
    said = _ROPE.to_ggml(checkpoint, {**config, "rope_parameters": whole, _PART: None}, sizes)
    if not rope.get(BETA):
        return said
    original = at_least_one(rope, "original_max_position_embeddings")
    grows = {SCALE: Typed("f32", positive(rope, BETA)), _LENGTH: Typed("u32", original)}
    return replace(said, values={**said.values, **grows})


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    said = _ROPE.to_hf(values, tensors, sizes)
    scaling = said.config.get("rope_scaling")
    rope: dict[str, Json] = dict(scaling) if isinstance(scaling, dict) else {"rope_type": "default"}
    rope |= {"rope_theta": said.config["rope_theta"], BETA: shortest(number(values, SCALE, 0.0)), _PART: _part(sizes)}
    rope["original_max_position_embeddings"] = int(
        positive(values, _LENGTH, number(rope, "original_max_position_embeddings", sizes["positions"]))
    )
    return replace(said, config={"rope_parameters": rope}, keys=said.keys | {SCALE, _LENGTH})


def _part(sizes: Sizes) -> float:
    """The rotated part of a head."""
    return sizes["rotary"] / (sizes["unrotated"] + sizes["rotary"])


MISTRAL4: Final[Family] = replace(
    DEEPSEEK3,
    model_type="mistral4",
    ggml="mistral4",
    classes=("Mistral4ForCausalLM", "Mistral4Model", "Mistral3ForConditionalGeneration"),
    headless=frozenset({"Mistral4Model"}),
    bases=MISTRAL3.bases,
    rules=(
        *(rule for rule in DEEPSEEK3.rules if "exps." not in rule.ggml and "exp_probs_b" not in rule.ggml),
        Rule(
            mixture.MLP_ + "experts.gate_up_proj",
            "blk.{n}.ffn_gate_up_exps.weight",
            ("experts", "expert_pair", "hidden"),
            when="!dense",
        ),
        Rule(
            mixture.MLP_ + "experts.down_proj",
            "blk.{n}.ffn_down_exps.weight",
            ("experts", "hidden", "expert_ffn"),
            when="!dense",
        ),
    ),
    keys=(
        *defaulting(
            latent_keys(mixture.SOFTMAX, 1.0, True, (1, 1)),
            kv_lora_rank=256,
            n_routed_experts=128,
            num_experts_per_tok=4,
        ),
        Key(("first_k_dense_replace",), mixture.LEADING, "u32", always(0), always(0)),
    ),
    irregular=(Irregular(_to_ggml, _to_hf), DEEPSEEK3.irregular[1]),
    assumptions=(
        SILU,
        Assumption("attention_bias", (False,), False),
        Assumption("rope_interleave", (True,), True),
    ),
    ignored=MISTRAL3.ignored,
    other_types=("mistral3",),
    suits=lambda config: text_config(config).get("model_type", "mistral4") == "mistral4",
    alone=("Mistral4ForCausalLM", "mistral4"),
)


def _apart(rule: Rule, part: str) -> Rule:
    """A matrix of each expert, as Mistral's own folders have them."""
    return replace(rule, apart=(Apart(f"{mixture.MLP_}experts.{{e}}.{part}_proj.weight"),))


_GATE: Final = Rule(
    mixture.MLP_ + "experts.gate_up_proj",
    "blk.{n}.ffn_gate_exps.weight",
    ("experts", "expert_pair", "hidden"),
    turn=0,
    changes=(Grid(("experts", 2, "expert_ffn"), (1, 0, 2)),),
    among=("expert_rows", "expert_rows"),
    flat=("experts", "expert_ffn", "hidden"),
    when="!dense",
)
#: The same as Mistral publishes it (Large 3), which is a DeepSeek to llama.cpp's converter; a GGUF becomes a Mistral 4.
MISTRAL_LARGE3: Final[Family] = replace(
    MISTRAL4,
    model_type="mistral_large_3",
    ggml="deepseek2",
    classes=("MistralLarge3ForCausalLM",),
    headless=frozenset(),
    rules=(
        *(rule for rule in MISTRAL4.rules if "exps." not in rule.ggml),
        _apart(_GATE, "gate"),
        _apart(replace(_GATE, ggml="blk.{n}.ffn_up_exps.weight", turn=1), "up"),
        _apart(
            Rule(
                mixture.MLP_ + "experts.down_proj",
                "blk.{n}.ffn_down_exps.weight",
                ("experts", "hidden", "expert_ffn"),
                when="!dense",
            ),
            "down",
        ),
    ),
    other_types=(),
    suits=lambda config: True,
    claims=lambda values: SCALE in values,
)
