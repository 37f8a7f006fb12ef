"""How the numbers of one tensor are stored: pure descriptions, no arithmetic.

An encoding knows which arrays (*parts*) hold a tensor of a given logical shape, so every size is known
without encoding anything. Encodings are frozen values: they compare and hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Final, Protocol, runtime_checkable

from requant.dtypes import DTYPES, DType
from requant.errors import PlanError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PartSpec:
    """One stored array of a tensor."""

    dtype: DType
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Bytes this part takes on disk; sub-byte dtypes must fill whole bytes."""
        bits = prod(self.shape) * self.dtype.bits
        if bits % 8:
            raise PlanError(
                f"{self.dtype.label}{list(self.shape)} takes {bits} bits, which is no whole number of bytes"
            )
        return bits // 8


class Encoding(Protocol):
    """What every encoding can tell; `Dense` and `Blocks` here, the families of other formats beside them.

    `sliced`: a run of rows of the tensor is the same run of rows of every part, so that runs can be read,
    converted and written on their own. Otherwise the parts of a tensor are held whole while it is converted.
    """

    @property
    def label(self) -> str:
        """The name that users read in plans and reports."""
        ...

    @property
    def sliced(self) -> bool:
        """Whether rows can be handled apart (see the class)."""
        ...

    def __hash__(self) -> int:
        """Encodings are values: equal ones are one key."""
        ...

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The stored arrays of a tensor of `shape`; raises `PlanError` when it cannot be stored so."""
        ...

    def granule(self, shape: Shape) -> int:
        """Rows are encoded and decoded in multiples of this many (the last run may be short)."""
        ...


@runtime_checkable
class DecodesApart(Protocol):
    """An encoding that takes more rows at once to encode than to decode."""

    def decoding_granule(self, shape: Shape) -> int:
        """Rows are decoded in multiples of this many."""
        ...


@lru_cache(4096)  # every run asks, and whether an encoding has a method takes long to find out
def decoding_granule(encoding: Encoding, shape: Shape) -> int:
    """Rows are decoded in multiples of this many."""
    return encoding.decoding_granule(shape) if isinstance(encoding, DecodesApart) else encoding.granule(shape)


@dataclass(frozen=True, slots=True)
class Dense:
    """One number after another."""

    dtype: DType

    def __hash__(self) -> int:
        """By name alone: plans look up encodings thousands of times."""
        return hash(self.dtype.label)

    @property
    def label(self) -> str:
        """The dtype's name."""
        return self.dtype.label

    @property
    def sliced(self) -> bool:
        """Rows are contiguous, if they are whole bytes."""
        return self.dtype.bits % 8 == 0

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The single part, in the tensor's own shape."""
        return {"data": PartSpec(self.dtype, shape)}

    def granule(self, shape: Shape) -> int:
        """Any row on its own."""
        return 1


@dataclass(frozen=True, slots=True)
class Blocks:
    """A ggml block type: `values` numbers of one row in `nbytes` bytes.

    `needs_importance`: ggml refuses to encode it without an importance matrix.
    """

    label: str
    ggml_id: int
    values: int
    nbytes: int
    needs_importance: bool = False

    def __hash__(self) -> int:
        """By name alone: plans look up encodings thousands of times."""
        return hash(self.label)

    @property
    def sliced(self) -> bool:
        """Blocks never cross rows."""
        return True

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of one number, scales included."""
        return 8 * self.nbytes / self.values

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The single part: rows of blocks as bytes.

        >>> BLOCKS["Q8_0"].parts((4, 64))["data"].shape
        (4, 2, 34)
        """
        *rows, columns = shape or (1,)
        if columns % self.values:
            raise PlanError(
                f"{self.label} stores blocks of {self.values} values; a row of {columns} does not divide",
                hint="keep this tensor dense, or choose a type with smaller blocks",
            )
        return {"data": PartSpec(DTYPES["U8"], (*rows, columns // self.values, self.nbytes))}

    def granule(self, shape: Shape) -> int:
        """Any row on its own."""
        return 1


#: The dense encodings, one per dtype.
DENSE: Final[Mapping[str, Dense]] = {label: Dense(dtype) for label, dtype in DTYPES.items()}

#: The block types of ggml (ggml/include/ggml.h, ggml/src/ggml-common.h), by name.
BLOCKS: Final[Mapping[str, Blocks]] = {
    block.label: block
    for block in (
        Blocks("Q4_0", 2, 32, 18),
        Blocks("Q4_1", 3, 32, 20),
        Blocks("Q5_0", 6, 32, 22),
        Blocks("Q5_1", 7, 32, 24),
        Blocks("Q8_0", 8, 32, 34),
        Blocks("Q2_K", 10, 256, 84),
        Blocks("Q3_K", 11, 256, 110),
        Blocks("Q4_K", 12, 256, 144),
        Blocks("Q5_K", 13, 256, 176),
        Blocks("Q6_K", 14, 256, 210),
        Blocks("IQ2_XXS", 16, 256, 66, needs_importance=True),
        Blocks("IQ2_XS", 17, 256, 74, needs_importance=True),
        Blocks("IQ3_XXS", 18, 256, 98),
        Blocks("IQ1_S", 19, 256, 50, needs_importance=True),
        Blocks("IQ4_NL", 20, 32, 18),
        Blocks("IQ3_S", 21, 256, 110),
        Blocks("IQ2_S", 22, 256, 82),
        Blocks("IQ4_XS", 23, 256, 136),
        Blocks("IQ1_M", 29, 256, 56),
        Blocks("TQ1_0", 34, 256, 54),
        Blocks("TQ2_0", 35, 256, 66),
        Blocks("MXFP4", 39, 32, 17),
        Blocks("NVFP4", 40, 64, 36),
        Blocks("Q1_0", 41, 128, 18),
        Blocks("Q2_0", 42, 64, 18),
    )
}

F32: Final = DENSE["F32"]
F16: Final = DENSE["F16"]
BF16: Final = DENSE["BF16"]


def columns_of(shape: Shape) -> int:
    """Length of one row: the last dimension, 1 for a scalar."""
    return shape[-1] if shape else 1


def rows_of(shape: Shape) -> int:
    """Number of rows of a tensor seen as a matrix."""
    return prod(shape[:-1])


def check_group(size: int, *, whole_row: bool = True) -> None:
    """`PlanError` for groups that hold nothing: what a file's shapes divide to may be 0. -1 is a whole row."""
    if size < 1 and not (whole_row and size == -1):
        raise PlanError(f"weights cannot share a scale in groups of {size}")
