"""HQQ and MLX's affine quantization: integers with floating-point zeros or offsets, read and copied.

Source: HQQ (`quantize.py`, `bitpack.py`), MLX 0.32 (`mx.quantize`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from requant.dtypes import DTYPES
from requant.encodings import DENSE, F32, Dense, PartSpec, Shape
from requant.encodings.exactness import Offsets
from requant.errors import PlanError

#: Width -> codes in a stored number.
SLABS: Final = {8: 1, 6: 1, 5: 1, 4: 2, 3: 10, 2: 4, 1: 8}


@dataclass(frozen=True, slots=True)
class Hqq:
    """Codes of a matrix seen as rows of groups (axis 1) or columns of groups (axis 0), stacked in slabs of rows.

    scale: dtype of scales and zeros. beside: (name, dtype, shape) of arrays that describe the layer; they are kept
    where it is copied.
    """

    bits: int
    group: int
    axis: int
    scale: str = "F16"
    beside: tuple[tuple[str, str, Shape], ...] = ()

    @property
    def label(self) -> str:
        """For example `HQQ-4b-g64-axis1-F16`."""
        marks = f"HQQ-{self.bits}b-g{self.group}-axis{self.axis}-{self.scale}"
        return marks + "".join(f"-{name}:{dtype}{list(shape)}" for name, dtype, shape in self.beside)

    @property
    def sliced(self) -> bool:
        """Rows far apart share stored numbers."""
        return False

    @property
    def values(self) -> Dense:
        """HQQ computes in the dtype of the scales."""
        return DENSE[self.scale] if self.scale in ("F16", "BF16") else F32

    def groups(self, shape: Shape) -> int:
        """How many groups a tensor of `shape` has."""
        count, rest = divmod(prod(shape), self.group)
        if rest:
            raise PlanError(f"{self.label} stores whole groups of {self.group}, not {prod(shape)} values")
        return count

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Codes, scales, zeros, and what lies beside."""
        groups = self.groups(shape)
        rows, columns = (groups, self.group) if self.axis == 1 else (self.group, groups)
        stored = DTYPES["I32" if self.bits == 3 else "U8"]
        scales = PartSpec(DTYPES[self.scale], (groups, 1) if self.axis == 1 else (1, groups))
        parts = {
            "data": PartSpec(stored, (-(-rows // SLABS[self.bits]), columns)),
            "scales": scales,
            "zeros": scales,
        }
        return parts | {name: PartSpec(DTYPES[dtype], size) for name, dtype, size in self.beside}

    def granule(self, shape: Shape) -> int:
        """Any row on its own."""
        return 1

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As `HQQLinear.state_dict` names them."""
        module = tensor.removesuffix(".weight")
        names = {"data": "W_q", "scales": "scale", "zeros": "zero"} | {name: name for name, _, _ in self.beside}
        return {part: f"{module}.{name}" for part, name in names.items()}


@dataclass(frozen=True, slots=True)
class MlxAffine:
    """Codes without gaps in words of 32 bits; value = code * scale + offset."""

    bits: int
    group: int
    scale: str = "F16"

    @property
    def label(self) -> str:
        """For example `MLX-4b-g64-F16`."""
        return f"MLX-{self.bits}b-g{self.group}-{self.scale}"

    @property
    def sliced(self) -> bool:
        """Every row has words, scales and offsets of its own."""
        return True

    @property
    def integers(self) -> Offsets:
        """What its codes are."""
        return Offsets(self.bits, self.group, self.scale)

    @property
    def values(self) -> Dense:
        """MLX computes in the dtype of the scales."""
        return DENSE[self.scale] if self.scale in ("F16", "BF16") else F32

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Words, scales and offsets."""
        *rows, columns = shape
        if columns % self.group or columns * self.bits % 32:
            raise PlanError(f"{self.label}: a row of {columns} is no whole groups of {self.group} in whole words")
        groups = PartSpec(DTYPES[self.scale], (*rows, columns // self.group))
        data = PartSpec(DTYPES["U32"], (*rows, columns * self.bits // 32))
        return {"data": data, "scales": groups, "offsets": groups}

    def granule(self, shape: Shape) -> int:
        """Any row on its own."""
        return 1

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As MLX names them."""
        module = tensor.removesuffix(".weight")
        return {"data": tensor, "scales": f"{module}.scales", "offsets": f"{module}.biases"}
