"""What schemes have in common: which tensors are linear layers, and what a scheme gives back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from requant.encodings import BF16, DENSE, F16, Dense, Encoding
from requant.encodings.exactness import values_of
from requant.errors import PlanError
from requant.ir import Json
from requant.losses import Loss
from requant.plan import Move
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


#: Modules of a decoder block whose weights are small and steer: routers; never quantized.
_ROUTERS: Final = re.compile(r"\.(?:gate|router|shared_expert_gate)\.weight$")
_IN_BLOCK: Final = re.compile(r"(?:^|\.)(?:layers|h|layer|blocks)\.\d+\.")

#: Families whose matrices lie in files as [in, out].
TRANSPOSED: Final = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})


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


def dense_like(move: Move) -> Dense:
    """The encoding of a tensor that is not quantized: its own if it is dense, else what holds its values, or F16."""
    encoding = move.inputs[0].encoding
    if isinstance(encoding, Dense):
        return encoding
    return BF16 if values_of(encoding) == BF16 else F16


def dense_modules(moves: Sequence[Move], encodings: Sequence[Encoding]) -> list[str]:
    """Modules of matrices that stay dense; embeddings and norms, which are no linear layers, left out."""
    names = [
        move.name.removesuffix(".weight")
        for move, encoding in zip(moves, encodings, strict=True)
        if encoding in DENSE.values() and len(move.shape) == 2 and move.name.endswith(".weight")
    ]
    return [name for name in names if "embed" not in name and "norm" not in name.rsplit(".", 1)[-1]]


def refuse_transposed(config: Mapping[str, Json], scheme: str) -> None:
    """`PlanError` for families whose matrices lie in files as [in, out]: no quantized format of theirs is read."""
    if config.get("model_type") in TRANSPOSED:
        raise PlanError(
            f"{config['model_type']} keeps its matrices transposed; they cannot be stored as {scheme}",
            hint="choose a dense type, or a GGUF destination",
        )
