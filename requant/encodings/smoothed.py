"""ModelOpt's weights whose inputs are multiplied by a scale of their own before the product (AWQ, SmoothQuant).

A model computes W (s * x), which is (W diag(s)) x: the weight it means has its columns multiplied by s.
Source: `TensorQuantizer.pre_quant_scale` of NVIDIA ModelOpt 0.47.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from requant.dtypes import DTYPES
from requant.encodings import Dense, Encoding, PartSpec, Shape
from requant.encodings.compressed import RowPairs
from requant.encodings.scaled import Scaled


@dataclass(frozen=True, slots=True)
class Smoothed:
    """Read, and copied; never made. stored: how the weight itself is stored. scale: dtype of the scales of inputs."""

    stored: Dense | Scaled | RowPairs
    scale: str = "BF16"

    @property
    def label(self) -> str:
        """For example `MODELOPT-INT4-g128-F32*inputs-BF16`."""
        return f"{self.stored.label}*inputs-{self.scale}"

    @property
    def sliced(self) -> bool:
        """The scales belong to every row."""
        return False

    @property
    def shared(self) -> bool:
        """So they do (see `HasShared`)."""
        return True

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Those of the weight, and a scale for each column."""
        encoding: Encoding = self.stored
        return {**encoding.parts(shape), "inputs": PartSpec(DTYPES[self.scale], shape[-1:])}

    def granule(self, shape: Shape) -> int:
        """That of the weight."""
        encoding: Encoding = self.stored
        return encoding.granule(shape)

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """The scales lie beside the weight."""
        names = {"data": tensor} if isinstance(self.stored, Dense) else self.stored.stored_names(tensor)
        return {**names, "inputs": f"{tensor.removesuffix('.weight')}.pre_quant_scale"}
