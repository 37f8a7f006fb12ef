"""MLX's affine integers: rows of codes without gaps, and a scale and an offset for every group.

Source: `mx.quantize` of MLX 0.32. Its floats (mxfp4, nvfp4, mxfp8) are of `requant.encodings.scaled`, kind "mlx".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from requant.dtypes import DTYPES
from requant.encodings import DENSE, Dense, PartSpec, Shape, check_group
from requant.encodings.exactness import Offsets
from requant.errors import PlanError

#: Bits of a code, and columns that share a scale, as MLX has them; groups of 16 it dequantizes, and does not make.
WIDTHS: Final = (1, 2, 3, 4, 5, 6, 8)
GROUPS: Final = (16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class MlxAffine:
    """Value = code * scale + offset. bits: of a code. group: columns that share a scale. scale: dtype of both."""

    bits: int
    group: int = 64
    scale: str = "F16"

    def __post_init__(self) -> None:
        check_group(self.group, whole_row=False)

    @property
    def label(self) -> str:
        """For example `MLX-4b-g64-F16`."""
        return f"MLX-{self.bits}b-g{self.group}-{self.scale}"

    @property
    def sliced(self) -> bool:
        """Each row has its own codes and scales."""
        return True

    @property
    def values(self) -> Dense:
        """MLX computes in the dtype of the scales."""
        return DENSE[self.scale]

    @property
    def integers(self) -> Offsets:
        """Unsigned codes, with offsets instead of zeros."""
        return Offsets(self.bits, self.group, self.scale)

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Codes in 32-bit words, scales, offsets.

        >>> MlxAffine(3).parts((8, 256))["data"].shape
        (8, 24)
        """
        if len(shape) < 2 or shape[-1] % self.group:
            raise PlanError(
                f"{self.label} stores rows of whole groups of {self.group}, not a tensor of shape {list(shape)}",
                hint="keep this tensor dense",
            )
        *rows, columns = shape
        scales = PartSpec(DTYPES[self.scale], (*rows, columns // self.group))
        return {
            "data": PartSpec(DTYPES["U32"], (*rows, columns * self.bits // 32)),
            "scales": scales,
            "biases": scales,
        }

    def granule(self, shape: Shape) -> int:
        """Any row on its own."""
        return 1

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As `nn.QuantizedLinear` and `nn.QuantizedEmbedding` have them."""
        module = tensor.removesuffix(".weight")
        return {"data": tensor, "scales": f"{module}.scales", "biases": f"{module}.biases"}
