"""What sees or hears in a model, as the GGUF that llama.cpp loads beside the text model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from requant.passes.passing import Fact
from requant.plan import Translation


@dataclass(frozen=True, slots=True)
class Encoders:
    """Towers and projector are said in ggml's words, without the text model."""

    name: ClassVar = "encoders"
    needs: ClassVar = frozenset({Fact.CLAIMED})
    ensures: ClassVar = frozenset({Fact.RECOGNIZED, Fact.SIZED, Fact.NAMED, Fact.COMPLETED})

    def __call__(self, said: Translation) -> Translation:
        """Raises `UnsupportedError` for what neither sees nor hears, `PlanError` for what contradicts itself."""
        from requant.projectors import translated

        return translated(said)


@dataclass(frozen=True, slots=True)
class ProjectorGeneral:
    """Name, licence, origin and the like are said, and that it is a projector."""

    name: ClassVar = "general"
    needs: ClassVar = frozenset({Fact.COMPLETED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """As the model's own."""
        from requant.projectors import described

        return described(said)
