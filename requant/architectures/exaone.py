"""EXAONE 4: norms on what attention and feed-forward network add, and norms of each head.

Facts: llama.cpp's conversion/exaone.py and src/models/exaone4.cpp, which has windows in the model of 64 layers (32B)
and in no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.decoders import (
    OUTER_NORMS,
    SIZES,
    VOCABULARY_SIZE,
    decoder,
    head_norms,
    rms_norm_eps,
    trunk,
)
from requant.architectures.llama import HEAD_KEYS, MLP, SILU
from requant.architectures.rope import Rope
from requant.architectures.rules import Config, Family, Irregular, Sizes, ToGgml, ToHf
from requant.architectures.windows import Windows
from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor

_LAYERS_32B: Final = 64
_WINDOWS: Final = Windows(4, 4096, listed=True)


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    said = _WINDOWS.to_ggml(checkpoint, config, sizes)
    if bool(said.values) != (sizes["layers"] == _LAYERS_32B):
        has = "sliding windows" if said.values else "no sliding window"
        raise PlanError(
            f"config.json: {sizes['layers']} layers with {has}; llama.cpp computes this architecture with windows "
            f"where it has {_LAYERS_32B} layers, and without everywhere else",
            hint="a conversion would give a model that computes something else",
        )
    return said


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return _WINDOWS.to_hf(values, tensors, sizes)


EXAONE4: Final[Family] = decoder(
    "Exaone4",
    "exaone4",
    "exaone4",
    (*trunk(), *head_norms(), *OUTER_NORMS, *MLP),
    (*SIZES, rms_norm_eps(1e-5), *HEAD_KEYS, VOCABULARY_SIZE),
    (Rope(theta=10000.0).pair(), Irregular(_to_ggml, _to_hf)),
    assumptions=(SILU,),
)
