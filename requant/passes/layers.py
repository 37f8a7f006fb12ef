"""Layers as the destination keeps them: experts as parameters or as linear layers, projections fused or apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from requant.passes.gpt_oss_experts import as_parameters, upright
from requant.passes.passing import Fact
from requant.plan import Translation

if TYPE_CHECKING:
    from requant.schemes.scheme import Scheme


@dataclass(frozen=True, slots=True)
class Experts:
    """Experts are parameters, or the linear layers that a scheme stores.

    Those of gpt-oss, in transformers, are [experts, in, out]; where they are MXFP4 [experts, out, in].
    """

    name: ClassVar = "experts"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset[Fact]()
    scheme: Scheme | None = None

    def __call__(self, said: Translation) -> Translation:
        """Names and the way matrices lie change."""
        stacked = self.scheme is not None and self.scheme.stores_stacks(said.config)
        turned = upright if stacked else as_parameters
        return replace(said, moves=turned(said.moves))


@dataclass(frozen=True, slots=True)
class LibraryNames:
    """Tensors are as the library that loads the scheme has them.

    mlx-lm has names, stacks and convolutions of its own.
    """

    name: ClassVar = "library"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset[Fact]()
    scheme: Scheme

    def __call__(self, said: Translation) -> Translation:
        """Raises `UnsupportedError` for a family whose names there are not known."""
        moves, losses = self.scheme.renamed(said.moves, said.config)
        return replace(said, moves=moves).losing(*losses)


@dataclass(frozen=True, slots=True)
class Fuse:
    """Projections that the family has fused are not kept apart.

    exllamav2 does; transformers would not load it.
    """

    name: ClassVar = "fuse"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """As transformers loads them."""
        from requant.architectures import joined

        return replace(said, moves=joined(said.moves, said.architecture))
