"""What is left when every fold has taken its own: parts whose others are missing, codes without scales, side arrays.

A model may be copied without anyone asking what its layers are, so what nothing understands must be found here: an
array beside a quantized weight may turn, scale or correct it, and integers mean nothing without what they were made
with. Nothing of it passes as plain numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from requant.encodings import Dense
from requant.encodings.scaled import BESIDE
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor

#: Ends of the names of arrays that are only a part of a weight; a plain weight of the same module needs none of them.
#: Not `q_scale` of EXL2: a scale of the queries of attention has that name, too.
_PARTS: Final = (
    *(".qweight", ".qzeros", ".g_idx", ".scaled_zeros", ".B_24", ".B_meta"),
    *(".q_weight", ".q_scale_max", ".q_groups", ".q_invperm", ".W_q", ".unpack_view_dtype"),
    *(".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx"),
    *(".weight_global_scale", ".weight_scale_2", ".weight_scale_inv", "_proj_scale_inv"),
    *(".scale_packed", ".compressed", ".bitmask", ".SCB", ".weight_format", ".scale_weight", ".qscale_weight"),
    *(".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map"),
    *(".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"),
)
#: Names that arrays of plain models may have as well.
_COMMON: Final = (".scales", ".biases")
#: Parts of stacks of experts, which are told by their dtype as well.
_STACKED: Final = ("_blocks", "_scales")
#: dtypes of codes; numbers of plain models are floats, indexes I64 or BOOL.
_CODES: Final = ("I8", "U8", "I16", "U16", "I32", "U32", "F4", "F6_E2M3", "F6_E3M2")
_SMALL_FLOATS: Final = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")
#: Integers and masks that models of many kinds keep beside their weights.
_BUFFERS: Final = re.compile(
    r"(?:.*[._])?(?:position_ids|token_type_ids|relative_position_index|num_batches_tracked|token_ids"
    r"|(?:attn|attention|self_attn)\.(?:bias|masked_bias)|causal_mask|attn_mask|attention_mask)"
)
#: The last part of a name that speaks of scales or zeros.
_SCALE: Final = re.compile(r"(?:.*[._])?q?(?:scales?|absmax|zeros?|zero_points?|qparams|amax)(?:[._].*)?|SCB")
#: Names in `BESIDE` that are of weights: beside plain numbers they say nothing, beside codes everything.
_OF_WEIGHT: Final = re.compile(r"(?:.*[._])?(?:weight|proj)_(?:scale|zero_point|g_idx|global_scale)")
#: The last part of the name of what a module may have beside a quantized weight and that is no part of it.
_OWN: Final = ("weight", "bias")


def refuse_remains(pool: Pool, config: Mapping[str, Json]) -> None:
    """Raise `FormatError` where a part is left alone, `UnsupportedError` where an array is not understood."""
    left = [array for name in pool.names() if (array := pool.get(name)) is not None]
    plain = [array for array in left if isinstance(array.encoding, Dense)]
    quantized = bool(config) or len(plain) < len(left)
    for array in plain:
        _refuse_part(pool, array, quantized)
    beside = _beside(plain)
    for array in plain:
        _refuse_codes(pool, array, beside, quantized)
    if len(plain) < len(left):
        _refuse_side_arrays(pool, [array for array in left if array not in plain], plain)


def _refuse_part(pool: Pool, array: Tensor, quantized: bool) -> None:
    endings = (*_PARTS, *_COMMON) if quantized else _PARTS
    if not (array.name.endswith(endings) or _is_part_of_stack(array)):
        return
    module = array.name.removesuffix(next((end for end in endings if array.name.endswith(end)), ""))
    module = module.removesuffix(".weight")
    if not _is_whole(pool.get(f"{module}.weight")) and not _is_whole(pool.get(module)):
        raise FormatError(
            pool.path,
            f"{array.name!r} is a part of a quantized weight whose others are missing",
            hint=pool.missing,
        )


def _refuse_codes(pool: Pool, array: Tensor, beside: Mapping[str, list[str]], quantized: bool) -> None:
    """Integers and small floats with a scale near them, or in a checkpoint that is quantized, are no plain numbers."""
    label = array.encoding.label
    if len(array.shape) < 2 or _BUFFERS.fullmatch(array.name) or BESIDE.fullmatch(array.name):
        return
    around = {*beside[_module(array.name)], *beside.get(array.name, ())} - {array.name}
    near = sorted(name for name in around if _speaks_of_scales(name))
    codes = label in _CODES or label in _SMALL_FLOATS
    if (codes or label == "I64") and near:
        raise UnsupportedError(
            f"{pool.path}: {array.name!r} is {label} beside {near[0]!r}, a way to quantize that is not known here",
            hint="load the model with the library that wrote it, dequantize it, and save it",
        )
    if codes and quantized:
        raise FormatError(pool.path, f"{array.name!r} is {label} and has no scales", hint=pool.missing)


def _refuse_side_arrays(pool: Pool, quantized: list[Tensor], plain: list[Tensor]) -> None:
    """An array beside a quantized weight that nothing knows may turn, scale or correct what the weight means."""
    modules = {array.name.removesuffix(".weight") for array in quantized}
    for array in plain:
        module, _, last = array.name.rpartition(".")
        if module in modules and last not in _OWN and not BESIDE.fullmatch(array.name):
            raise UnsupportedError(
                f"{pool.path}: {array.name!r} lies beside a quantized weight and is not known here: it may change what "
                "the weight means",
                hint="load the model with the library that wrote it, dequantize it, and save it",
            )


def _beside(plain: list[Tensor]) -> Mapping[str, list[str]]:
    """The names of the arrays of each module, and of what hangs on its weight."""
    found: dict[str, list[str]] = {}
    for array in plain:
        found.setdefault(_module(array.name), []).append(array.name)
    return found


def _module(name: str) -> str:
    """What an array belongs to: all that is quantized together begins so."""
    module, _, last = name.rpartition(".")
    return module.removesuffix(".weight") if module else last


def _speaks_of_scales(name: str) -> bool:
    if BESIDE.fullmatch(name) and not _OF_WEIGHT.fullmatch(name):
        return False  # of activations
    return bool(_SCALE.fullmatch(name.rpartition(".")[2]))


def _is_part_of_stack(array: Tensor) -> bool:
    return array.name.endswith(_STACKED) and array.encoding.label == "U8" and len(array.shape) > 2


def _is_whole(weight: Tensor | None) -> bool:
    """Whether this is a weight that needs nothing beside it."""
    return weight is not None and not (len(weight.shape) > 1 and weight.encoding.label in _CODES)
