"""HQQ: codes of all of a tensor laid out by groups, with a float zero and scale for each.

Sources: `Quantizer` and `BitPack` of hqq 0.2.8; what lies beside the arrays is `HQQLinear.state_dict`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from requant.dtypes import DTYPES
from requant.encodings import DENSE, Dense, PartSpec, Shape, check_group
from requant.errors import PlanError

#: Bits of a field -> fields of a stored number; 3-bit fields lie in 32-bit numbers, the others in bytes.
FIELDS: Final[Mapping[int, int]] = {8: 1, 4: 2, 3: 10, 2: 4, 1: 8}


@dataclass(frozen=True, slots=True)
class Hqq:
    """Value = (code - zero) * scale.

    width: bits of a field, which the codes may not use up. group: numbers that share a scale. axis: 1 when the tensor
    is laid out as one row for each group, 0 when as one column for each. scale: dtype of zeros and scales. storage:
    dtype the fields are stored as. described: (name, dtype, shape) of the arrays that say how it was made.
    """

    width: int
    group: int
    axis: int
    scale: str = "F16"
    storage: str = "U8"
    described: tuple[tuple[str, str, Shape], ...] = ()

    def __post_init__(self) -> None:
        check_group(self.group)

    @property
    def label(self) -> str:
        """For example `HQQ-4b-g64-axis1-F16`."""
        stored = "" if self.storage == ("I32" if self.width == 3 else "U8") else f"-in-{self.storage}"
        return f"HQQ-{self.width}b-g{self.group}-axis{self.axis}-{self.scale}{stored}"

    @property
    def sliced(self) -> bool:
        """A stored number holds codes of rows that lie far apart."""
        return False

    @property
    def values(self) -> Dense:
        """Differences and products are rounded to the dtype of the scales."""
        return DENSE[self.scale]

    def layout(self, shape: Shape) -> tuple[int, int]:
        """Rows and columns that the codes are laid out in."""
        groups, rest = divmod(prod(shape), self.group)
        if rest:
            raise PlanError(
                f"{self.label} stores whole groups of {self.group}, not a tensor of shape {list(shape)}",
                hint="keep this tensor dense",
            )
        return (groups, self.group) if self.axis else (self.group, groups)

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Fields, scales, zeros, and what describes them.

        >>> Hqq(4, 64, 1).parts((8, 256))["data"].shape
        (16, 64)
        """
        rows, columns = self.layout(shape)
        fields = FIELDS[self.width]
        if rows % fields and self.width != 3:
            raise PlanError(f"{self.label} stores {fields} rows in one; {rows} do not divide")
        width = (32 if self.width == 3 else 8) * columns
        wide, rest = divmod(width, DTYPES[self.storage].bits)
        if rest:
            raise PlanError(f"{self.label}: a row of {columns} does not fill whole {self.storage}")
        scales = PartSpec(DTYPES[self.scale], (rows, 1) if self.axis else (1, columns))
        parts = {"data": PartSpec(DTYPES[self.storage], (-(-rows // fields), wide)), "scale": scales, "zero": scales}
        return parts | {name: PartSpec(DTYPES[dtype], size) for name, dtype, size in self.described}

    def granule(self, shape: Shape) -> int:
        """Any row on its own."""
        return 1

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As in a state dict of `HQQLinear`."""
        module = tensor.removesuffix(".weight")
        names = ["scale", "zero", *(name for name, _, _ in self.described)]
        return {"data": f"{module}.W_q", **{name: f"{module}.{name}" for name in names}}
