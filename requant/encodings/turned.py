"""Weights whose inputs are turned by a Hadamard matrix before the product: the weight that is meant is turned back.

A model computes V (H x) with H orthogonal, which is (V H) x. H is Sylvester's matrix over the root of its size, in
blocks along the inputs; it is symmetric, and its own inverse. Sources: GPTQModel 7.7 (`rotation`: the inputs of
`mlp.down_proj`, one block), auto-round 0.16 (`rotation_config`: the inputs of every quantized layer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from requant.encodings import PartSpec, Shape
from requant.encodings.gptq import Gptq
from requant.encodings.scaled import Scaled
from requant.errors import PlanError


@dataclass(frozen=True, slots=True)
class Turned:
    """Read, and copied; never made. stored: how the weight is stored. block: inputs that are turned together."""

    stored: Gptq | Scaled
    block: int

    @property
    def label(self) -> str:
        """For example `GPTQ-4b-g128*hadamard-4096`."""
        return f"{self.stored.label}*hadamard-{self.block}"

    @property
    def sliced(self) -> bool:
        """Rows are turned each by itself."""
        return self.stored.sliced

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Those of the weight."""
        if not shape or shape[-1] % self.block:
            raise PlanError(f"{self.label}: rows of {shape[-1] if shape else 1} are no blocks of {self.block}")
        return self.stored.parts(shape)

    def granule(self, shape: Shape) -> int:
        """That of the weight."""
        return self.stored.granule(shape)

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """Nothing but the configuration says that it is turned."""
        return self.stored.stored_names(tensor)
