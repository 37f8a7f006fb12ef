"""compressed-tensors' packed integers: `weight_packed` in words, `weight_scale`, `weight_shape`, and what lies beside.

Shapes give the bits but where old packing with gaps looks like another width; then the widths that the configuration
names decide. So it needs no matching of its targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from requant.encodings.compressed import Packed, RowPairs
from requant.encodings.gptq import Order
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec
from requant.sources import read

#: The longest row whose group map is read.
_MAX_COLUMNS: Final = 1 << 22
_SCALES: Final = ("F32", "F16", "BF16")


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Fold packed integers, and ModelOpt's pairs of rows."""
    if config.get("transform_config"):
        raise UnsupportedError(
            f"{pool.path}: its weights are rotated (transform_config of compressed-tensors)",
            hint="export the model without transforms",
        )
    widths, symmetric = _widths(config), _said_of_symmetry(config)
    for module in pool.modules("weight_packed"):
        packed = pool.need(module, "weight_packed")
        if packed.encoding.label == "I32" and pool.get(f"{module}.weight_shape") is not None:
            if symmetric == {False} and pool.get(f"{module}.weight_zero_point") is None:
                pool.remark(f"{module}.weight", "no zero points are stored, so they are 0, though it is asymmetric")
            _fold(pool, module, packed, widths)
    for module in pool.modules("weight_scale"):
        weight, scales = pool.get(f"{module}.weight"), pool.need(module, "weight_scale")
        if weight is not None and _is_row_pairs(weight, scales):
            _row_pairs(pool, weight, scales)


def _fold(pool: Pool, module: str, packed: Tensor, widths: set[int]) -> None:
    scales, stored = pool.need(module, "weight_scale"), pool.need(module, "weight_shape")
    zeros, g_idx = pool.get(f"{module}.weight_zero_point"), pool.get(f"{module}.weight_g_idx")
    rows, columns = _shape(pool, stored)
    if packed.shape[:-1] != (rows,) or scales.encoding.label not in _SCALES:
        raise FormatError(
            pool.path,
            f"module {module!r}: 'weight_packed' {list(packed.shape)} and 'weight_scale' {scales.encoding.label}"
            f"{list(scales.shape)} are no matrix of {rows} by {columns}, which 'weight_shape' says",
        )
    bits, stream = _bits(pool, module, packed.shape[1], columns, widths)
    order = Order.MISSING if g_idx is None else Order.UNSET
    group, order = _groups(pool, module, scales, columns, g_idx, order)
    if zeros is not None and group == 0:
        raise UnsupportedError(f"{pool.path}: module {module!r} has one zero point for a whole tensor")
    encoding = Packed(bits, group, zeros is None, scales.encoding.label, stream, order, stored.encoding.label)
    pool.assemble(TensorSpec(f"{module}.weight", (rows, columns), encoding))


def _shape(pool: Pool, stored: Tensor) -> tuple[int, int]:
    if stored.shape != (2,) or stored.encoding.label not in ("I64", "I32"):
        raise FormatError(pool.path, f"{stored.name!r} is {stored.encoding.label}{list(stored.shape)}, not two sizes")
    numbers = read(stored.sources["data"]).view("<i8" if stored.encoding.label == "I64" else "<i4")
    rows, columns = (int(n) for n in numbers)
    if rows <= 0 or columns <= 0:
        raise FormatError(pool.path, f"{stored.name!r} says {rows} by {columns}")
    return rows, columns


def _bits(pool: Pool, module: str, words: int, columns: int, widths: set[int]) -> tuple[int, bool]:
    """The width that fits the words: one that the configuration names, without gaps if both could be."""
    fitting = [
        (bits, stream)
        for stream in (True, False)
        for bits in (4, 8, 2, 3, 5, 6, 7, 1)
        if Packed(bits, stream=stream).words(columns) == words
    ]
    named = [(bits, stream) for bits, stream in fitting if bits in widths]
    if not fitting:
        raise FormatError(
            pool.path, f"module {module!r}: rows of {columns} in {words} words are no codes of 1 to 8 bits"
        )
    if widths and not named:
        pool.remark(f"{module}.weight", f"stored in {fitting[0][0]} bits, which the configuration does not name")
    return (named or fitting)[0]


def _groups(
    pool: Pool, module: str, scales: Tensor, columns: int, g_idx: Tensor | None, order: Order
) -> tuple[int, Order]:
    """Columns of a group (0: one scale for everything), and what the group map says."""
    if scales.shape in ((), (1,)):
        return 0, order
    count = scales.shape[-1]
    group, rest = divmod(columns, count) if count else (0, 1)
    if rest or not group:
        raise FormatError(pool.path, f"module {module!r}: {count} groups for rows of {columns}")
    if g_idx is None:
        return (-1 if count == 1 else group), order
    if g_idx.shape != (columns,) or g_idx.encoding.label != "I32" or columns > _MAX_COLUMNS:
        raise FormatError(pool.path, f"{g_idx.name!r} is {g_idx.encoding.label}{list(g_idx.shape)}, not I32[{columns}]")
    numbers = read(g_idx.sources["data"]).view("<i4")
    if (numbers == -1).all():
        return (-1 if count == 1 else group), Order.UNSET
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= count:
        wrong = low if low < 0 else high
        raise FormatError(
            pool.path, f"{g_idx.name!r} names group {wrong}; there are {count}", hint="the file is damaged"
        )
    in_order = (numbers == np.arange(columns) // group).all()
    return (-1 if count == 1 else group), Order.STORED if in_order else Order.ACT


def _widths(config: Mapping[str, Json]) -> set[int]:
    """Every number of bits that the configuration names."""
    groups = config.get("config_groups")
    found = set()
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        bits = weights.get("num_bits") if isinstance(weights, dict) else None
        if isinstance(bits, int):
            found.add(bits)
    return found


def _said_of_symmetry(config: Mapping[str, Json]) -> set[bool]:
    """What the groups of the configuration say about `symmetric`, which is true unless said."""
    groups = config.get("config_groups")
    found = [
        group.get("weights")
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict)
    ]
    return {weights.get("symmetric") is not False for weights in found if isinstance(weights, dict)}


def _is_row_pairs(weight: Tensor, scales: Tensor) -> bool:
    """Half as many rows of bytes as rows of scales, which have a width that divides."""
    if weight.encoding.label != "U8" or len(weight.shape) != 2 or len(scales.shape) != 2:
        return False
    return scales.encoding.label in _SCALES and scales.shape[0] == 2 * weight.shape[0]


def _row_pairs(pool: Pool, weight: Tensor, scales: Tensor) -> None:
    group, rest = divmod(weight.shape[1], scales.shape[1]) if scales.shape[1] else (0, 1)
    if rest or not group:
        raise FormatError(pool.path, f"{weight.name!r}: {scales.shape[1]} groups for rows of {weight.shape[1]}")
    shape = (scales.shape[0], weight.shape[1])
    pool.assemble(TensorSpec(weight.name, shape, RowPairs(group, scales.encoding.label)))
