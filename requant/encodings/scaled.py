"""Small floats and integers under a grid of scales: FP8, FP6, FP4 and int8 as five kinds of checkpoints store them.

value = (element - zero) * scale, times or divided by one more scale of the whole tensor. Sources: compressed-tensors
0.20, transformers 5.23 (`fp8`, `fbgemm_fp8`, `mxfp4`), NVIDIA ModelOpt 0.47, MLX; OCP Microscaling Formats 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from requant.dtypes import DTYPES
from requant.encodings import DENSE, F32, Dense, PartSpec, Shape
from requant.encodings.exactness import Integers
from requant.encodings.small_floats import SmallFloats
from requant.errors import PlanError

#: Bits of an element.
ELEMENT_BITS: Final = {
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8"), 8),
    "F6_E2M3": 6,
    **dict.fromkeys(("F4", "Q4"), 4),
}
_ELEMENT_NAMES: Final = {
    "F8_E4M3": "FP8",
    "F8_E5M2": "FP8-E5M2",
    "F8_E4M3FNUZ": "FP8-FNUZ",
    "F8_E5M2FNUZ": "FP8-E5M2FNUZ",
    "I8": "INT8",
    "F6_E2M3": "FP6",
    "F4": "FP4",
    "Q4": "MXINT4",
}

#: Kind of checkpoint -> how its arrays are called; {m} is the tensor's name without ".weight", {t} the name itself. A
#: stack of experts is a parameter, whose name has no ".weight" to begin with: `gate_up_proj`, `gate_up_proj_scale`, …
_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "ct": {"data": "{m}.weight", "scales": "{m}.weight_scale", "zeros": "{m}.weight_zero_point"},
    "packed": {"data": "{m}.weight_packed", "scales": "{m}.weight_scale", "whole": "{m}.weight_global_scale"},
    "inv": {"data": "{m}.weight", "scales": "{m}.weight_scale_inv"},
    "modelopt": {"data": "{m}.weight", "scales": "{m}.weight_scale", "whole": "{m}.weight_scale_2"},
    "scale-weight": {"data": "{m}.weight", "scales": "{m}.scale_weight"},
    "scale": {"data": "{m}.weight", "scales": "{m}.scale"},
    "qscale": {"data": "{m}.weight", "scales": "{m}.qscale_weight"},
    "stack": {"data": "{t}", "scales": "{t}_scale"},
    "stack-inv": {"data": "{t}", "scales": "{t}_scale_inv"},
    "torchao": {"data": "{m}._weight_qdata", "scales": "{m}._weight_scale", "zeros": "{m}._weight_zero_point"},
    "gpt-oss": {"data": "{m}_blocks", "scales": "{m}_scales"},
    "gpt-oss-original": {"data": "{m}.blocks", "scales": "{m}.scales"},
    "mlx": {"data": "{m}.weight", "scales": "{m}.scales", "whole": "{m}.global_scale"},
}
#: What stacks have instead, where that is no "{t}" for "{m}.weight".
_STACK_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "modelopt": {"data": "{t}", "scales": "{t}_weight_scale", "whole": "{t}_weight_scale_2"},
}
#: Kinds in whose libraries products are rounded to the dtype of the scales.
_ROUNDING_KINDS: Final = ("ct", "packed", "torchao")
#: Kinds whose rows of codes are cut into blocks by one more dimension.
_BLOCKED_KINDS: Final = ("gpt-oss", "gpt-oss-original")

#: 6 * 448: the largest E2M1 times the largest E4M3.
LARGEST_PRODUCT: Final = 2688.0

#: Names of what only something that runs the quantized model needs: scales of activations and of the cache, and scales
#: of weights that are stored as plain numbers beside them ("frozen" in compressed-tensors).
BESIDE: Final = re.compile(
    r"(?:.*\.)?(?:(?:(?:\w+_proj_)?(?:input|output|act|activation|[qkv]|kv|prob|attn_output)_"
    r"(?:scale|scale_2|scale_inv|global_scale|zero_point|scale_ub))"
    r"|scale_(?:input|output)|qscale_act|[kv]_proj\.[kv]_bias|scaled_fp8"
    r"|(?:weight|experts\.\w+_proj)_(?:scale|zero_point|g_idx|global_scale))"
)


@dataclass(frozen=True, slots=True)
class Scaled:
    """One way to store a matrix, or a stack of matrices.

    kind: whose names (a key of the table above). element: dtype of an element; Q4 is a sign and quarters (MXINT4).
    rows, columns: how many of each share a scale; 0 for all of a matrix. scale: dtype of the scales; U8 holds the
    exponents of powers of two, as F8_E8M0 does. form: of the array of scales: "grid" ([rows of blocks, blocks of a
    row]), "spread" (a grid [rows, 1, columns, 1]), "rows" (one dimension less), "one" ([1], for everything) or "scalar"
    ([]). zero: dtype of zero points, "" for none. whole: "divides" or "multiplies" where there is an F32 scale of the
    whole tensor, or "largest" where there is what the largest code under the largest scale stands for
    (`LARGEST_PRODUCT`); whole_form: "one" or "scalar", or of a stack "matrices" (one for each) or "halves" (two for
    each: those of gate and up in one matrix). storage: dtype of the stored codes where it is not the element's.
    chosen_in: dtype in which MLX computes scales and codes when it quantizes: that of the weights.
    """

    kind: str
    element: str
    rows: int = 1
    columns: int = 0
    scale: str = "F32"
    form: str = "grid"
    zero: str = ""
    whole: str = ""
    whole_form: str = "one"
    storage: str = ""
    chosen_in: str = "F32"

    @property
    def label(self) -> str:
        """Element, what shares a scale, dtype of the scales, kind of checkpoint.

        >>> Scaled("inv", "F8_E4M3", 128, 128).label
        'FP8-128x128-F32-inv'
        """
        marks = [_ELEMENT_NAMES[self.element], self._grain(), self.scale, self.kind]
        marks += [f"zero-{self.zero}"] if self.zero else []
        marks += [self.whole, self.whole_form] if self.whole else []
        marks += [self.form] if self.form in ("rows", "scalar", "spread") else []
        marks += [f"in-{self.storage}"] if self.storage else []
        return "-".join(marks)

    @property
    def sliced(self) -> bool:
        """Whether every row has scales of its own and nothing is shared by all."""
        return self.rows == 1 and self.form in ("grid", "spread", "rows") and not self.whole

    @property
    def values(self) -> Dense:
        """What holds every value: the dtype of the scales where products are rounded to it."""
        if self.kind in _ROUNDING_KINDS and self.scale in ("F16", "BF16") and not self.whole:
            return DENSE[self.scale]
        if self.powers_of_two and self.element in ("F4", "F6_E2M3", "Q4"):
            return DENSE["BF16"]
        return F32

    @property
    def powers_of_two(self) -> bool:
        """Whether scales are stored as exponents."""
        return self.scale == "F8_E8M0" or (self.scale == "U8" and self.element != "I8" and not self.e4m3_bytes)

    @property
    def e4m3_bytes(self) -> bool:
        """Whether scales are 8-bit floats: MLX stores those of groups of 16 as plain bytes."""
        return self.scale == "F8_E4M3" or (self.kind == "mlx" and self.scale == "U8" and self.columns == 16)

    @property
    def shared(self) -> bool:
        """Whether a scale belongs to the whole tensor."""
        return bool(self.whole) or self.form in ("one", "scalar")

    @property
    def integers(self) -> Integers | None:
        """What int8 codes are, if they are and rows have scales of their own."""
        if self.element != "I8" or self.rows != 1 or self.form not in ("grid", "rows"):
            return None
        return Integers(8, not self.zero, self.columns or -1, self.scale)

    @property
    def small_floats(self) -> SmallFloats | None:
        """What 4-bit floats are under scales of 8 bits, and perhaps one of the whole tensor."""
        if self.element != "F4" or self.rows != 1 or self.columns not in (16, 32) or self.form != "grid":
            return None
        if not (self.powers_of_two or self.e4m3_bytes) or self.whole_form in ("matrices", "halves"):
            return None
        return SmallFloats(self.columns, "F8_E8M0" if self.powers_of_two else "F8_E4M3", self.whole)

    def parts(self, shape: Shape) -> Mapping[str, PartSpec]:
        """The arrays of weights [out, in] or [stack, out, in].

        >>> {name: part.shape for name, part in Scaled("inv", "F8_E4M3", 128, 128).parts((200, 300)).items()}
        {'data': (200, 300), 'scales': (2, 3)}
        """
        if len(shape) < 2:
            raise PlanError(f"{self.label} stores matrices, not a tensor of shape {list(shape)}")
        scales = {"one": (1,), "scalar": (), "rows": shape[:-1], **self._grids(shape)}[self.form]
        parts = {"data": PartSpec(DTYPES[self.stored], self._data_shape(shape))}
        parts["scales"] = PartSpec(DTYPES[self.scale], scales)
        if self.zero:
            parts["zeros"] = PartSpec(DTYPES[self.zero], scales)
        if self.whole:
            stack = shape[:-2]
            if self.whole_form == "halves" and shape[-2] % 2:
                raise PlanError(f"{self.label}: {shape[-2]} rows are no two halves")
            wholes = {"one": (1,), "scalar": (), "matrices": stack, "halves": (*stack, 2)}[self.whole_form]
            parts["whole"] = PartSpec(DTYPES["F32"], wholes)
        return parts

    def granule(self, shape: Shape) -> int:
        """Rows of a block; all rows of a matrix where blocks do not divide those of a stack."""
        rows = shape[-2]
        if self.form in ("one", "scalar") or self.rows == 1:
            return 1
        if self.rows == 0 or (len(shape) > 2 and rows % self.rows):
            return max(1, rows)
        return self.rows

    def grid(self, shape: Shape) -> Shape:
        """Shape of the grid of scales: one row for each row of blocks, blocks at the edges may be cut."""
        *stack, rows, columns = shape
        return (*stack, _count(rows, self.rows), _count(columns, self.columns))

    def _grids(self, shape: Shape) -> Mapping[str, Shape]:
        *stack, down, across = self.grid(shape)
        return {"grid": (*stack, down, across), "spread": (*stack, down, 1, across, 1)}

    @property
    def stored(self) -> str:
        """dtype of the stored codes."""
        return self.storage or (self.element if ELEMENT_BITS[self.element] == 8 else "U8")

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """As the library of the kind names them."""
        names, module = _NAMES[self.kind], tensor.removesuffix(".weight")
        if module == tensor:
            names = {part: name.replace("{m}.weight", "{t}") for part, name in names.items()}
            names = _STACK_NAMES.get(self.kind, names)
        return {part: name.format(m=module, t=tensor) for part, name in names.items()}

    def _grain(self) -> str:
        if self.form in ("one", "scalar"):
            return "tensor"
        if self.rows == 1:
            return f"g{self.columns}" if self.columns else "channel"
        return f"{self.rows or 'all'}x{self.columns or 'all'}"

    def _data_shape(self, shape: Shape) -> Shape:
        *rows, columns = shape
        if self.rows == 1 and self.columns and columns % self.columns:
            raise PlanError(
                f"{self.label} stores groups of {self.columns}; a row of {columns} does not divide",
                hint="keep this tensor dense, or choose a type with a scale for each row",
            )
        width, rest = divmod(columns * ELEMENT_BITS[self.element], DTYPES[self.stored].bits)
        if rest:
            raise PlanError(f"{self.label}: a row of {columns} does not fill whole {self.stored}")
        if self.kind in _BLOCKED_KINDS:
            return (*rows, columns // self.columns, width * self.columns // columns)
        return (*rows, width)


def _count(size: int, together: int) -> int:
    return -(-size // together) if together else min(size, 1)


#: The kinds that schemes write.
FP8_BLOCK: Final = Scaled("inv", "F8_E4M3", 128, 128)
NVFP4: Final = Scaled("packed", "F4", 1, 16, "F8_E4M3", whole="divides")
MXFP4: Final = Scaled("packed", "F4", 1, 32, "U8")
GPT_OSS: Final = Scaled("gpt-oss", "F4", 1, 32, "U8")
#: Modes of MLX beside its integers.
MLX_FLOATS: Final[Mapping[str, Scaled]] = {
    "mxfp4": Scaled("mlx", "F4", 1, 32, "U8", storage="U32"),
    "nvfp4": Scaled("mlx", "F4", 1, 16, "U8", storage="U32"),
    "mxfp8": Scaled("mlx", "F8_E4M3", 1, 32, "U8", storage="U32"),
}
