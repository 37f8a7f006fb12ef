"""Types that only modules of MLX can have, by the names that users type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from requant.digits import whole
from requant.encodings.mlx import MlxAffine
from requant.encodings.scaled import MLX_FLOATS, Scaled
from requant.errors import PlanError

#: What `mx.quantize` makes; it reads more.
BITS: Final = (2, 3, 4, 5, 6, 8)
GROUPS: Final = (32, 64, 128)
#: Recipes of two widths: the lower and the higher.
MIXED: Final[Mapping[str, tuple[int, int]]] = {
    "MIXED_2_6": (2, 6),
    "MIXED_3_4": (3, 4),
    "MIXED_3_6": (3, 6),
    "MIXED_4_6": (4, 6),
}


def mlx_encoding(text: str) -> MlxAffine | Scaled | None:
    """What `--tensor-type` gives a module: `MLX-6`, `MLX-8-32`, `MLX-MXFP4`; None for names that are not of MLX."""
    name, *parameters = text.upper().split("-")
    return mlx_type(parameters) if name == "MLX" else None


def mlx_type(parameters: Sequence[str]) -> MlxAffine | Scaled:
    """The type that the words behind `MLX` name: bits and group, or a small float. Raises `PlanError`."""
    if len(parameters) == 1 and parameters[0].lower() in MLX_FLOATS:
        return MLX_FLOATS[parameters[0].lower()]
    return affine(parameters, parameters)


def affine(parameters: Sequence[str], said: Sequence[str]) -> MlxAffine:
    """Integers of so many bits, in groups of so many. said: what the user wrote, for the error that is raised."""
    numbers = [whole(text.removesuffix("BIT")) for text in parameters]
    bits, group = (*numbers, *(4, 64)[len(numbers) :])[:2]
    if len(numbers) > 2 or bits not in BITS or group not in GROUPS:
        raise PlanError(
            f"MLX-{'-'.join(said)} is not understood",
            hint=f"MLX-BITS-GROUP, of {', '.join(map(str, BITS))} bits and groups of {', '.join(map(str, GROUPS))}; "
            f"MLX-{', MLX-'.join(MIXED)}; MLX-MXFP4, MLX-NVFP4, MLX-MXFP8",
        )
    assert bits is not None and group is not None
    return MlxAffine(bits, group)
