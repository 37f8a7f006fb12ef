"""Weights of a GGUF that have a companion: an F32 tensor beside them, by which llama.cpp multiplies their products.

ggml's NVFP4 blocks have no scale of the whole tensor, as every other NVFP4 has: `blk.0.attn_q.scale` [1] holds that of
`blk.0.attn_q.weight`, `blk.0.ffn_up_exps.scale` [experts] one for each matrix of a stack. Any type can have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from requant.dtypes import DTYPES
from requant.encodings import BLOCKS, Blocks, Dense, PartSpec, Shape
from requant.encodings.small_floats import SmallFloats


@dataclass(frozen=True, slots=True)
class Companioned:
    """Read, never written: a GGUF has two tensors for it. stored: how the weight itself is stored."""

    stored: Blocks | Dense

    @property
    def label(self) -> str:
        """For example `NVFP4*scale`."""
        return f"{self.stored.label}*scale"

    @property
    def sliced(self) -> bool:
        """The scale belongs to every row."""
        return False

    @property
    def shared(self) -> bool:
        """So it does (see `HasShared`)."""
        return True

    @property
    def small_floats(self) -> SmallFloats | None:
        """Those of NVFP4, now with a scale of the whole tensor."""
        return SmallFloats(16, "F8_E4M3", "multiplies") if self.stored == BLOCKS["NVFP4"] else None

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The weight, and a scale for it, or for each matrix of a stack.

        >>> Companioned(BLOCKS["NVFP4"]).parts((8, 4, 128))["whole"].shape
        (8,)
        """
        whole = PartSpec(DTYPES["F32"], (shape[0] if len(shape) > 2 else 1,))
        return {**self.stored.parts(shape), "whole": whole}

    def granule(self, shape: Shape) -> int:
        """Any row on its own."""
        return 1
