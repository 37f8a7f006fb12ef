"""How one number is stored: the dtypes of safetensors, by the names that format gives them.

Source: the `Dtype` enumeration of the safetensors library (0.8); ggml's dense types are a subset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DType:
    """One storage type.

    `numpy` is the numpy dtype its bytes are viewed in: the type itself where numpy has it, else
    unsigned integers of the same width (BF16 as `<u2`, 8-bit floats as `u1`). Types below eight bits
    are viewed as plain bytes.
    """

    label: str
    bits: int
    numpy: str

    @property
    def native(self) -> str | None:
        """numpy's own name of the type; None where it has no such numbers.

        >>> DTYPES["F16"].native, DTYPES["BOOL"].native, DTYPES["BF16"].native
        ('<f2', '?', None)
        """
        if self.label == "BOOL":
            return "?"
        return self.numpy if self.numpy[-2] == self.label[0].lower() and self.bits >= 8 else None

    @property
    def is_float(self) -> bool:
        """Whether the stored numbers are floating point."""
        return self.label[0] in "FB" and self.label != "BOOL"


def _table() -> Mapping[str, DType]:
    rows = [
        ("BOOL", 8, "u1"),
        ("F4", 4, "u1"),
        ("F6_E2M3", 6, "u1"),
        ("F6_E3M2", 6, "u1"),
        ("U8", 8, "u1"),
        ("I8", 8, "i1"),
        ("F8_E5M2", 8, "u1"),
        ("F8_E4M3", 8, "u1"),
        ("F8_E8M0", 8, "u1"),
        ("F8_E4M3FNUZ", 8, "u1"),
        ("F8_E5M2FNUZ", 8, "u1"),
        ("I16", 16, "<i2"),
        ("U16", 16, "<u2"),
        ("F16", 16, "<f2"),
        ("BF16", 16, "<u2"),
        ("I32", 32, "<i4"),
        ("U32", 32, "<u4"),
        ("F32", 32, "<f4"),
        ("C64", 64, "<c8"),
        ("F64", 64, "<f8"),
        ("I64", 64, "<i8"),
        ("U64", 64, "<u8"),
    ]
    return {label: DType(label, bits, numpy) for label, bits, numpy in rows}


#: Every dtype, in the order in which the reference writer ranks them (narrow first).
DTYPES: Final[Mapping[str, DType]] = _table()
