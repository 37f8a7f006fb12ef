"""Names of tensors without what trainers wrap round a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from requant.losses import Loss, LossKind
from requant.passes.passing import Fact
from requant.plan import Translation, unchanged
from requant.wrapped import unwrapped


@dataclass(frozen=True, slots=True)
class Unwrap:
    """Prefixes that trainers leave in every name are taken off, and told."""

    name: ClassVar = "unwrap"
    needs: ClassVar = frozenset({Fact.CLAIMED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` where two tensors would have one name."""
        source, found = unwrapped(said.source)
        if not found:
            return said
        losses = (
            Loss(LossKind.SUSPECT, part, f"{who} has left it in the names of tensors; taken off")
            for part, who in found.items()
        )
        return replace(unchanged(source), losses=said.losses).losing(*losses)
