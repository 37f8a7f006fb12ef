"""GPTQ: integers packed down the columns of [in, out] matrices, with a scale and a zero for each group of inputs.

Source: AutoGPTQ 0.7.1 and GPTQModel 7.7 (`pack_block`, `convert_gptq_v1_to_v2_format`), whose outputs are in the
fixtures. Shapes are those of files: rows are inputs (or groups of them), columns are outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from requant.dtypes import DTYPES
from requant.encodings import DENSE, Dense, PartSpec, Shape, check_group
from requant.encodings.exactness import Integers
from requant.errors import PlanError

#: Codes that never cross words of 32 bits; the others fill whole words in 32s.
_ALIGNED: Final = (2, 4, 8)
#: Widths whose codes are split into planes of 1, 2 and 4 bits in every file.
PLANAR_BITS: Final = (5, 6, 7)
#: Width -> (width, place in the code) of each bit plane, in the order in which planes lie in 32 codes.
PLANES: Final = {
    2: ((2, 0),),
    3: ((2, 0), (1, 2)),
    4: ((4, 0),),
    5: ((4, 0), (1, 4)),
    6: ((4, 0), (2, 4)),
    7: ((4, 0), (2, 4), (1, 6)),
    8: ((8, 0),),
}
#: What the reader tells of layers where nothing says how zeros are written.
OPEN_ZEROS: Final = "no configuration says how its zeros are written"
#: What GPTQModel before 7.0 took off the words of 3-bit zeros, word by word; the ones of those codes are elsewhere.
OLD_THREE_BITS: Final = (0x24924924, 0x92492492, 0x49249249)


class Zeros(Enum):
    """How the zero points are written."""

    V2 = "v2"  # as they are
    V1 = "v1"  # less one: in 2, 4 and 8 bits the whole words, borrowing from code to code; else code by code, modulo
    V1_OLD = "v1-old"  # 3 bits by GPTQModel before 7.0: words less constants that were out of step with the codes


class Order(Enum):
    """What `g_idx`, the group of each input, says."""

    STORED = "stored"  # input i is in group i // group
    MISSING = "missing"  # the same, without the array
    UNSET = "unset"  # the same, with an array that was never filled in: all zeros
    ACT = "act"  # any order: the inputs were quantized by falling activation


@dataclass(frozen=True, slots=True)
class Gptq:
    """One way to store a linear layer.

    bits: 2 to 8. group: inputs that share a scale; -1 for all. symmetric: every zero is 2**(bits - 1).
    scale: dtype of the scales. planar: codes are split into bit planes ("gptq_p"). index: dtype of the group map.
    """

    bits: int
    group: int
    symmetric: bool = True
    zeros: Zeros = Zeros.V1
    order: Order = Order.STORED
    scale: str = "F16"
    planar: bool = False
    index: str = "I32"

    def __post_init__(self) -> None:
        check_group(self.group)

    @property
    def label(self) -> str:
        """Bits and group, and whatever is not usual.

        >>> Gptq(4, 128).label, Gptq(3, -1, symmetric=False, zeros=Zeros.V2, order=Order.ACT).label
        ('GPTQ-4b-g128', 'GPTQ-3b-g-1-asym-v2-act')
        """
        marks = [f"GPTQ-{self.bits}b-g{self.group}"]
        marks += [] if self.symmetric else ["asym"]
        marks += [] if self.zeros is Zeros.V1 else [self.zeros.value]
        marks += ["planar"] if self.planar and self.bits not in PLANAR_BITS else []
        marks += {Order.STORED: [], Order.MISSING: ["nogidx"], Order.UNSET: ["gidx0"], Order.ACT: ["act"]}[self.order]
        marks += [] if self.scale == "F16" else [self.scale]
        marks += [] if self.index == "I32" else [f"gidx-{self.index}"]
        return "-".join(marks)

    @property
    def sliced(self) -> bool:
        """Columns of the stored arrays are rows of the tensor."""
        return False

    @property
    def integers(self) -> Integers:
        """What its codes are."""
        return Integers(self.bits, self.symmetric, self.group, self.scale, self.order is Order.ACT)

    @property
    def values(self) -> Dense:
        """Products are rounded to the dtype of the scales, as GPTQModel does."""
        return DENSE[self.scale]

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The arrays of [out, in] weights; raises `PlanError` where codes do not fill words.

        >>> {name: part.shape for name, part in Gptq(4, 128).parts((4096, 11008)).items()}
        {'qweight': (1376, 4096), 'qzeros': (86, 512), 'scales': (86, 4096), 'g_idx': (11008,)}
        """
        if len(shape) != 2:
            raise PlanError(f"{self.label} stores matrices, not a tensor of shape {list(shape)}")
        outputs, inputs = shape
        if self.bits not in _ALIGNED and (inputs % 32 or outputs % 32):
            raise PlanError(
                f"{self.label} packs 32 codes at a time; a matrix of {outputs} by {inputs} does not divide",
                hint="keep this tensor dense, or choose 4 or 8 bits",
            )
        groups = self.groups(inputs)
        parts = {
            "qweight": PartSpec(DTYPES["I32"], (self._words(inputs), outputs)),
            "qzeros": PartSpec(DTYPES["I32"], (groups, self._words(outputs))),
            "scales": PartSpec(DTYPES[self.scale], (groups, outputs)),
        }
        if self.order is not Order.MISSING:
            parts["g_idx"] = PartSpec(DTYPES[self.index], (inputs,))
        return parts

    def granule(self, shape: Shape) -> int:
        """The zeros of 32 outputs fill whole words."""
        return 32

    def groups(self, inputs: int) -> int:
        """Number of groups; the last may be short."""
        return 1 if self.group < 0 else -(-inputs // self.group)

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """`m.weight` is stored as `m.qweight`, `m.qzeros`, …"""
        module = tensor.removesuffix(".weight")
        names = ("qweight", "qzeros", "scales", "g_idx")
        return {part: f"{module}.{part}" for part in names if part != "g_idx" or self.order is not Order.MISSING}

    def _words(self, codes: int) -> int:
        return -(-codes * self.bits // 32)
