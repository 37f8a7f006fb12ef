"""What is left when every fold has taken its own: parts whose others are missing, and codes without scales.

A model may be copied without anyone asking what its layers are, so what misses a part must be found here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.encodings import Dense
from requant.errors import FormatError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor

#: Ends of the names of arrays that are only a part of a weight; a plain weight of the same module needs none of them.
#: Not `q_scale` of EXL2: a scale of the queries of attention has that name, too.
_PARTS: Final = (
    *(".qweight", ".qzeros", ".g_idx", ".scaled_zeros", ".B_24", ".B_meta"),
    *(".q_weight", ".q_scale_max", ".q_groups", ".q_invperm", ".W_q", ".unpack_view_dtype"),
    *(".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx"),
    *(".weight_global_scale", ".weight_scale_2", ".weight_scale_inv", "_proj_scale_inv"),
    *(".scale_packed", ".compressed", ".bitmask", ".SCB", ".weight_format"),
    *(".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map"),
    *(".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"),
)
#: Names that arrays of plain models may have as well.
_COMMON: Final = (".scales", ".biases")
#: Parts of stacks of experts, which are told by their dtype as well.
_STACKED: Final = ("_blocks", "_scales")
#: Names of matrices that nobody stores as integers.
_WEIGHTS: Final = (".weight", ".B")
_HINT: Final = "is a shard missing?"
_INTEGERS: Final = ("I8", "U8", "I16", "U16", "I32", "U32")


def refuse_remains(pool: Pool, config: Mapping[str, Json]) -> None:
    """Raise `FormatError` where a part is left alone."""
    quantized = bool(config) or any(not _is_plain(pool.get(name)) for name in pool.names())
    endings = (*_PARTS, *_COMMON) if quantized else _PARTS
    for name in pool.names():
        array = pool.get(name)
        if array is None or not (name.endswith(endings) or _is_part_of_stack(array)):
            continue
        module = name.removesuffix(next((end for end in endings if name.endswith(end)), "")).removesuffix(".weight")
        if not _is_whole(pool.get(f"{module}.weight")) and not _is_whole(pool.get(module)):
            raise FormatError(
                pool.path, f"{name!r} is a part of a quantized weight whose others are missing", hint=_HINT
            )
    for name in pool.names():
        array = pool.get(name)
        if quantized and array is not None and name.endswith(_WEIGHTS) and _is_integers(array):
            raise FormatError(pool.path, f"{name!r} is {array.encoding.label} and has no scales", hint=_HINT)


def _is_part_of_stack(array: Tensor) -> bool:
    return array.name.endswith(_STACKED) and array.encoding.label == "U8" and len(array.shape) > 2


def _is_whole(weight: Tensor | None) -> bool:
    """Whether this is a weight that needs nothing beside it."""
    return weight is not None and not _is_integers(weight)


def _is_plain(tensor: Tensor | None) -> bool:
    return tensor is not None and isinstance(tensor.encoding, Dense)


def _is_integers(tensor: Tensor) -> bool:
    return len(tensor.shape) > 1 and tensor.encoding.label in _INTEGERS
