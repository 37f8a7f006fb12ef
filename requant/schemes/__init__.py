"""Quantization schemes of Hugging Face folders: GPTQ, AWQ, EXL2, FP8, NF4, … as users ask for them after `--to`.

A scheme decides which tensors are quantized, how each is encoded, and what config.json says about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from requant.encodings import Encoding
from requant.ir import Json
from requant.plan import Loss, Move
from requant.sources import Source


@dataclass(frozen=True, slots=True)
class Applied:
    """A scheme applied to a model.

    encodings: for each move, in order. quantization: `quantization_config` of config.json. files: what lies beside it
    (quantize_config.json). losses: tensors that could not be quantized as asked.
    """

    encodings: tuple[Encoding, ...]
    quantization: Mapping[str, Json]
    files: Mapping[str, Source] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()


class Scheme(Protocol):
    """One scheme with its parameters."""

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Choose an encoding for every tensor; `config` is config.json of the model."""
        ...


#: Scheme name -> parser of what follows it: "GPTQ-4-128" -> ["4", "128"].
SCHEMES: Final[Mapping[str, Callable[[Sequence[str]], Scheme]]] = {}

#: Modules of a decoder block whose weights are small and steer: routers; never quantized.
_ROUTERS: Final = re.compile(r"\.(?:gate|router|shared_expert_gate)\.weight$")
_IN_BLOCK: Final = re.compile(r"(?:^|\.)(?:layers|h|layer|blocks)\.\d+\.")


def is_linear(move: Move) -> bool:
    """Whether a tensor is the weight of a linear layer inside a decoder block, as quantizers understand it."""
    name = move.name
    return (
        len(move.shape) == 2
        and name.endswith(".weight")
        and _IN_BLOCK.search(name) is not None
        and "norm" not in name.rsplit(".", 2)[-2]
        and "embed" not in name
        and _ROUTERS.search(name) is None
    )


def scheme_named(text: str) -> Scheme | None:
    """The scheme a user means: a name of `SCHEMES` and its parameters, separated by dashes, in any case."""
    name, *parameters = text.upper().split("-")
    return SCHEMES[name](parameters) if name in SCHEMES else None
