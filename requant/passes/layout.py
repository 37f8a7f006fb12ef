"""Where every byte of the output goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from requant.errors import PlanError
from requant.ir import Checkpoint, TensorSpec
from requant.layout import Format, LayoutOptions
from requant.passes.names import as_split
from requant.passes.passing import Fact
from requant.plan import Step, Translation


@dataclass(frozen=True, slots=True)
class Place:
    """Every tensor gets its place in a file of the output.

    keep_split: as many files as the source has, with the same tensors in each. cut: else, how to cut the output.
    """

    name: ClassVar = "layout"
    needs: ClassVar = frozenset({Fact.DESCRIBED, Fact.STEPPED})
    ensures: ClassVar = frozenset({Fact.PLACED})
    target: Format
    destination: Path
    cut: LayoutOptions = LayoutOptions()
    keep_split: bool = False

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for what the format cannot store."""
        for step in said.steps:
            self._accept(step)
        cut = as_split(said.moves, self.cut) if self.keep_split else self.cut
        return replace(said, layout=self.target.layout(described(self.target, said), self.destination, cut))

    def _accept(self, step: Step) -> None:
        if not self.target.accepts(step.target.encoding):
            raise PlanError(
                f"{step.target.name}: {self.target.name} cannot store {step.target.encoding.label}",
                hint="choose another type with --to, or another format",
            )


def described(target: Format, said: Translation) -> Checkpoint[TensorSpec]:
    """The checkpoint that will be written."""
    tensors = tuple(step.target for step in said.steps)
    return Checkpoint(target.naming, said.architecture, tensors, said.config, said.metadata, said.files)
