"""Small floats and int8 beside scales: FP8 of every kind, compressed-tensors, ModelOpt, gpt-oss.

The names and dtypes of a module's arrays say which kind it is, the shape of the scales what shares one; only where
blocks are cut at the edges must the configuration (or the usual 128 by 128) say how large they are. Scales of
activations and of the cache stay tensors of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from requant.encodings import Shape
from requant.encodings.scaled import Scaled
from requant.errors import FormatError, UnsupportedError
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
#: Rows and columns of a block, if the configuration says so.
Block = tuple[int, int] | None


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Fold every module of these kinds."""
    for suffix, reason in _REFUSED.items():
        for module in pool.modules(suffix):
            _refuse(pool, module, suffix, reason)
    block = _block_of(config)
    for module in pool.modules("weight_scale_inv"):
        _fold(pool, module, "inv", block)
    for module in pool.modules("weight_scale"):
        if pool.get(f"{module}.weight_packed") is not None:
            _packed(pool, module)
        elif pool.get(f"{module}.weight") is not None:
            _beside_weight(pool, module, block)
    for suffix, kind in (("_scale_inv", "stack-inv"), ("_scale", "stack")):
        for name in _stacks(pool, suffix):
            _fold_stack(pool, name, kind, suffix, block)
    for ending, kind in (("_blocks", "gpt-oss"), (".blocks", "gpt-oss-original")):
        for name in pool.ending(ending):
            _gpt_oss(pool, name.removesuffix(ending), ending, kind)
    _need_scales(pool, config)


def _need_scales(pool: Pool, config: Mapping[str, Json]) -> None:
    """FP8 without scales is plain numbers; not so where the configuration, or other weights, speak of scales."""
    left = [name for name in pool.ending(".weight") if _is_plain_fp8(pool.get(name))]
    if left and (config or any(_is_scaled_fp8(pool.get(name)) for name in pool.ending(".weight"))):
        raise FormatError(pool.path, f"{left[0]!r} is FP8 and has no scales", hint="is a shard missing?")


def _is_plain_fp8(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.encoding.label in _FP8 and len(tensor.shape) > 1


def _is_scaled_fp8(tensor: Tensor | None) -> bool:
    return tensor is not None and isinstance(tensor.encoding, Scaled) and tensor.encoding.element in _FP8


def _refuse(pool: Pool, module: str, suffix: str, reason: str) -> None:
    raise UnsupportedError(
        f"{pool.path}: {module}.weight has {suffix!r}: {reason}",
        hint="export the model without it, or dequantize it with ModelOpt",
    )


def _beside_weight(pool: Pool, module: str, block: Block) -> None:
    """`weight` and `weight_scale`: the dtype of the weight decides."""
    weight, scales = pool.need(module, "weight"), pool.need(module, "weight_scale")
    if weight.encoding.label in _ELEMENTS:
        _fold(pool, module, "ct", block)
    elif weight.encoding.label == "U8" and len(weight.shape) >= 2 and scales.shape[:-1] == weight.shape[:-1]:
        _modelopt_floats(pool, module, weight, scales)


def _modelopt_floats(pool: Pool, module: str, weight: Tensor, scales: Tensor) -> None:
    """FP4 as ModelOpt stores it: NVFP4 with two levels of scales, MXFP4 with exponents."""
    shape = (*weight.shape[:-1], 2 * weight.shape[-1])
    whole = pool.get(f"{module}.weight_scale_2")
    group = _group(pool, module, shape[-1], scales.shape[-1])
    if scales.encoding.label == "F8_E4M3" and whole is None:
        raise FormatError(pool.path, f"module {module!r} has no 'weight_scale_2'", hint="is a shard missing?")
    form = "one" if whole is not None and len(whole.shape) == 1 else "scalar"
    encoding = Scaled(
        "modelopt",
        "F4",
        1,
        group,
        scales.encoding.label,
        whole="" if whole is None else "multiplies",
        whole_form="one" if whole is None else form,
    )
    pool.assemble(TensorSpec(f"{module}.weight", shape, encoding))


def _packed(pool: Pool, module: str) -> None:
    """`weight_packed` in bytes: FP4 or FP6 of compressed-tensors; packed integers (I32) belong to another fold."""
    packed, scales = pool.need(module, "weight_packed"), pool.need(module, "weight_scale")
    if packed.encoding.label != "U8" or len(packed.shape) < 2:
        return
    whole = pool.get(f"{module}.weight_global_scale")
    if scales.encoding.label not in ("F8_E4M3", "F8_E8M0", "U8"):
        raise FormatError(pool.path, f"module {module!r}: {_said(packed)} cannot be under {_said(scales)}")
    if scales.encoding.label == "F8_E4M3":
        if whole is None:
            raise FormatError(pool.path, f"module {module!r} has no 'weight_global_scale'", hint="is a shard missing?")
        bits, group = 4, 16
    else:
        blocks = scales.shape[-1] if scales.shape else 0
        bits, group = (8 * packed.shape[-1] // (32 * blocks) if blocks else 0), 32
        if bits not in (4, 6) or whole is not None:
            raise FormatError(
                pool.path,
                f"module {module!r}: {_said(packed)} under {_said(scales)} is neither FP4 nor FP6 in groups of 32",
            )
    shape = (*packed.shape[:-1], 8 * packed.shape[-1] // bits)
    encoding = Scaled(
        "packed",
        "F4" if bits == 4 else "F6_E2M3",
        1,
        group,
        scales.encoding.label,
        whole="" if whole is None else "divides",
        whole_form="scalar" if whole is not None and not whole.shape else "one",
    )
    pool.assemble(TensorSpec(f"{module}.weight", shape, encoding))


def _fold(pool: Pool, module: str, kind: str, block: Block) -> None:
    """`weight` beside scales that say what shares one; FP4 in bytes where the scales have groups of 32."""
    weight = pool.get(f"{module}.weight")
    suffix = "weight_scale_inv" if kind == "inv" else "weight_scale"
    scales = pool.need(module, suffix)
    if weight is None:
        raise FormatError(pool.path, f"module {module!r} has {suffix!r}, and no 'weight'", hint="is a shard missing?")
    zeros = pool.get(f"{module}.weight_zero_point") if kind == "ct" else None
    if kind == "inv" and weight.encoding.label in ("I8", "U8") and len(weight.shape) >= 2:
        shape: Shape = (*weight.shape[:-1], 2 * weight.shape[-1])
        group = _group(pool, module, shape[-1], scales.shape[-1] if scales.shape else 0)
        encoding = Scaled(kind, "F4", 1, group, scales.encoding.label, storage=weight.encoding.label)
        pool.assemble(TensorSpec(weight.name, shape, encoding))
        return
    if weight.encoding.label not in _ELEMENTS:
        raise FormatError(pool.path, f"{weight.name!r} is {weight.encoding.label}, and has {suffix!r}")
    encoding = _by_scales(pool, kind, weight, scales, block, "" if zeros is None else zeros.encoding.label)
    pool.assemble(TensorSpec(weight.name, weight.shape, encoding))


def _fold_stack(pool: Pool, name: str, kind: str, suffix: str, block: Block) -> None:
    weight, scales = pool.get(name), pool.get(name + suffix)
    assert weight is not None and scales is not None
    pool.assemble(TensorSpec(name, weight.shape, _by_scales(pool, kind, weight, scales, block, "")))


def _stacks(pool: Pool, suffix: str) -> list[str]:
    """Stacks of 8-bit matrices with scales under their own name and `suffix`."""
    names = [name.removesuffix(suffix) for name in pool.ending(suffix)]
    found = ((name, pool.get(name)) for name in names)
    return [name for name, tensor in found if tensor and tensor.encoding.label in _FP8 and len(tensor.shape) == 3]


def _by_scales(pool: Pool, kind: str, weight: Tensor, scales: Tensor, block: Block, zero: str) -> Scaled:
    """The encoding of an 8-bit weight, from the shape of its scales."""
    element, dtype, shape = weight.encoding.label, scales.encoding.label, weight.shape
    if dtype not in _SCALES or len(shape) < 2:
        raise FormatError(pool.path, f"{weight.name!r}: {_said(weight)} cannot be under {_said(scales)}")
    if not scales.shape:
        return Scaled(kind, element, scale=dtype, form="scalar", zero=zero)
    if scales.shape == (1,):
        return Scaled(kind, element, scale=dtype, form="one", zero=zero)
    if scales.shape == shape[:-1]:
        return Scaled(kind, element, scale=dtype, form="rows", zero=zero)
    if len(scales.shape) == len(shape) and scales.shape[:-2] == shape[:-2]:
        (rows, columns), (down, across) = shape[-2:], scales.shape[-2:]
        if down == rows and across and columns % across == 0:
            return Scaled(kind, element, 1, 0 if across == 1 else columns // across, dtype, zero=zero)
        even = [] if block else [_even(rows, columns, down, across)]
        for height, width in (block or _BLOCK, _BLOCK, _whole(columns, down, across), *even):
            if _fits(rows, height, down) and _fits(columns, width, across):
                return Scaled(kind, element, height, width, dtype, zero=zero)
    raise FormatError(
        pool.path,
        f"{scales.name!r} is {_said(scales)}, which is no grid over {_said(weight)}",
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
        raise FormatError(pool.path, f"{module + ending!r} has no scales", hint="is a shard missing?")
    shape = (*blocks.shape[:-2], 32 * blocks.shape[-2])
    pool.assemble(TensorSpec(f"{module}.weight", shape, Scaled(kind, "F4", 1, 32, "U8")))


def _group(pool: Pool, module: str, columns: int, groups: int) -> int:
    """Columns that share a scale: 16 or 32."""
    group, rest = divmod(columns, groups) if groups else (0, 1)
    if rest or group not in (16, 32):
        raise FormatError(pool.path, f"module {module!r}: {groups} scales for rows of {columns} 4-bit floats")
    return group


def _block_of(config: Mapping[str, Json]) -> Block:
    """Rows and columns of a block, from wherever a configuration has them."""
    found: list[Json] = [config.get("weight_block_size")]
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        found.append(weights.get("block_structure") if isinstance(weights, dict) else None)
    for sizes in found:
        numbers = [int(n) for n in re.findall(r"\d{1,6}", str(sizes))]
        if len(numbers) == 2 and min(numbers) > 0:
            return numbers[0], numbers[1]
    return None


def _said(tensor: Tensor) -> str:
    return f"{tensor.encoding.label}{list(tensor.shape)}"
