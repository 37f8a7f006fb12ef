"""Small floats and int8 beside scales: FP8 of every kind, compressed-tensors, ModelOpt, gpt-oss.

The names and dtypes of a module's arrays say which kind it is, the shape of the scales what shares one; only where
blocks are cut at the edges must the configuration (or the usual 128 by 128) say how large they are. Scales of
activations and of the cache stay tensors of their own.

Stacks of experts, parameters without ".weight", have the same arrays: `gate_up_proj_packed` and `gate_up_proj_scale` of
compressed-tensors, `gate_up_proj`, `gate_up_proj_weight_scale` and `gate_up_proj_weight_scale_2` of ModelOpt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.encodings import Shape
from requant.encodings.scaled import Scaled
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.blocks import blocks_of
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec

_FP8: Final = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_ELEMENTS: Final = (*_FP8, "I8")
_SCALES: Final = ("F32", "F16", "BF16", "F8_E8M0", "U8", "F8_E4M3")
#: Arrays without which a module cannot be understood, and what they are.
_REFUSED: Final[Mapping[str, str]] = {
    "svdquant_lora_a": "a low-rank product is added to it (SVDQuant of ModelOpt)",
}
#: Blocks of FP8 where the configuration says nothing.
_BLOCK: Final = (128, 128)
#: Names of scales beside `weight` -> the kind. `scale` alone is also a parameter of norms: the weight's dtype decides.
_BESIDE_WEIGHT: Final = {
    "weight_scale_inv": "inv",
    "scale_weight": "scale-weight",
    "qscale_weight": "qscale",
    "scale": "scale",
}
#: Words of a configuration for 4-bit elements that are a sign and quarters (MXINT4); the same bytes are E2M1 else.
_QUARTERS: Final = ("mx_int", "mx_int4", "mxint4")
#: Rows and columns of blocks that the configuration names.
Blocks = Sequence[tuple[int, int]]


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Fold every module of these kinds."""
    for suffix, reason in _REFUSED.items():
        for module in pool.modules(suffix):
            _refuse(pool, module, suffix, reason)
    block = blocks_of(config)
    for suffix, kind in _BESIDE_WEIGHT.items():
        for module in pool.modules(suffix):
            if suffix != "scale" or _is_scaled_by(pool.get(f"{module}.weight"), pool.need(module, suffix)):
                _fold(pool, module, kind, block)
    for name in pool.ending("_packed"):
        packed = pool.get(name)
        scales = pool.get(f"{name.removesuffix('_packed')}_scale")
        if packed is not None and packed.encoding.label == "U8" and len(packed.shape) > 1 and scales is not None:
            _packed(pool, name.removesuffix("_packed"), packed, config, block)
    for module in pool.modules("weight_scale"):
        if pool.get(f"{module}.weight") is not None:
            _beside_weight(pool, module, block)
    rounding = str(config.get("quant_method")) in ("compressed-tensors", "compressed_tensors", "sparseml")
    stacks = (("_weight_scale", "modelopt"), ("_scale_inv", "stack-inv"), ("_scale", "ct" if rounding else "stack"))
    for suffix, kind in stacks:
        for name in _stacks(pool, suffix):
            _fold_stack(pool, name, kind, suffix, block)
    for ending, kind in (("_blocks", "gpt-oss"), (".blocks", "gpt-oss-original")):
        for name in pool.ending(ending):
            _gpt_oss(pool, name.removesuffix(ending), ending, kind)
    _need_scales(pool, config)


def _is_quarters(config: Mapping[str, Json], tensor: str) -> bool:
    """Whether the config, or what it says of this layer (`extra_config`), names a sign and quarters."""
    extra = config.get("extra_config")
    own = extra.get(tensor.removesuffix(".weight")) if isinstance(extra, dict) else None
    said = own.get("data_type", config.get("data_type")) if isinstance(own, dict) else config.get("data_type")
    return str(said).lower() in _QUARTERS


def _is_scaled_by(weight: Tensor | None, scales: Tensor) -> bool:
    """Whether `weight` is what `scale` is a scale of."""
    return weight is not None and (weight.encoding.label in _ELEMENTS or _is_of_nibbles(weight, scales))


def _is_of_nibbles(weight: Tensor, scales: Tensor) -> bool:
    """Whether they are 4-bit floats, two in a byte, under exponents of 32: DeepSeek V4 stores its experts so."""
    if weight.encoding.label not in ("I8", "U8") or scales.encoding.label not in ("F8_E8M0", "U8"):
        return False
    return len(weight.shape) >= 2 and scales.shape == (*weight.shape[:-1], weight.shape[-1] // 16)


def _need_scales(pool: Pool, config: Mapping[str, Json]) -> None:
    """FP8 without scales is plain numbers; not so where the configuration, or other weights, speak of scales."""
    left = [name for name in pool.ending(".weight") if _is_plain_fp8(pool.get(name))]
    if left and (config or any(_is_scaled_fp8(pool.get(name)) for name in pool.ending(".weight"))):
        raise FormatError(pool.path, f"{left[0]!r} is FP8 and has no scales", hint=pool.missing)


def _is_plain_fp8(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.encoding.label in _FP8 and len(tensor.shape) > 1


def _is_scaled_fp8(tensor: Tensor | None) -> bool:
    return tensor is not None and isinstance(tensor.encoding, Scaled) and tensor.encoding.element in _FP8


def _refuse(pool: Pool, module: str, suffix: str, reason: str) -> None:
    raise UnsupportedError(
        f"{pool.path}: {module}.weight has {suffix!r}: {reason}",
        hint="export the model without it, or dequantize it with ModelOpt",
    )


def _beside_weight(pool: Pool, module: str, block: Blocks) -> None:
    """`weight` and `weight_scale`: the dtype of the weight decides."""
    weight, scales = pool.need(module, "weight"), pool.need(module, "weight_scale")
    if weight.encoding.label == "I16":
        raise UnsupportedError(
            f"{pool.path}: {weight.name!r} is I16: integers of more than 8 bits are not read",
            hint="dequantize the model with the library that made it, or convert the original model",
        )
    if weight.encoding.label in _ELEMENTS:
        _fold(pool, module, "ct", block)
    elif weight.encoding.label == "U8" and len(weight.shape) >= 2 and scales.shape[:-1] == weight.shape[:-1]:
        _modelopt_floats(pool, module, weight, scales)


def _modelopt_floats(pool: Pool, module: str, weight: Tensor, scales: Tensor) -> None:
    """FP4 as ModelOpt stores it: NVFP4 with two levels of scales, MXFP4 with exponents. module: or a stack."""
    shape = (*weight.shape[:-1], 2 * weight.shape[-1])
    whole = pool.get(f"{scales.name}_2")
    group = _group(pool, module, shape[-1], scales.shape[-1])
    if scales.encoding.label == "F8_E4M3" and whole is None:
        raise FormatError(pool.path, f"{module!r} has no '{scales.name}_2'", hint=pool.missing)
    encoding = Scaled("modelopt", "F4", 1, group, scales.encoding.label)
    if whole is not None:
        encoding = replace(encoding, whole="multiplies", whole_form=_whole_form(pool, whole, shape))
    pool.assemble(TensorSpec(weight.name, shape, encoding))


def _whole_form(pool: Pool, whole: Tensor, shape: Shape) -> str:
    """Whether one more scale is for the whole tensor, for each matrix of a stack, or for two halves of each."""
    if whole.shape in ((), (1,)):
        return "one" if whole.shape else "scalar"
    stack = shape[:-2]
    sizes = [size for size in whole.shape if size != 1]
    for form, wanted in (("matrices", stack), ("halves", (*stack, 2))):
        if stack and sizes == [size for size in wanted if size != 1]:
            return form
    raise FormatError(
        pool.path, f"{whole.name!r} is {_said(whole)}, which is no scale of a tensor of shape {list(shape)}"
    )


def _packed(pool: Pool, tensor: str, packed: Tensor, config: Mapping[str, Json], block: Blocks) -> None:
    """`weight_packed` in bytes: FP4 or FP6 of compressed-tensors; packed integers (I32) belong to another fold."""
    scales, whole = pool.need_part(tensor, "scale"), pool.get(f"{tensor}_global_scale")
    if scales.encoding.label not in ("F8_E4M3", "F8_E8M0", "U8"):
        raise FormatError(pool.path, f"{tensor!r}: {_said(packed)} cannot be under {_said(scales)}")
    strategies = _said_of_floats(config, "strategy") or {"tensor_group"}
    if scales.encoding.label == "F8_E4M3" and "tensor_group" in strategies:
        whole = pool.need_part(tensor, "global_scale")
    if pool.get(f"{tensor}_zero_point") is not None:
        raise UnsupportedError(
            f"{pool.path}: {tensor + '_zero_point'!r} is a zero point of 4 or 6-bit floats, which compressed-tensors "
            "takes into account when it compresses, and not when it decompresses",
            hint="quantize the model again with symmetric weights",
        )
    bits = _float_bits(pool, tensor, packed, scales, config)
    columns, rest = divmod(8 * packed.shape[-1], bits)
    shape = (*packed.shape[:-1], columns)
    element = "F6_E2M3" if bits == 6 else "Q4" if _is_quarters(config, tensor) else "F4"
    rows, group, form = _grain(pool, tensor, shape, scales, block)
    if rest or (group or columns) % (16 if bits == 4 else 32) or (group and columns % group):
        raise FormatError(pool.path, f"{tensor!r}: {_said(packed)} under {_said(scales)} are no whole groups")
    encoding = Scaled("packed", element, rows, group, scales.encoding.label, form)
    if whole is not None:
        encoding = replace(encoding, whole="divides", whole_form=_whole_form(pool, whole, shape))
    pool.assemble(TensorSpec(tensor, shape, encoding))


def _float_bits(pool: Pool, tensor: str, packed: Tensor, scales: Tensor, config: Mapping[str, Json]) -> int:
    """Four or six: scales of E4M3 are NVFP4's; exponents have groups of 32, or else the configuration says."""
    if scales.encoding.label == "F8_E4M3":
        return 4
    blocks = scales.shape[-1] if len(scales.shape) == len(packed.shape) else 0
    bits = 8 * packed.shape[-1] // (32 * blocks) if blocks else 0
    if bits in (4, 6) and scales.shape[-2] == packed.shape[-2]:
        return bits
    said = _said_of_floats(config, "num_bits")
    if said in ({"4"}, {"6"}):
        return 4 if "4" in said else 6
    raise FormatError(
        pool.path, f"{tensor!r}: {_said(packed)} under {_said(scales)} is neither FP4 nor FP6 in groups of 32"
    )


def _said_of_floats(config: Mapping[str, Json], key: str) -> set[str]:
    """What the groups of a configuration say of weights that are floats, as text."""
    groups = config.get("config_groups")
    found = [
        group.get("weights")
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict)
    ]
    return {str(weights.get(key)) for weights in found if isinstance(weights, dict) and weights.get("type") == "float"}


def _fold(pool: Pool, module: str, kind: str, block: Blocks) -> None:
    """`weight` beside scales that say what shares one; FP4 in bytes where the scales have groups of 32."""
    weight = pool.get(f"{module}.weight")
    suffix = next((suffix for suffix, named in _BESIDE_WEIGHT.items() if named == kind), "weight_scale")
    scales = pool.need(module, suffix)
    if weight is None:
        raise FormatError(pool.path, f"module {module!r} has {suffix!r}, and no 'weight'", hint=pool.missing)
    zeros = pool.get(f"{module}.weight_zero_point") if kind == "ct" else None
    inverse = kind == "inv" and weight.encoding.label in ("I8", "U8") and len(weight.shape) >= 2
    if inverse or (kind == "scale" and _is_of_nibbles(weight, scales)):
        shape: Shape = (*weight.shape[:-1], 2 * weight.shape[-1])
        group = _group(pool, module, shape[-1], scales.shape[-1] if scales.shape else 0)
        encoding = Scaled(kind, "F4", 1, group, scales.encoding.label, storage=weight.encoding.label)
        pool.assemble(TensorSpec(weight.name, shape, encoding))
        return
    if weight.encoding.label not in _ELEMENTS:
        raise FormatError(pool.path, f"{weight.name!r} is {weight.encoding.label}, and has {suffix!r}")
    _refuse_unused(pool, f"{module}.weight_global_scale")
    encoding = _by_scales(pool, kind, weight, scales, block, "" if zeros is None else zeros.encoding.label)
    pool.assemble(TensorSpec(weight.name, weight.shape, encoding))


def _fold_stack(pool: Pool, name: str, kind: str, suffix: str, block: Blocks) -> None:
    weight, scales = pool.get(name), pool.get(name + suffix)
    assert weight is not None and scales is not None
    if weight.encoding.label == "U8":
        _fold_packed_stack(pool, weight, scales)
        return
    zeros = pool.get(f"{name}_zero_point") if kind in ("ct", "stack") else None
    _refuse_unused(pool, f"{name}_global_scale")
    encoding = _by_scales(pool, kind, weight, scales, block, "" if zeros is None else zeros.encoding.label)
    pool.assemble(TensorSpec(name, weight.shape, encoding))


def _fold_packed_stack(pool: Pool, weight: Tensor, scales: Tensor) -> None:
    """Two FP4 in a byte."""
    if scales.shape[:-1] == weight.shape[:-1]:
        _modelopt_floats(pool, weight.name, weight, scales)
        return
    across = len(scales.shape) == 3 and scales.shape[::2] == weight.shape[::2]
    reason = "packed across its rows ([experts, in / 2, out])" if across else f"under {_said(scales)}"
    raise UnsupportedError(
        f"{pool.path}: {weight.name!r} {_said(weight)} is a stack of 4-bit floats {reason}, which is not read",
        hint="dequantize the model with ModelOpt, or convert the original model",
    )


def _refuse_unused(pool: Pool, name: str) -> None:
    """One more scale where compressed-tensors stores it and leaves it out when it decompresses."""
    if pool.get(name) is not None:
        raise UnsupportedError(
            f"{pool.path}: {name!r} is one more scale, which compressed-tensors leaves out when it decompresses",
            hint="quantize the model again with the strategy group instead of tensor_group",
        )


def _stacks(pool: Pool, suffix: str) -> list[str]:
    """Stacks of quantized matrices with scales under their own name and `suffix`."""
    kinds = (*_ELEMENTS, "U8") if suffix == "_weight_scale" else _ELEMENTS
    names = [name.removesuffix(suffix) for name in pool.ending(suffix)]
    found = ((name, pool.get(name)) for name in names if not name.endswith(".weight"))
    return [name for name, tensor in found if tensor and tensor.encoding.label in kinds and len(tensor.shape) == 3]


def _by_scales(pool: Pool, kind: str, weight: Tensor, scales: Tensor, block: Blocks, zero: str) -> Scaled:
    """The encoding of an 8-bit weight, from the shape of its scales."""
    element, dtype, shape = weight.encoding.label, scales.encoding.label, weight.shape
    if dtype not in _SCALES or len(shape) < 2:
        raise FormatError(pool.path, f"{weight.name!r}: {_said(weight)} cannot be under {_said(scales)}")
    rows, columns, form = _grain(pool, weight.name, shape, scales, block)
    return Scaled(kind, element, rows, columns, dtype, form, zero)


def grain_of(pool: Pool, tensor: str, shape: Shape, scales: Tensor) -> tuple[int, int, str]:
    """Rows and columns that share a scale, and the form of the array of scales (see `Scaled`), by shapes alone."""
    return _grain(pool, tensor, shape, scales, ())


def _grain(pool: Pool, tensor: str, shape: Shape, scales: Tensor, block: Blocks) -> tuple[int, int, str]:
    """Rows and columns that share a scale, and the form of the array of scales (see `Scaled`)."""
    if scales.shape in ((), (1,)):
        return 1, 0, "one" if scales.shape else "scalar"
    if scales.shape == shape[:-1]:
        return 1, 0, "rows"
    if len(shape) > 2 and scales.shape in (shape[:-2], (*shape[:-2], 1)):
        return 0, 0, "grid"
    if len(scales.shape) == len(shape) + 2 and scales.shape[-3] == scales.shape[-1] == 1:  # FP8_PB_WO of ModelOpt
        gathered = replace(scales, shape=(*scales.shape[:-3], scales.shape[-2]))
        together, across, form = _grain(pool, tensor, shape, gathered, block)
        return together, across, "spread" if form == "grid" else form
    if len(scales.shape) == len(shape) and scales.shape[:-2] == shape[:-2]:
        (rows, columns), (down, across) = shape[-2:], scales.shape[-2:]
        if down == rows and across and columns % across == 0:
            return 1, 0 if across == 1 else columns // across, "grid"
        even = [] if block else [_even(rows, columns, down, across)]
        for height, width in (*block, _BLOCK, _whole(columns, down, across), *even):
            if _fits(rows, height, down) and _fits(columns, width, across):
                return height, width, "grid"
        height, width = (*block, _BLOCK)[0]
        if down > -(-rows // height) and across == -(-columns // width):
            raise UnsupportedError(
                f"{pool.path}: {scales.name!r} is {_said(scales)}, more rows of blocks than {tensor!r} of shape "
                f"{list(shape)} has: its parts were quantized apart and fused, and nothing says where each begins",
                hint="convert the model it was made from, or dequantize it with what serves it",
            )
    raise FormatError(
        pool.path,
        f"{scales.name!r} is {_said(scales)}, which is no grid over {tensor!r} of shape {list(shape)}",
        hint="the file is damaged, or quantization_config does not say the weight_block_size that it has",
    )


def _whole(columns: int, down: int, across: int) -> tuple[int, int]:
    """Blocks of whole columns: one scale for each matrix of a stack, or for each of its columns."""
    if down != 1 or not across or columns % across:
        return (-1, -1)
    return (0, 0 if across == 1 else columns // across)


def _even(rows: int, columns: int, down: int, across: int) -> tuple[int, int]:
    """Blocks that divide the matrix."""
    if not down or not across or rows % down or columns % across:
        return (-1, -1)
    return (rows // down, columns // across)


def _fits(size: int, together: int, count: int) -> bool:
    return together >= 0 and count == (-(-size // together) if together else 1)


def _gpt_oss(pool: Pool, module: str, ending: str, kind: str) -> None:
    """Blocks [experts, rows, blocks of a row, 16 bytes] and their exponents."""
    blocks, scales = pool.get(module + ending), pool.get(module + ending.replace("blocks", "scales"))
    if blocks is None or blocks.encoding.label != "U8" or len(blocks.shape) < 3 or blocks.shape[-1] != 16:
        return
    if scales is None:
        raise FormatError(pool.path, f"{module + ending!r} has no scales", hint=pool.missing)
    shape = (*blocks.shape[:-2], 32 * blocks.shape[-2])
    pool.assemble(TensorSpec(f"{module}.weight", shape, Scaled(kind, "F4", 1, 32, "U8")))


def _group(pool: Pool, module: str, columns: int, groups: int) -> int:
    """Columns that share a scale: 16 or 32."""
    group, rest = divmod(columns, groups) if groups else (0, 1)
    if rest or group not in (16, 32):
        raise FormatError(pool.path, f"{module!r}: {groups} scales for rows of {columns} 4-bit floats")
    return group


def _said(tensor: Tensor) -> str:
    return f"{tensor.encoding.label}{list(tensor.shape)}"
