"""compressed-tensors' packed integers (`pack-quantized`), and ModelOpt's pairs of rows.

Source: compressed-tensors 0.20 and 0.12 (`pack_quantized.py`), ModelOpt 0.47 (`quant_utils.py`: pack_int4_in_uint8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from requant.dtypes import DTYPES
from requant.encodings import DENSE, F32, Dense, PartSpec, Shape, check_group
from requant.encodings.exactness import Integers
from requant.encodings.gptq import Order
from requant.errors import PlanError


@dataclass(frozen=True, slots=True)
class Packed:
    """Integers of 1 to 8 bits, rows packed into words, with a scale for each group of columns, or for a block.

    group: columns that share a scale; -1 for a row, 0 for the whole tensor. scale: dtype of the scales. stream: codes
    follow each other without gaps (since compressed-tensors 0.17), else whole codes fill words from below. order: what
    `weight_g_idx` says. shape_dtype: of the stored shape. rows: that share a scale; more than one only in blocks, which
    may be cut at the edges. Zeros are packed like codes, along the columns, where each row has its own; those of blocks
    and of whole tensors are plain I8, of which -2**(bits - 1) is code 0.
    """

    bits: int = 4
    group: int = 128
    symmetric: bool = True
    scale: str = "BF16"
    stream: bool = True
    order: Order = Order.MISSING
    shape_dtype: str = "I64"
    rows: int = 1

    @property
    def label(self) -> str:
        """Bits and group, and whatever is not usual.

        >>> Packed().label, Packed(3, -1, symmetric=False, scale="F16", stream=False).label
        ('CT-4b-g128-BF16', 'CT-3b-g-1-asym-F16-gaps')
        """
        grain = f"{self.rows}x{self.group}" if self.rows > 1 else f"g{self.group}" if self.group else "tensor"
        marks = [f"CT-{self.bits}b-{grain}"]
        marks += [] if self.symmetric else ["asym"]
        marks += [self.scale]
        marks += [] if self.stream else ["gaps"]
        marks += {Order.STORED: ["gidx"], Order.MISSING: [], Order.UNSET: ["gidx0"], Order.ACT: ["act"]}[self.order]
        marks += [] if self.shape_dtype == "I64" else [f"shape-{self.shape_dtype}"]
        return "-".join(marks)

    @property
    def sliced(self) -> bool:
        """The shape is no row, and zeros of several rows share a word."""
        return False

    @property
    def plain_zeros(self) -> bool:
        """Whether zeros are stored one by one."""
        return not self.symmetric and (self.rows > 1 or self.group == 0)

    @property
    def integers(self) -> Integers | None:
        """What its codes are."""
        if self.group == 0 or self.rows > 1:
            return None
        return Integers(self.bits, self.symmetric, self.group, self.scale, self.order is Order.ACT)

    @property
    def values(self) -> Dense:
        """compressed-tensors computes in the dtype of the scales."""
        return DENSE[self.scale] if self.scale in ("F16", "BF16") else F32

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The arrays of weights [out, in] or [stack, out, in].

        >>> {name: part.shape for name, part in Packed(4, 128, False).parts((48, 256)).items()}
        {'packed': (48, 32), 'scales': (48, 2), 'zeros': (6, 2), 'shape': (2,)}
        """
        if len(shape) < 2:
            raise PlanError(f"{self.label} stores matrices, not a tensor of shape {list(shape)}")
        *stack, rows, columns = shape
        if self.rows == 1 and self.group > 0 and columns % self.group and self.order is not Order.ACT:
            raise PlanError(
                f"{self.label} stores groups of {self.group}; a row of {columns} does not divide",
                hint="keep this tensor dense, or choose a type with a scale for each row",
            )
        groups = -(-columns // self.group) if self.group > 0 else 1
        scales = (*stack, -(-rows // self.rows), groups) if self.group else (*stack, 1) if stack else (1,)
        parts = {
            "packed": PartSpec(DTYPES["I32"], (*stack, rows, self.words(columns))),
            "scales": PartSpec(DTYPES[self.scale], scales),
        }
        if not self.symmetric:
            words = PartSpec(DTYPES["I32"], (*stack, self.words(rows), groups))
            parts["zeros"] = PartSpec(DTYPES["I8"], scales) if self.plain_zeros else words
        if self.order is not Order.MISSING:
            parts["g_idx"] = PartSpec(DTYPES["I32"], (columns,))
        parts["shape"] = PartSpec(DTYPES[self.shape_dtype], (len(shape),))
        return parts

    def granule(self, shape: Shape) -> int:
        """The zeros of 32 rows fill whole words; those of a stack's matrices fill their own."""
        if self.rows > 1:
            return self.rows if len(shape) == 2 else max(1, shape[-2])
        if self.symmetric or self.plain_zeros:
            return 1
        return 32 if len(shape) == 2 or shape[-2] % 32 == 0 else max(1, shape[-2])

    def words(self, codes: int) -> int:
        """Words of 32 bits that hold so many codes."""
        return -(-codes * self.bits // 32) if self.stream else -(-codes // (32 // self.bits))

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """`m.weight` is stored as `m.weight_packed`, `m.weight_scale`, …; a stack `t` as `t_packed`, `t_scale`, …"""
        stem = f"{tensor.removesuffix('.weight')}.weight" if tensor.endswith(".weight") else tensor
        names = {"packed": "packed", "scales": "scale", "zeros": "zero_point", "g_idx": "g_idx", "shape": "shape"}
        return {part: f"{stem}_{name}" for part, name in names.items()}


@dataclass(frozen=True, slots=True)
class RowPairs:
    """ModelOpt's W4A16_AWQ: two rows in a row of bytes, signed nibbles, the upper row in the low ones."""

    group: int = 128
    scale: str = "F32"

    def __post_init__(self) -> None:
        check_group(self.group, whole_row=False)

    @property
    def label(self) -> str:
        """For example `MODELOPT-INT4-g128-F32`."""
        return f"MODELOPT-INT4-g{self.group}-{self.scale}"

    @property
    def sliced(self) -> bool:
        """A row of bytes is two rows."""
        return False

    @property
    def integers(self) -> Integers:
        """What its codes are."""
        return Integers(4, True, self.group, self.scale)

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Codes and scales of [out, in] weights."""
        rows, columns = shape
        if rows % 2 or columns % self.group:
            raise PlanError(f"{self.label}: {rows} by {columns} is no pairs of rows in groups of {self.group}")
        return {
            "data": PartSpec(DTYPES["U8"], (rows // 2, columns)),
            "scales": PartSpec(DTYPES[self.scale], (rows, columns // self.group)),
        }

    def granule(self, shape: Shape) -> int:
        """Two rows."""
        return 2

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As ModelOpt exports them."""
        return {"data": tensor, "scales": f"{tensor.removesuffix('.weight')}.weight_scale"}
