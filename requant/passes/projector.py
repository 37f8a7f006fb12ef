"""What sees or hears in a model, as the GGUF that llama.cpp loads beside the text model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from requant.ir import Checkpoint, Tensor
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


@dataclass(frozen=True, slots=True)
class Seeing:
    """The text model is that of one that sees or hears, and called as there.

    mmproj: the GGUF of what it sees or hears with.
    """

    name: ClassVar = "seeing"
    needs: ClassVar = frozenset({Fact.RECOGNIZED})
    ensures: ClassVar = frozenset[Fact]()
    mmproj: Checkpoint[Tensor]

    def __call__(self, said: Translation) -> Translation:
        """Raises `UnsupportedError` where no model is known that has both."""
        from requant.projectors.to_hf import recognized

        return recognized(said, self.mmproj)


@dataclass(frozen=True, slots=True)
class Together:
    """Towers and projector stand beside the text model, under one config.json.

    mmproj: the GGUF that has them.
    """

    name: ClassVar = "together"
    needs: ClassVar = frozenset({Fact.COMPLETED})
    ensures: ClassVar = frozenset[Fact]()
    mmproj: Checkpoint[Tensor]

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for what contradicts itself."""
        from requant.projectors.to_hf import completed

        return completed(said, self.mmproj)
