"""Scales of 0 before codes that are not all the same: values that were there once, and are lost.

A quantizer divides in float32 and then stores the scale in 16 bits; of values that are too small for that, nothing but
the codes is left. Layouts are those of ggml-common.h, and the `scales` of folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Blocks
from requant.ir import Tensor
from requant.printable import printable
from requant.sources import Source, read
from requant.validation.findings import Report

#: Type of ggml -> where a block has its scale (F16), and where its codes begin and end.
_BLOCKS: Final[Mapping[str, tuple[int, int, int]]] = {
    "Q4_0": (0, 2, 18),
    "Q5_0": (0, 6, 22),
    "Q8_0": (0, 2, 34),
    "IQ4_NL": (0, 2, 18),
    "IQ4_XS": (0, 8, 136),
    "Q2_K": (80, 16, 80),
    "Q3_K": (108, 32, 96),
    "Q4_K": (0, 16, 144),
    "Q5_K": (0, 48, 176),
    "Q6_K": (208, 0, 128),
}
#: Float types of scales: an unsigned integer of their size, and all of its bits but the sign.
_FLOATS: Final = {"F16": ("<u2", 0x7FFF), "BF16": ("<u2", 0x7FFF), "F32": ("<u4", 0x7FFFFFFF)}
#: Bytes, or a little less, that are looked at at once.
_RUN: Final = 1 << 22


def check_scales(tensor: Tensor, report: Report) -> None:
    """Note a tensor that has such scales; read again, since what is decoded no longer tells."""
    found = _blocks(tensor) if isinstance(tensor.encoding, Blocks) else _groups(tensor)
    if found:
        count, total, what = found
        name = printable(tensor.name)
        report.add("zero-scale", f"tensor {name!r}: the scales of {count:,} of {total:,} {what} are 0")


def _blocks(tensor: Tensor) -> tuple[int, int, str] | None:
    assert isinstance(tensor.encoding, Blocks)
    layout, size = _BLOCKS.get(tensor.encoding.label), tensor.encoding.nbytes
    if layout is None:
        return None
    scale, first, last = layout
    lost = 0
    for data in _runs(tensor.sources["data"], size):
        blocks = data.reshape(-1, size)
        still = blocks[(blocks[:, scale] == 0) & (blocks[:, scale + 1] & 0x7F == 0), first:last]
        lost += int((still != still[:, :1]).any(axis=1).sum())
    return (lost, tensor.nbytes // size, "blocks") if lost else None


def _groups(tensor: Tensor) -> tuple[int, int, str] | None:
    """Of a quantized layer of a folder; no quantizer of integers makes a scale of 0, which others divide by."""
    parts, source = tensor.encoding.parts(tensor.shape), tensor.sources.get("scales")
    kind = _FLOATS.get(parts["scales"].dtype.label) if "scales" in parts else None
    if source is None or kind is None or not {"zeros", "qzeros", "g_idx"} & parts.keys():
        return None
    words, bits = kind
    runs = _runs(source, np.dtype(words).itemsize)
    lost = sum(int((data.view(words) & bits == 0).sum()) for data in runs)
    return (lost, source.nbytes // np.dtype(words).itemsize, "groups") if lost else None


def _runs(source: Source, size: int) -> Iterator[NDArray[np.uint8]]:
    """The bytes in runs of whole items."""
    step = max(1, _RUN // size) * size
    for start in range(0, source.nbytes, step):
        yield read(source, start, min(start + step, source.nbytes))
