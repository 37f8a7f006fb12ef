"""EXL2: `q_weight` and its company."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from requant.dtypes import DTYPES
from requant.encodings import Dense
from requant.encodings.exl2 import PADDING, WIDTHS, Exl2, exl2_groups
from requant.errors import FormatError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor, TensorSpec, flat_config
from requant.sources import FileSlice, read

#: The most inputs a layer of any model has, and groups of them: small arrays are read before they are trusted.
_MOST: Final = 1 << 22


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Put EXL2 layers together; config.json is needed only to tell outputs from padding."""
    for module in pool.modules("q_weight"):
        weight = _array(pool, module, "q_weight", "I32")
        if len(weight.shape) != 2:
            raise FormatError(pool.path, f"{weight.name!r} has {len(weight.shape)} dimensions, not two")
        inverse = _numbers(pool, module, "q_invperm", "I32")
        groups = _groups(pool, module, weight.shape[0])
        rows = sum(rows for _, rows in groups)
        if rows != inverse.size:
            raise FormatError(
                pool.path,
                f"{module}: the groups have {rows} rows, q_invperm {inverse.size}",
                hint="the file is damaged",
            )
        if not np.array_equal(np.sort(inverse), np.arange(rows)):
            raise FormatError(
                pool.path, f"'{module}.q_invperm' does not name every row once", hint="the file is damaged"
            )
        encoding = Exl2(exl2_groups(groups), pool.get(f"{module}.q_perm") is not None)
        outputs = _outputs(pool, module, weight.shape[1])
        pool.assemble(TensorSpec(f"{module}.weight", (outputs, rows), encoding))
        _cut_bias(pool, module, weight.shape[1], outputs)


def _groups(pool: Pool, module: str, words: int) -> list[tuple[int, int]]:
    """(bits, rows) of every group: `q_groups` gives bits and the first row of words."""
    pairs = _numbers(pool, module, "q_groups", "I16").astype(np.uint16).astype(int)
    if pairs.size == 0 or pairs.size % 2:
        raise FormatError(pool.path, f"'{module}.q_groups' has {pairs.size} numbers, which are no pairs")
    bits, starts = pairs[::2], pairs[1::2]
    stops = np.append(starts[1:], words)
    groups = []
    for number, (width, start, stop) in enumerate(zip(bits.tolist(), starts.tolist(), stops.tolist(), strict=True)):
        rows, rest = divmod((stop - start) * 32, width) if width in WIDTHS else (0, 1)
        if rest or rows <= 0 or rows % (16 if width == 2 else 32):
            raise FormatError(
                pool.path,
                f"'{module}.q_groups': group {number} has {width} bits in the rows [{start}, {stop}) of {words}",
                hint="the file is damaged, or not EXL2 as exllamav2 writes it",
            )
        groups.append((width, rows))
    if (np.diff(bits) > 0).any():
        raise FormatError(
            pool.path,
            f"'{module}.q_groups': a group is wider than the one before it",
            hint="exllamav2 takes the rows of each width for one run, the widest first: it would read other values",
        )
    if starts[0] != 0:
        raise FormatError(pool.path, f"'{module}.q_groups' begins at row {starts[0]}")
    return groups


def _outputs(pool: Pool, module: str, padded: int) -> int:
    """Columns that are outputs: exllamav2 pads each layer to a multiple of 32, which config.json tells for these."""
    config = flat_config(pool.config)

    def number(key: str) -> int:
        value = config.get(key)
        return value if isinstance(value, int) else 0

    heads = number("num_attention_heads")
    width = number("head_dim") or (number("hidden_size") // heads if heads > 0 else 0)
    sizes = {
        "lm_head": number("vocab_size"),
        "q_proj": heads * width,
        "k_proj": (number("num_key_value_heads") or heads) * width,
        "v_proj": (number("num_key_value_heads") or heads) * width,
    }
    size = sizes.get(module.rpartition(".")[2], 0)
    return size if size > 0 and 0 <= padded - size < PADDING else padded


def _cut_bias(pool: Pool, module: str, padded: int, outputs: int) -> None:
    """A bias is padded like its layer."""
    bias = pool.get(f"{module}.bias")
    if bias is None or padded == outputs or bias.shape != (padded,):
        return
    source = bias.sources["data"]
    if isinstance(source, FileSlice):
        kept = replace(source, nbytes=source.nbytes // padded * outputs)
        pool.fold(replace(bias, shape=(outputs,), sources={"data": kept}), [bias.name])


def _array(pool: Pool, module: str, part: str, dtype: str) -> Tensor:
    array = pool.need(module, part)
    if array.encoding != Dense(DTYPES[dtype]):
        raise FormatError(pool.path, f"{array.name!r} is {array.encoding.label}, not {dtype}")
    return array


def _numbers(pool: Pool, module: str, part: str, dtype: str) -> np.ndarray[tuple[int], np.dtype[np.integer]]:
    array = _array(pool, module, part, dtype)
    if len(array.shape) != 1 or array.shape[0] > _MOST:
        raise FormatError(pool.path, f"{array.name!r} is of shape {list(array.shape)}")
    numbers: np.ndarray[tuple[int], np.dtype[np.integer]] = read(array.sources["data"]).view(DTYPES[dtype].numpy)
    return numbers
