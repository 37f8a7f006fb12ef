"""Names of tensors without what trainers wrap round a model; and Mistral's own names as transformers'."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from requant.ir import CONSOLIDATED, Naming
from requant.losses import Loss, LossKind
from requant.passes.passing import Fact
from requant.plan import Translation, unchanged
from requant.wrapped import unwrapped


@dataclass(frozen=True, slots=True)
class Unwrap:
    """Prefixes that trainers leave in every name are taken off, and told.

    Mistral's own names become those of transformers; where that is the target, so do rows.
    """

    name: ClassVar = "unwrap"
    needs: ClassVar = frozenset({Fact.CLAIMED})
    ensures: ClassVar = frozenset[Fact]()
    target: Naming

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` where two tensors would have one name, `UnsupportedError` for names that nothing knows."""
        source, found = unwrapped(said.source)
        if source.architecture == CONSOLIDATED:
            from requant.architectures.consolidated import renamed

            return renamed(said, self.target)
        if not found:
            return said
        losses = (
            Loss(LossKind.SUSPECT, part, f"{who} has left it in the names of tensors; taken off")
            for part, who in found.items()
        )
        return replace(unchanged(source), losses=said.losses).losing(*losses)
