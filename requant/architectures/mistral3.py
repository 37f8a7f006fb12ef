"""Ministral 3, Devstral 2: Llama with yarn, and queries that grow with the distance from the beginning; and the text
models of Mistral Small 3.1 and 3.2, which are Mistrals without either.

Facts: llama.cpp's conversion/mistral3.py and src/models/mistral3.cpp; transformers' modeling_ministral3.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import SIZES, VOCABULARY_SIZE, decoder, rms_norm_eps, trunk
from requant.architectures.llama import (
    LLAMA,
    MLP,
    NORMS,
    SILU,
    WINDOW_LOSS,
    heads_of,
)
from requant.architectures.numbers import number, positive, shortest
from requant.architectures.rope import Rope, parameters
from requant.architectures.rules import (
    MMPROJ,
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Order,
    Sizes,
    ToGgml,
    ToHf,
)
from requant.ir import Checkpoint, Json, Tensor, Typed, text_config

_THETA: Final = 1_000_000.0
_YARN: Final[Mapping[str, Json]] = {
    "rope_type": "yarn",
    "factor": 16.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16384,
    "llama_4_scaling_beta": 0.1,
}
_ROPE: Final = Rope(theta=_THETA, multiplied=1.0, absent=_YARN)
_PLAIN: Final = Rope(theta=10000.0)
SCALE: Final = "attention.temperature_scale"
BETA: Final = "llama_4_scaling_beta"


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    if config.get("model_type") == "mistral":
        return _PLAIN.to_ggml(checkpoint, config, sizes)
    said = _ROPE.to_ggml(checkpoint, config, sizes)
    written = config.get("rope_parameters") or config.get("rope_scaling") or dict(_YARN)
    rope = parameters({**config, "rope_parameters": written}, _THETA)
    if rope.get(BETA):
        return replace(said, values={**said.values, SCALE: Typed("f32", positive(rope, BETA))})
    return said


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    said = _ROPE.to_hf(values, tensors, sizes)
    scaling = said.config.get("rope_scaling")
    if isinstance(scaling, dict):
        beta = shortest(number(values, SCALE, 0.0))
        rope: dict[str, Json] = {**scaling, BETA: beta}
        return replace(said, config={**said.config, "rope_scaling": rope}, keys=said.keys | {SCALE})
    # the other class would take its own yarn where none is said
    return replace(said, config={**said.config, "architectures": ["MistralForCausalLM"], "model_type": "mistral"})


MISTRAL3: Final[Family] = replace(
    decoder(
        "Ministral3",
        "ministral3",
        "mistral3",
        (*trunk(Order.ROPE), *NORMS, *MLP),
        (
            *SIZES,
            rms_norm_eps(1e-5),
            *heads_of(128),
            VOCABULARY_SIZE,
            LLAMA.keys[-1],
        ),
        (Irregular(_to_ggml, _to_hf),),
        more=("Mistral3ForConditionalGeneration",),
        other_types=("mistral3",),
        assumptions=(SILU, Assumption("sliding_window", (None,), None, loss=WINDOW_LOSS)),
    ),
    bases=("model.", "model.language_model.", "language_model.model.", ""),
    suits=lambda config: text_config(config).get("model_type") != "mistral4",
    ignored=(
        Ignored(
            r"(model\.)?(vision_tower|multi_modal_projector)\..*",
            MMPROJ,
            lost=True,
        ),
    ),
)
