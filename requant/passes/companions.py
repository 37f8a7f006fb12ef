"""Scales of whole tensors, which GGUF files keep beside their weights and folders keep inside."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from requant import companions
from requant.encodings.scaled import BESIDE
from requant.losses import Loss
from requant.passes.passing import Fact
from requant.plan import Translation, unchanged


@dataclass(frozen=True, slots=True)
class FoldScales:
    """Scales of whole tensors are inside the weights they stood beside."""

    name: ClassVar = "fold scales"
    needs: ClassVar = frozenset({Fact.CLAIMED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for scales that do not fit."""
        source, losses = companions.folded(said.source)
        return replace(unchanged(source), losses=said.losses).losing(*losses)


@dataclass(frozen=True, slots=True)
class ScalesBeside:
    """Scales of whole tensors follow what becomes NVFP4, as tensors.

    What becomes another type has them inside.
    """

    name: ClassVar = "scales beside"
    needs: ClassVar = frozenset({Fact.TYPED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for scales that are none."""
        names = {move.name for move in said.moves}
        alone = [companions.bare(move, said.architecture, names) for move in said.moves]
        tensors = {tensor.name: tensor for tensor in said.source.tensors}
        parted = companions.divided(said.moves, alone, said.encodings, tensors)
        losses = tuple(loss for loss in said.losses if loss.subject not in parted.carried)
        return replace(said, moves=tuple(parted.moves), encodings=tuple(parted.encodings), losses=losses)


@dataclass(frozen=True, slots=True)
class OutputScale:
    """The scale beside an output that is NVFP4 no more is inside it."""

    name: ClassVar = "output scale"
    needs: ClassVar = frozenset({Fact.TYPED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for a scale that does not fit."""
        moves, encodings, losses = companions.multiplied_output(said.moves, said.encodings)
        return replace(said, moves=tuple(moves), encodings=tuple(encodings)).losing(*losses)


@dataclass(frozen=True, slots=True)
class DropScales:
    """Scales that only the quantized source needs are left out."""

    name: ClassVar = "drop scales"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """Each is a loss."""
        scales = {move.name: move for move in said.moves if BESIDE.fullmatch(move.name)}
        moves = tuple(move for move in said.moves if move.name not in scales)
        detail = "only what runs the quantized source needs it"
        return replace(said, moves=moves).losing(*(Loss.of_tensor(move.inputs[0], detail) for move in scales.values()))
