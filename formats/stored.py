"""Under which names the parts of a tensor are stored.

A dense tensor is one array under its own name. A quantized one is several, whose names its encoding knows:
`model.layers.0.mlp.up_proj.weight` as GPTQ is `model.layers.0.mlp.up_proj.qweight`, `.qzeros`, `.scales`, `.g_idx`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from requant.encodings import Dense, Encoding, PartSpec
from requant.errors import PlanError
from requant.ir import TensorSpec


@runtime_checkable
class NamesParts(Protocol):
    """An encoding that lives in safetensors files as several arrays."""

    def stored_names(self, tensor: str) -> Mapping[str, str]:
        """For each part of the tensor of this name, the name of its array: part name -> stored name."""
        ...


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array of a file: part `part` of tensor `tensor`, stored as `name` in `nbytes` bytes."""

    name: str
    tensor: str
    part: str
    spec: PartSpec
    nbytes: int


def storable(encoding: Encoding) -> bool:
    """Whether a tensor in this encoding has a form in safetensors files."""
    return isinstance(encoding, Dense | NamesParts)


def stored_arrays(tensor: TensorSpec) -> tuple[StoredArray, ...]:
    """The arrays that `tensor` is stored as; `PlanError` when the format cannot hold it."""
    match tensor.encoding:
        case Dense():
            names: Mapping[str, str] = {"data": tensor.name}
        case NamesParts() as encoding:
            names = encoding.stored_names(tensor.name)
        case encoding:
            raise PlanError(
                f"tensor {tensor.name!r}: safetensors has no {encoding.label}",
                hint="choose a dense type such as F16, or a GGUF destination",
            )
    try:
        return tuple(
            [StoredArray(names[part], tensor.name, part, spec, spec.nbytes) for part, spec in tensor.parts.items()]
        )
    except PlanError as error:
        raise PlanError(f"tensor {tensor.name!r}: {error}", hint=error.hint) from None
