"""compressed-tensors' packed integers: `weight_packed` in words, `weight_scale`, `weight_shape`, and what lies beside.

Stacks of experts have the same under names without ".weight": `gate_up_proj_packed`, `gate_up_proj_scale`, …

Shapes give the bits but where old packing with gaps looks like another width; then the widths that the configuration
names decide, and the version that wrote it. So it needs no matching of its targets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from requant.encodings import Shape
from requant.encodings.compressed import Packed, RowPairs
from requant.encodings.gptq import Order
from requant.errors import FormatError, UnsupportedError
from requant.formats.folding.blocks import blocks_of
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec
from requant.sources import read

#: The longest row whose group map is read.
_MAX_COLUMNS: Final = 1 << 22
_SCALES: Final = ("F32", "F16", "BF16")
#: Rows and columns of a block where the configuration names none that fits.
_BLOCK: Final = (128, 128)
#: The version of compressed-tensors that first packed codes without gaps.
_STREAMS_SINCE: Final = (0, 17)


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Fold packed integers, and ModelOpt's pairs of rows."""
    if config.get("transform_config"):
        raise UnsupportedError(
            f"{pool.path}: its weights are rotated (transform_config of compressed-tensors)",
            hint="export the model without transforms",
        )
    said, symmetric = _Said(config), _said_of_symmetry(config)
    for name in pool.ending("_packed"):
        tensor = name.removesuffix("_packed")
        packed = pool.get(name)
        if packed is not None and packed.encoding.label == "I32" and pool.get(f"{tensor}_shape") is not None:
            if symmetric == {False} and pool.get(f"{tensor}_zero_point") is None:
                pool.remark(tensor, "no zero points are stored, so they are 0, though it is asymmetric")
            _fold(pool, tensor, packed, said)
    for module in pool.modules("weight_scale"):
        weight, scales = pool.get(f"{module}.weight"), pool.need(module, "weight_scale")
        if weight is not None and _is_row_pairs(weight, scales):
            _row_pairs(pool, weight, scales)


class _Said:
    """What a configuration says of packing: widths in bits, sizes of blocks, and whether codes follow without gaps."""

    def __init__(self, config: Mapping[str, Json]) -> None:
        self.widths = _widths(config)
        self.blocks = blocks_of(config)
        version = re.match(r"(\d{1,4})\.(\d{1,4})", str(config.get("version", "")), re.ASCII)
        self.gaps_first = version is not None and (int(version[1]), int(version[2])) < _STREAMS_SINCE


def _fold(pool: Pool, tensor: str, packed: Tensor, said: _Said) -> None:
    """`tensor`: the name of the weight of a module, or of a stack."""
    scales, stored = pool.need_part(tensor, "scale"), pool.need_part(tensor, "shape")
    zeros, g_idx = pool.get(f"{tensor}_zero_point"), pool.get(f"{tensor}_g_idx")
    shape = _shape(pool, stored)
    if packed.shape[:-1] != shape[:-1] or scales.encoding.label not in _SCALES:
        raise FormatError(
            pool.path,
            f"{packed.name!r} {list(packed.shape)} and {scales.name!r} {scales.encoding.label}"
            f"{list(scales.shape)} are no matrix of {' by '.join(map(str, shape))}, which {stored.name!r} says",
        )
    whole = pool.get(f"{tensor}_global_scale")
    if whole is not None:
        raise UnsupportedError(
            f"{pool.path}: {whole.name!r} is one more scale of packed integers, which compressed-tensors stores and "
            "leaves out when it decompresses",
            hint="quantize the model again with the strategy group instead of tensor_group",
        )
    bits, stream = _bits(pool, tensor, packed.shape[-1], shape[-1], said)
    order = Order.MISSING if g_idx is None else Order.UNSET
    rows, group = 1, 0
    if not _of_matrices(scales.shape, shape):
        rows, group = _block(scales.shape, shape, said.blocks)
        if rows == 1:
            group, order = _groups(pool, tensor, scales, shape[-1], g_idx, order)
    dtypes = scales.encoding.label, stored.encoding.label
    pool.assemble(
        TensorSpec(tensor, shape, Packed(bits, group, zeros is None, dtypes[0], stream, order, dtypes[1], rows))
    )


def _of_matrices(scales: Shape, shape: Shape) -> bool:
    """Whether there is one scale for each matrix, [1] or [], or [stack, 1]."""
    return scales in ((), (1,)) or (len(shape) > 2 and scales in (shape[:-2], (*shape[:-2], 1)))


def _block(scales: Shape, shape: Shape, said: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Rows and columns of a block; (1, 0) where each row has scales of its own, or where it is none."""
    if len(scales) != len(shape) or scales[:-2] != shape[:-2] or scales[-2] == shape[-2]:
        return 1, 0
    for height, width in (*said, _BLOCK):
        if (-(-shape[-2] // height), -(-shape[-1] // width)) == scales[-2:]:
            return height, width
    return 1, 0


def _shape(pool: Pool, stored: Tensor) -> Shape:
    if stored.shape not in ((2,), (3,)) or stored.encoding.label not in ("I64", "I32"):
        raise FormatError(pool.path, f"{stored.name!r} is {stored.encoding.label}{list(stored.shape)}, not two sizes")
    numbers = read(stored.sources["data"]).view("<i8" if stored.encoding.label == "I64" else "<i4")
    shape = tuple(int(n) for n in numbers)
    if min(shape) <= 0:
        raise FormatError(pool.path, f"{stored.name!r} says {' by '.join(map(str, shape))}")
    return shape


def _bits(pool: Pool, tensor: str, words: int, columns: int, said: _Said) -> tuple[int, bool]:
    """The width that fits the words: one that the configuration names, without gaps if both could be."""
    fitting = [
        (bits, stream)
        for stream in ((False, True) if said.gaps_first else (True, False))
        for bits in (4, 8, 2, 3, 5, 6, 7, 1)
        if Packed(bits, stream=stream).words(columns) == words
    ]
    named = [(bits, stream) for bits, stream in fitting if bits in said.widths]
    if not fitting:
        raise FormatError(pool.path, f"{tensor!r}: rows of {columns} in {words} words are no codes of 1 to 8 bits")
    if said.widths and not named:
        pool.remark(tensor, f"stored in {fitting[0][0]} bits, which the configuration does not name")
    bits, stream = (named or fitting)[0]
    return bits, stream or 32 % bits == 0  # no gaps where codes fill words


def _groups(
    pool: Pool, tensor: str, scales: Tensor, columns: int, g_idx: Tensor | None, order: Order
) -> tuple[int, Order]:
    """Columns of a group, and what the group map says."""
    count = scales.shape[-1]
    group, rest = divmod(columns, count) if count else (0, 1)
    if rest or not group:
        raise FormatError(pool.path, f"{tensor!r}: {count} groups for rows of {columns}")
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
