"""AWQ: 4-bit integers with a scale and a zero for each group of inputs, in the layouts of four kernels.

Source: AutoAWQ 0.2.9 (`WQLinear_GEMM`, `_GEMV`, `_GEMVFast`, `_Marlin`), whose outputs are in the fixtures; llm-awq
for the name `scaled_zeros`. Marlin is also a layout of AutoGPTQ, under other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from requant.dtypes import DTYPES
from requant.encodings import DENSE, F16, Dense, PartSpec, Shape, check_group
from requant.encodings.exactness import Integers, Offsets
from requant.errors import PlanError


class Kind(Enum):
    """Whose layout it is; the value is what `version` in the configuration says."""

    GEMM = "gemm"  # qweight [in, out / 8]
    GEMV = "gemv"  # qweight [out, in / 8], rows of groups padded
    GEMV_FAST = "gemv_fast"  # qweight I16 [out / 4, in], offsets in F16 instead of zeros
    LLM_AWQ = "llm-awq"  # the same under the names of the original project


@dataclass(frozen=True, slots=True)
class Awq:
    """One way to store a linear layer; group: inputs that share a scale, -1 for all.

    symmetric: every zero is 8. scale: dtype of the scales; GPTQModel writes gemm's in the dtype of the model.
    """

    kind: Kind
    group: int
    symmetric: bool = False
    scale: str = "F16"

    def __post_init__(self) -> None:
        check_group(self.group)

    @property
    def label(self) -> str:
        """The kind unless it is gemm, the group, and whether all zeros are 8.

        >>> Awq(Kind.GEMM, 128).label, Awq(Kind.GEMV, 64, symmetric=True).label
        ('AWQ-4b-g128', 'AWQ-4b-g64-gemv-sym')
        """
        kind = [] if self.kind is Kind.GEMM else [self.kind.value.replace("-", "_")]
        marks = [*(["sym"] if self.symmetric else []), *([] if self.scale == "F16" else [self.scale])]
        return "-".join([f"AWQ-4b-g{self.group}", *kind, *marks])

    @property
    def sliced(self) -> bool:
        """Only gemv keeps the outputs as rows."""
        return self.kind is Kind.GEMV

    @property
    def integers(self) -> Integers | Offsets:
        """What its codes are; gemv_fast has offsets instead of zeros."""
        return Offsets(4, self.group) if self.has_offsets else Integers(4, self.symmetric, self.group, self.scale)

    @property
    def values(self) -> Dense:
        """Values are rounded to the dtype of the scales, as AutoAWQ, GPTQModel and the kernels of llm-awq do."""
        return DENSE[self.scale]

    @property
    def has_offsets(self) -> bool:
        """Whether -zero * scale is stored, rounded to F16, instead of the zero."""
        return self.kind in (Kind.GEMV_FAST, Kind.LLM_AWQ)

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The arrays of [out, in] weights; raises `PlanError` where they do not fill words.

        >>> {name: part.shape for name, part in Awq(Kind.GEMM, 128).parts((4096, 11008)).items()}
        {'qweight': (11008, 512), 'qzeros': (86, 512), 'scales': (86, 4096)}
        """
        if len(shape) != 2:
            raise PlanError(f"{self.label} stores matrices, not a tensor of shape {list(shape)}")
        outputs, inputs = shape
        self._check(outputs, inputs)
        groups = self.groups(inputs)
        i32, f16 = DTYPES["I32"], DTYPES["F16"]
        if self.kind is Kind.GEMM:
            return {
                "qweight": PartSpec(i32, (inputs, outputs // 8)),
                "qzeros": PartSpec(i32, (groups, outputs // 8)),
                "scales": PartSpec(DTYPES[self.scale], (groups, outputs)),
            }
        words = self.zero_words(inputs)
        if self.kind is Kind.GEMV:
            return {
                "qweight": PartSpec(i32, (outputs, inputs // 8)),
                "qzeros": PartSpec(i32, (outputs, words)),
                "scales": PartSpec(f16, (outputs, 8 * words)),
            }
        return {
            "qweight": PartSpec(DTYPES["I16"], (outputs // 4, inputs)),
            "scales": PartSpec(f16, (8 * words, outputs)),
            "qzeros": PartSpec(f16, (8 * words, outputs)),
        }

    def granule(self, shape: Shape) -> int:
        """Outputs that share words."""
        return {Kind.GEMM: 8, Kind.GEMV: 1}.get(self.kind, 4)

    def groups(self, inputs: int) -> int:
        """Number of groups."""
        return 1 if self.group < 0 else inputs // self.group

    def zero_words(self, inputs: int) -> int:
        """Words of eight zeros in a row of gemv, padded as its kernel wants them."""
        group = inputs if self.group < 0 else self.group
        multiple = 1 if group >= 128 else 2 if group == 64 else 4
        words = -(-self.groups(inputs) // 8)
        return -(-words // multiple) * multiple

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """`m.weight` is stored as `m.qweight`, `m.qzeros`, `m.scales`."""
        module = tensor.removesuffix(".weight")
        zeros = "scaled_zeros" if self.kind is Kind.LLM_AWQ else "qzeros"
        return {"qweight": f"{module}.qweight", "qzeros": f"{module}.{zeros}", "scales": f"{module}.scales"}

    def _check(self, outputs: int, inputs: int) -> None:
        if self.group > 0 and inputs % self.group:
            raise PlanError(f"{self.label}: rows of {inputs} are no multiple of {self.group}")
        across, along = {Kind.GEMM: (8, 1), Kind.GEMV: (1, 8)}.get(self.kind, (4, 64))
        if outputs % across or inputs % along:
            raise PlanError(
                f"{self.label} packs {across} outputs by {along} inputs; "
                f"a matrix of {outputs} by {inputs} does not divide",
                hint="keep this tensor dense",
            )


@dataclass(frozen=True, slots=True)
class Marlin:
    """The tiles of the Marlin kernel, symmetric 4-bit integers; `awq`: under AutoAWQ's names, else AutoGPTQ's."""

    group: int
    awq: bool = False

    def __post_init__(self) -> None:
        check_group(self.group)

    @property
    def label(self) -> str:
        """Whose names, and the group."""
        return f"{'AWQ' if self.awq else 'GPTQ'}-4b-g{self.group}-marlin"

    @property
    def sliced(self) -> bool:
        """Tiles mix rows."""
        return False

    @property
    def integers(self) -> Integers:
        """What its codes are."""
        return Integers(4, True, self.group)

    @property
    def values(self) -> Dense:
        """Products are rounded to F16."""
        return F16

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The arrays of [out, in] weights; raises `PlanError` where they do not fill tiles of 16 by 64.

        >>> {name: part.shape for name, part in Marlin(128).parts((4096, 1024)).items()}
        {'qweight': (64, 8192), 'scales': (8, 4096)}
        """
        if len(shape) != 2 or shape[0] % 64 or shape[1] % 16 or (self.group > 0 and shape[1] % self.group):
            raise PlanError(f"{self.label} stores tiles of 64 by 16; a tensor of shape {list(shape)} does not divide")
        outputs, inputs = shape
        return {
            "qweight": PartSpec(DTYPES["I32"], (inputs // 16, 2 * outputs)),
            "scales": PartSpec(DTYPES["F16"], (1 if self.group < 0 else inputs // self.group, outputs)),
        }

    def granule(self, shape: Shape) -> int:
        """A tile."""
        return 64

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """AutoAWQ: `m.qweight`, `m.scales`; AutoGPTQ: `m.B`, `m.s`."""
        module = tensor.removesuffix(".weight")
        weight, scales = ("qweight", "scales") if self.awq else ("B", "s")
        return {"qweight": f"{module}.{weight}", "scales": f"{module}.{scales}"}
