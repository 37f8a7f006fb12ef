"""What a quantization scheme answers; nobody asks which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

from requant.importance import Importance
from requant.ir import Json
from requant.plan import Move
from requant.schemes.linear import Applied


class Scheme(ABC):
    """One scheme with its parameters: a frozen value."""

    __slots__ = ()

    @abstractmethod
    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Choose an encoding for every tensor; `config` is config.json of the model."""

    def weighing(self, importance: Importance) -> Self:
        """The same scheme with an importance matrix, whose entries have the names of the moves.

        Most have no choice to make by it: it only weighs when they round.
        """
        return self

    def stores_stacks(self, config: Mapping[str, Json]) -> bool:
        """Whether experts that are parameters become stacks of linear layers, [experts, out, in]."""
        return False

    @property
    def splits_fused(self) -> bool:
        """Whether projections that a family has fused are stored apart."""
        return False

    @property
    def measures(self) -> bool:
        """Whether encodings are chosen by reading weights, which takes its time."""
        return False
