"""Stored parts to float32 rows and back; the only door to the kernels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Dense, Encoding
from requant.errors import UnsupportedError

#: The stored arrays of a tensor (or of a run of its rows) as numpy arrays of `PartSpec.dtype.numpy`.
Parts = Mapping[str, NDArray[np.generic]]
Values = NDArray[np.float32]
#: F16 or BF16 numbers as their bits.
Halves = NDArray[np.uint16]


class Codec(Protocol):
    """One encoding's arithmetic.

    Values are contiguous float32 matrices [rows, columns]: all leading dimensions of the tensor count as rows.
    For a *sliced* encoding `parts` are those of the run itself and `start` is 0; otherwise `parts` are those of the
    whole tensor and the run begins at row `start`. Calls release the GIL and run in many threads at once.
    """

    def decode(self, parts: Parts, out: Values, start: int = 0) -> None:
        """Fill `out` with the rows `[start, start + len(out))`."""
        ...

    def encode(self, values: Values, out: Parts, start: int = 0, importance: Values | None = None) -> None:
        """Store `values` as the rows from `start` on.

        importance: [columns] or [rows, columns] float32, how much each column's error matters; None for all alike.
        """
        ...


@dataclass(slots=True)
class Codes:
    """A run of rows as integers, before any arithmetic: what repacks between quantized encodings carry over.

    codes: [rows, columns] uint8, as stored (unsigned). scales: [rows, groups] float32, each exactly a value of the
    stored dtype. zeros: [rows, groups] float32; value = (code - zero) * scale. For 4-bit floats the codes are
    E2M1 patterns and zeros is empty. groups: [columns] int32, the group of each column; None when consecutive runs
    of columns / groups columns make a group. offsets: [rows, groups] float32 where there are no zeros but
    value = code * scale + offset; zeros is empty then. whole: by what every value is multiplied besides, in double
    precision, so that the inverse of an inverse is the float32 it was.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.float32]
    groups: NDArray[np.int32] | None = None
    offsets: NDArray[np.float32] | None = None
    whole: float = 1.0

    def by_row(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Codes:
        """The same with `change` done to every array that has a row for each row of the tensor."""
        made = copy(self)
        for name in _ROW_ARRAYS:
            if (array := getattr(self, name)) is not None:
                setattr(made, name, np.ascontiguousarray(change(array)))
        return made

    @staticmethod
    def placed(runs: Sequence[tuple[Codes, slice]], rows: int) -> Codes:
        """Several runs as one of `rows` rows, each where its slice says.

        They may come from several encodings: scales of wide groups are repeated, and zeros are offsets where any run
        has offsets. The order of columns (`groups`) is that of the first: no encoding of two orders is taken as codes.
        """
        groups = max(codes.scales.shape[1] for codes, _ in runs)
        by_offset = any(codes.offsets is not None for codes, _ in runs)
        alike = [(codes._said(groups, by_offset), where) for codes, where in runs]
        made = copy(alike[0][0])
        for name in _ROW_ARRAYS:
            if (array := getattr(made, name)) is not None:
                placed = np.empty((rows, *array.shape[1:]), array.dtype)
                for codes, where in alike:
                    placed[where] = getattr(codes, name)
                setattr(made, name, placed)
        return made

    def _said(self, groups: int, by_offset: bool) -> Codes:
        """The same in `groups` groups, a multiple of its own; zeros are offsets, -zero * scale, if asked."""
        made = copy(self)
        if (times := groups // max(self.scales.shape[1], 1)) > 1:
            for name in _ROW_ARRAYS[1:]:
                if (array := getattr(self, name)) is not None:
                    setattr(made, name, np.repeat(array, times, axis=1))
        if by_offset and made.offsets is None:
            made.offsets, made.zeros = -made.zeros * made.scales, np.empty((len(made.scales), 0), np.float32)
        return made


#: The fields of `Codes` that are arrays with as many rows as the tensor; where they are empty, they have no columns.
_ROW_ARRAYS: Final = ("codes", "scales", "zeros", "offsets")


@runtime_checkable
class CodesCodec(Codec, Protocol):
    """A codec whose encoding is integers with scales: it can also be read and written without rounding."""

    def unpack(self, parts: Parts, rows: int, start: int = 0) -> Codes:
        """The rows `[start, start + rows)` as integers; `parts` as for `decode`."""
        ...

    def pack(self, codes: Codes, out: Parts, start: int = 0) -> None:
        """Store integers as the rows from `start` on; the inverse of `unpack`."""
        ...


@runtime_checkable
class HalvesCodec(Codec, Protocol):
    """A codec whose values are F16 or BF16 numbers (its encoding's `values`), and which can write them as such."""

    def decode_halves(self, parts: Parts, out: Halves, start: int = 0) -> None:
        """Fill `out` with the rows `[start, start + len(out))`: the numbers that `decode` gives, as their bits."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """How the columns after one make up for its error.

    factor: [columns, columns] float32, the upper Cholesky factor of the inverse of E[x xᵀ], in the order in which
    columns are rounded. order: [columns] int32, which column comes when; None as they lie. static: groups and scales
    are those of columns as they lie, whatever the order. minmax: scales are from the smallest and largest value.
    """

    factor: Values
    order: NDArray[np.int32] | None = None
    static: bool = False
    minmax: bool = False

    @property
    def weights(self) -> Values:
        """What an error of each column costs, in the order of the factor, once those after it have made up for it."""
        return np.ascontiguousarray(1 / np.square(np.diagonal(self.factor)), np.float32)


@runtime_checkable
class CorrectingCodec(Codec, Protocol):
    """A codec that can round with error feedback."""

    def encode_corrected(self, values: Values, out: Parts, start: int, correction: Correction) -> None:
        """As `encode`; all rows are of the matrix that the correction is of."""
        ...


@runtime_checkable
class NeedsLargest(Codec, Protocol):
    """A codec that must know the largest size of a whole tensor before it encodes the first row."""

    def begin(self, largest: float, out: Parts) -> None:
        """Store what follows from it; `out` are the parts of the whole tensor."""
        ...


#: Name of an encoding's class -> (module, function taking the encoding): neither numba nor encodings that a model does
#: not have are imported before a codec is asked for.
_CODECS: Final[Mapping[str, tuple[str, str]]] = {
    "Dense": ("requant.kernels_cpu.dense", "dense_codec"),
    "Blocks": ("requant.kernels_cpu.ggml", "block_codec"),
    "FourBit": ("requant.kernels_cpu.bitsandbytes", "four_bit_codec"),
    "RowInt8": ("requant.kernels_cpu.bitsandbytes", "int8_codec"),
    "Exl2": ("requant.kernels_cpu.exl2", "exl2_codec"),
    "Gptq": ("requant.kernels_cpu.gptq", "gptq_codec"),
    "Awq": ("requant.kernels_cpu.awq", "awq_codec"),
    "Marlin": ("requant.kernels_cpu.awq", "marlin_codec"),
    "Packed": ("requant.kernels_cpu.compressed", "packed_codec"),
    "RowPairs": ("requant.kernels_cpu.compressed", "row_pairs_codec"),
    "Hqq": ("requant.kernels_cpu.hqq", "hqq_codec"),
    "MlxAffine": ("requant.kernels_cpu.mlx", "mlx_affine_codec"),
    "Marlin24": ("requant.kernels_cpu.sparse", "marlin24_codec"),
    "Bitmask": ("requant.kernels_cpu.sparse", "bitmask_codec"),
    "Scaled": ("requant.kernels_cpu.scaled_codec", "scaled_codec"),
    "Turned": ("requant.kernels_cpu.turned", "turned_codec"),
    "Smoothed": ("requant.kernels_cpu.smoothed", "smoothed_codec"),
    "Companioned": ("requant.kernels_cpu.companions", "companioned_codec"),
}


@lru_cache(1024)  # every run of every tensor asks
def codec_for(encoding: Encoding) -> Codec:
    """The codec of `encoding`; raises `UnsupportedError` when there is none."""
    kind = type(encoding).__name__
    if kind not in _CODECS:
        raise UnsupportedError(f"there are no kernels for {encoding.label}")
    module, function = _CODECS[kind]
    described = encoding.dtype if isinstance(encoding, Dense) else encoding
    codec: Codec = getattr(importlib.import_module(module), function)(described)
    return codec
