"""compressed-tensors' sparse formats: 2:4-sparse tiles of the Marlin kernel, and bitmasks over what is not zero.

Source: compressed-tensors 0.12 (`marlin_24.py`, `sparse_bitmask.py`, `sparse_24_bitmask.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from requant.dtypes import DTYPES
from requant.encodings import Dense, PartSpec, Shape, check_group
from requant.encodings.exactness import Integers, values_of
from requant.encodings.scaled import Scaled
from requant.errors import PlanError


@dataclass(frozen=True, slots=True)
class Marlin24:
    """Of every four inputs two are kept: their integers in tiles, and which they are.

    bits: 4 or 8. group: inputs that share a scale; -1 for all. gptq: under GPTQ's names, else compressed-tensors'.
    """

    bits: int
    group: int
    gptq: bool = False

    def __post_init__(self) -> None:
        check_group(self.group)

    @property
    def label(self) -> str:
        """For example `CT-4b-g128-marlin24`."""
        return f"{'GPTQ' if self.gptq else 'CT'}-{self.bits}b-g{self.group}-marlin24"

    @property
    def sliced(self) -> bool:
        """Tiles mix rows."""
        return False

    @property
    def integers(self) -> Integers:
        """What its codes are, zeros included."""
        return Integers(self.bits, True, self.group)

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The arrays of [out, in] weights."""
        if len(shape) != 2 or shape[0] % 64 or shape[1] % 32 or (self.group > 0 and shape[1] % self.group):
            raise PlanError(f"{self.label} stores tiles of 64 by 32; a tensor of shape {list(shape)} does not divide")
        outputs, inputs = shape
        return {
            "packed": PartSpec(DTYPES["I32"], (inputs // 32, self.bits // 2 * outputs)),
            "scales": PartSpec(DTYPES["F16"], (1 if self.group < 0 else inputs // self.group, outputs)),
            "meta": PartSpec(DTYPES["I16"], (inputs // 32, 2 * outputs)),
        }

    def granule(self, shape: Shape) -> int:
        """A tile."""
        return 64

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As either library names them."""
        module = tensor.removesuffix(".weight")
        names = ("B_24", "s", "B_meta") if self.gptq else ("weight_packed", "scale_packed", "meta")
        return {part: f"{module}.{name}" for part, name in zip(("packed", "scales", "meta"), names, strict=True)}


@dataclass(frozen=True, slots=True)
class Bitmask:
    """What is not zero, row after row, and a bit for each number; `inner` says what the numbers are.

    count: how many are stored. halves: exactly half of every row ("sparse-24"), so no offsets of rows are stored.
    inside: whether the arrays are called `m.weight.compressed`, … or `m.compressed`.
    """

    inner: Dense | Scaled
    count: int
    halves: bool
    inside: bool

    @property
    def label(self) -> str:
        """For example `CT-BITMASK-BF16-1024`."""
        return (
            f"CT-{'24-' if self.halves else ''}BITMASK{'' if self.inside else '-flat'}-{self.inner.label}-{self.count}"
        )

    @property
    def sliced(self) -> bool:
        """Rows are of different lengths."""
        return False

    @property
    def values(self) -> Dense:
        """Those of the numbers that are stored."""
        return values_of(self.inner)

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """Numbers, bits, offsets, shape, and scales."""
        rows, columns = shape
        inner = dict(self.inner.parts(shape))
        data = inner.pop("data")
        parts = {
            "data": PartSpec(data.dtype, (rows, columns // 2) if self.halves else (self.count,)),
            "bitmask": PartSpec(DTYPES["U8"], (rows, -(-columns // 8))),
            "shape": PartSpec(DTYPES["I64"], (2,)),
        }
        if not self.halves:
            parts["row_offsets"] = PartSpec(DTYPES["I64"], (rows,))
        return parts | inner

    def granule(self, shape: Shape) -> int:
        """A whole matrix is written at once: where a row begins, those before it tell."""
        return 1 if self.halves else max(shape[0], 1)

    def decoding_granule(self, shape: Shape) -> int:
        """Any row on its own."""
        return 1

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As compressed-tensors names them."""
        module = tensor.removesuffix(".weight")
        stem = tensor if self.inside else module
        names = {part: f"{stem}.{part}" for part in ("bitmask", "shape", "row_offsets")}
        scales = {} if isinstance(self.inner, Dense) else dict(self.inner.stored_names(tensor))
        return scales | names | {"data": f"{stem}.compressed"}
