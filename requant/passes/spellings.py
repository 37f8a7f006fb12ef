"""config.json for readers of several generations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from requant.passes.passing import Fact
from requant.plan import Translation


@dataclass(frozen=True, slots=True)
class Spellings:
    """config.json says what is called differently by its older name too.

    Transformers 4, mlx-lm and vLLM would take a default of their own instead.
    """

    name: ClassVar = "spellings"
    needs: ClassVar = frozenset({Fact.DESCRIBED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """Nothing that is there is changed."""
        from requant.architectures.spellings import both_spellings

        return replace(said, config=both_spellings(said.config)) if said.config else said
