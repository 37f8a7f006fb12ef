"""What a user sets in a GGUF against the tensors that it will have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from requant.agreement import described, refuse_new
from requant.encodings import F32
from requant.errors import PlanError
from requant.ir import Naming, TensorSpec, Typed
from requant.passes.passing import Fact
from requant.plan import Translation


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a user sets agrees with the tensors, and with what else is set."""

    name: ClassVar = "agreement"
    needs: ClassVar = frozenset({Fact.DESCRIBED})
    ensures: ClassVar = frozenset[Fact]()
    key_values: tuple[tuple[str, Typed], ...]

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for a value that llama.cpp would refuse, or that something else has changed."""
        for key, given in dict(self.key_values).items():
            found = said.metadata[key]
            if given.value != found.value and given.value == given.value:  # NaN is not what it is
                raise PlanError(
                    f"{key} cannot be {given.value}: another option makes it {found.value}",
                    hint="leave one of them out",
                )
        # what is told goes by names and shapes, and any encoding holds those
        specs = [TensorSpec(move.name, move.shape, F32) for move in said.moves]
        before = said.source if said.source.naming is Naming.GGML else None
        refuse_new(described(said.metadata, specs, said.source), before)
        return said
