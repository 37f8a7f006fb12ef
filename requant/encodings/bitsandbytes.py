"""bitsandbytes: 4-bit codes into a table of sixteen floats (NF4, FP4), and rows of int8.

Source: bitsandbytes 0.50 (`functional.py`: QuantState; `nn/modules.py`: what a state dict holds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from requant.dtypes import DTYPES
from requant.encodings import DENSE, Dense, PartSpec, Shape, check_group

#: Room for the JSON that describes a tensor; blanks fill what its numbers leave.
STATE_NBYTES: Final = 256
#: Scales of one group of the second quantization.
NESTED: Final = 256

_DTYPES: Final = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


@dataclass(frozen=True, slots=True)
class FourBit:
    """Two codes in a byte, the first in the high bits; blocks run over the rows' numbers one after another.

    table: "nf4" or "fp4". dtype: what values are rounded to ("float16", "bfloat16", "float32"). block: numbers that
    share a scale. double: the scales are 8-bit codes themselves. storage: dtype the bytes of codes are stored as.
    state_nbytes: length of the stored JSON.
    """

    table: str = "nf4"
    dtype: str = "float16"
    block: int = 64
    double: bool = False
    storage: str = "U8"
    state_nbytes: int = STATE_NBYTES

    def __post_init__(self) -> None:
        check_group(self.block, whole_row=False)

    @property
    def label(self) -> str:
        """For example `BNB-NF4-64-F16`, or `BNB-NF4-64-DQ-BF16` with double quantization."""
        kind = "-DQ" if self.double else ""
        stored = "" if self.storage == "U8" else f"-in-{self.storage}"
        return f"BNB-{self.table.upper()}-{self.block}{kind}-{_DTYPES[self.dtype]}{stored}"

    @property
    def values(self) -> Dense:
        """Products are rounded to the dtype the tensor was made from."""
        return DENSE[_DTYPES[self.dtype]]

    @property
    def sliced(self) -> bool:
        """Blocks cross rows."""
        return False

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Codes, scales, their tables, and the JSON."""
        count = prod(shape)
        scales = _blocks(count, self.block)
        width = DTYPES[self.storage].bits // 8
        parts = {
            "data": PartSpec(DTYPES[self.storage], (_blocks(_blocks(count, 2), width), 1)),
            "absmax": PartSpec(DTYPES["U8" if self.double else "F32"], (scales,)),
            "quant_map": PartSpec(DTYPES["F32"], (16,)),
        }
        if self.double:
            parts["nested_absmax"] = PartSpec(DTYPES["F32"], (_blocks(scales, NESTED),))
            parts["nested_quant_map"] = PartSpec(DTYPES["F32"], (256,))
        parts["quant_state"] = PartSpec(DTYPES["U8"], (self.state_nbytes,))
        return parts

    def granule(self, shape: Shape) -> int:
        """Rows that fill whole blocks; all rows where the scales are quantized together."""
        *rows, columns = shape or (1,)
        if self.double:
            return max(1, prod(rows))
        together = 1
        while columns * together % self.block and together < prod(rows):
            together *= 2
        return together

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As in a state dict of `Linear4bit`."""
        names = {part: f"{tensor}.{part}" for part in ("absmax", "quant_map", "nested_absmax", "nested_quant_map")}
        return {"data": tensor, **names, "quant_state": f"{tensor}.quant_state.bitsandbytes__{self.table}"}


@dataclass(frozen=True, slots=True)
class RowInt8:
    """LLM.int8: each row's largest size becomes 127.

    marked: whether a `weight_format` is stored (0: plain rows, the only one that is read).
    """

    marked: bool = True

    @property
    def label(self) -> str:
        """`BNB-INT8`."""
        return "BNB-INT8" if self.marked else "BNB-INT8-unmarked"

    @property
    def sliced(self) -> bool:
        """The mark is no row."""
        return not self.marked

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Codes, row scales, and the mark."""
        parts = {"data": PartSpec(DTYPES["I8"], shape), "SCB": PartSpec(DTYPES["F32"], shape[:-1])}
        if self.marked:
            parts["weight_format"] = PartSpec(DTYPES["U8"], ())
        return parts

    def granule(self, shape: Shape) -> int:
        """Any row on its own."""
        return 1

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As in a state dict of `Linear8bitLt`."""
        module = tensor.removesuffix(".weight")
        return {"data": tensor, "SCB": f"{module}.SCB", "weight_format": f"{module}.weight_format"}
