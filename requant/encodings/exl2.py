"""EXL2: groups of input rows, each with its own width, in an order of their own.

Source: exllamav2 0.3.2 (`conversion/adaptivegptq.py`, `qparams.py`, `ext_qmatrix`); its outputs are in the fixtures.
Shapes are those of files: rows are inputs, columns are outputs, padded to a multiple of 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from requant.dtypes import DTYPES
from requant.encodings import F16, Dense, PartSpec, Shape
from requant.errors import PlanError

#: Widths that exist; groups lie in files from the widest to the narrowest.
WIDTHS: Final = (8, 6, 5, 4, 3, 2)
#: Outputs are padded to a multiple of this many.
PADDING: Final = 32
#: `q_groups` holds the first row of each group, in 16 bits.
_MOST_WORDS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Exl2:
    """A linear layer of mixed widths.

    groups: (bits, rows, how many such groups follow each other), from the first stored row on.
    permuted: whether `q_perm` is stored as well; old files have it beside `q_invperm`.
    """

    groups: tuple[tuple[int, int, int], ...]
    permuted: bool = False

    @property
    def label(self) -> str:
        """Every run of groups: `EXL2-8b32x2-4b128x31` is two groups of 32 rows in 8 bits, 31 of 128 in 4 bits."""
        runs = "-".join(f"{bits}b{rows}x{count}" for bits, rows, count in self.groups)
        return f"EXL2-{runs}" + ("-perm" if self.permuted else "")

    @property
    def values(self) -> Dense:
        """Products are rounded to halves."""
        return F16

    @property
    def sliced(self) -> bool:
        """Columns of the stored arrays are rows of the tensor."""
        return False

    @property
    def rows(self) -> int:
        """Inputs of the layer."""
        return sum(rows * count for _, rows, count in self.groups)

    @property
    def count(self) -> int:
        """Number of groups."""
        return sum(count for *_, count in self.groups)

    def weights_by_bits(self, shape: Shape) -> Mapping[int, int]:
        """How many of a tensor's weights have codes of each width."""
        shares: dict[int, int] = {}
        for bits, rows, count in self.groups:
            shares[bits] = shares.get(bits, 0) + prod(shape[:-1]) * rows * count
        return shares

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The arrays of [out, in] weights."""
        if len(shape) != 2 or shape[1] != self.rows:
            raise PlanError(f"{self.label} stores matrices of {self.rows} inputs, not a tensor of shape {list(shape)}")
        outputs, inputs = shape
        padded = -(-outputs // PADDING) * PADDING
        words = sum(rows * bits // 32 * count for bits, rows, count in self.groups)
        if words > _MOST_WORDS:
            raise PlanError(f"EXL2 finds groups by 16-bit numbers; {words} rows of words are too many")
        parts = {
            "q_weight": PartSpec(DTYPES["I32"], (words, padded)),
            "q_scale": PartSpec(DTYPES["I32"], (self.count, padded // 8)),
            "q_scale_max": PartSpec(DTYPES["F16"], (self.count,)),
            "q_groups": PartSpec(DTYPES["I16"], (2 * self.count,)),
            "q_invperm": PartSpec(DTYPES["I32"], (inputs,)),
        }
        if self.permuted:
            parts["q_perm"] = PartSpec(DTYPES["I32"], (inputs,))
        return parts

    def granule(self, shape: Shape) -> int:
        """A group's scales depend on all outputs."""
        return max(1, prod(shape[:-1]))

    def decoding_granule(self, shape: Shape) -> int:
        """Outputs are columns of the stored arrays, which can be decoded apart."""
        return PADDING

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As exllamav2 names them."""
        module = tensor.removesuffix(".weight")
        parts = ("q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm", "q_perm")
        return {part: f"{module}.{part}" for part in parts}


def exl2_groups(groups: list[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    """(bits, rows) of every group as runs.

    >>> exl2_groups([(8, 32), (4, 128), (4, 128)])
    ((8, 32, 1), (4, 128, 2))
    """
    runs: list[tuple[int, int, int]] = []
    for bits, rows in groups:
        if runs and runs[-1][:2] == (bits, rows):
            runs[-1] = (bits, rows, runs[-1][2] + 1)
        else:
            runs.append((bits, rows, 1))
    return tuple(runs)
