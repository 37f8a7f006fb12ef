"""What will not be as it was, or as it was asked for, beyond what each pass tells of its own work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from requant.ir import Naming
from requant.losses import Loss, LossKind
from requant.passes.passing import Fact
from requant.passes.steps import rounded_twice
from requant.plan import Translation


@dataclass(frozen=True, slots=True)
class UnusedImportance:
    """Layers that are rounded without their importance are told."""

    name: ClassVar = "importance"
    needs: ClassVar = frozenset({Fact.STEPPED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """Nothing where there is none."""
        if said.importance is None:
            return said
        from requant.passes.importance import unused_importance

        return said.losing(*unused_importance(said.steps, said.importance))


@dataclass(frozen=True, slots=True)
class Losses:
    """What is rounded twice is told, and what has no place in the output.

    target: the naming of the output.
    """

    name: ClassVar = "losses"
    needs: ClassVar = frozenset({Fact.PLACED})
    ensures: ClassVar = frozenset[Fact]()
    target: Naming

    def __call__(self, said: Translation) -> Translation:
        """Nothing but losses changes."""
        left = _left_behind(said) if self.target is Naming.HF else []
        if left and said.source.obstacle is not None:
            raise said.source.obstacle  # the same arrays without their configuration are no copy
        return said.losing(*left, *rounded_twice(said.steps))


def _left_behind(said: Translation) -> list[Loss]:
    """What belongs to an HF folder and has no place in a file of tensors alone."""
    assert said.layout is not None
    written = {file.name for file in said.layout.files}
    files = [*(["config.json"] if said.config else []), *said.files]
    detail = "a file by itself holds tensors only; a destination that is a folder keeps it"
    if said.source.naming is Naming.GGML:
        from requant.architectures import carried

        written |= {carried.FILE} if carried.KEY in said.metadata else set()  # the header of the weights says it, too
    return [Loss(LossKind.METADATA_DROPPED, name, detail) for name in files if name not in written]
