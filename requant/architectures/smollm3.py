"""SmolLM3: Llama without rotation in every fourth layer, which llama.cpp knows by itself.

Facts: llama.cpp's conversion/llama.py and src/models/smollm3.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.decoders import SIZES, VOCABULARY_SIZE, decoder, rms_norm_eps
from requant.architectures.llama import LLAMA, SILU, head_width, head_width_implied
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Config, Family, Irregular, Key, Sizes, ToGgml, ToHf
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor

_PERIOD: Final = 4


def _rotated(layers: int) -> list[Json]:
    """1 for each layer that llama.cpp rotates."""
    return [int((n + 1) % _PERIOD != 0) for n in range(layers)]


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    period = config.get("no_rope_layer_interval", _PERIOD)
    said = config.get("no_rope_layers")
    if (said is None and period != _PERIOD) or (said is not None and said != _rotated(sizes["layers"])):
        raise PlanError(
            f"config.json: no_rope_layers; llama.cpp leaves every {_PERIOD}th layer of this architecture without "
            "rotation, and no other",
            hint="a conversion would give a model that computes something else",
        )
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"no_rope_layer_interval": _PERIOD, "no_rope_layers": _rotated(sizes["layers"])})


SMOLLM3: Final[Family] = decoder(
    "SmolLM3",
    "smollm3",
    "smollm3",
    LLAMA.rules,
    (
        *SIZES,
        rms_norm_eps(1e-6),
        VOCABULARY_SIZE,
        Key((), "rope.dimension_count", "u32", default=head_width, implied=head_width_implied),
    ),
    (Rope(theta=2_000_000.0).pair(), Irregular(_to_ggml, _to_hf)),
    assumptions=(
        SILU,
        Assumption(
            "use_sliding_window",
            (False, None),
            False,
            loss="llama.cpp lets every layer of this architecture attend to the whole context",
        ),
    ),
    tied=True,
    flags=(("attention_bias", False), ("mlp_bias", False)),
)
