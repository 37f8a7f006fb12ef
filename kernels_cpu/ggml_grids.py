"""The codebooks of ggml's IQ types, and the neighbours of points that are not in them.

An IQ type stores a group of values (eight, in the 3-bit types four) as the index of a point of its *grid*. The grids
are read from the `gguf` package, on first use: importing it takes 0.1 s. What ggml builds from them when it first
quantizes (`iq2xs_init_impl`, `iq3xs_init_impl` of ggml-quants.c) is built here with every list in the same order.

A point is a *code*: coordinate i in bits [i * bits, (i + 1) * bits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.kernels_cpu.kept import Kept


@dataclass(frozen=True, slots=True)
class Grid:
    """One codebook.

    packed: uint64 [points], the values a point decodes to as bytes, the first in the lowest.
    codes: uint16 [points].
    """

    dimensions: int
    bits: int
    packed: NDArray[np.uint64]
    codes: NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Where to look for the point nearest to a code.

    span: int32 [codes], for code u, numbered in base `levels` (sum of u[i] * levels**i): in bit 0 whether it is in the
    grid, from bit 1 on the number of its candidates, from bit 10 on an eighth of the place of its first candidate.
    near: uint16, the candidates of each code in ggml's order, filled up to eights with 65535: a code of the grid is its
    own only one. At the end there are eight more, so that sixteen can be read at once.
    index: uint16 [2 ** (bits * dimensions)], the grid's index of each of its codes.
    """

    span: NDArray[np.int32]
    near: NDArray[np.uint16]
    index: NDArray[np.uint16]

    @property
    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.uint16], NDArray[np.uint16]]:
        """As kernels take them."""
        return self.span, self.near, self.index


#: Coordinates take 3 or 8 levels; ggml looks for neighbours in this many shells of equal distance.
_LEVELS: Final[Mapping[int, int]] = {2: 3, 3: 8}
_SHELLS: Final[Mapping[str, int]] = {"IQ2_XXS": 2, "IQ2_XS": 2, "IQ2_S": 1, "IQ1_S": 3, "IQ3_XXS": 2, "IQ3_S": 3}

#: Codes that are looked at together, and the most candidates that one of them may have.
_CHUNK: Final = 512
_MOST: Final = 512

_group: Final = Kept("ggml_shells", "group")


@cache
def grid_of(label: str) -> Grid:
    """The codebook of a type; IQ1_M has that of IQ1_S. Its levels -1, 0, 1 are packed as 0, 1, 2."""
    from gguf import quants

    source = getattr(quants, label)
    source.init_grid()
    values = source.grid.reshape(source.grid_shape).astype(np.int64)
    dimensions = values.shape[1]
    bits = 2 if dimensions == 8 else 3
    levels = np.searchsorted(np.array(source.grid_map), values)
    stored = levels if label == "IQ1_S" else values
    places = np.arange(dimensions)
    packed = (stored.astype(np.uint64) << (8 * places).astype(np.uint64)).sum(1, dtype=np.uint64)
    return Grid(dimensions, bits, packed, (levels << bits * places).sum(1).astype(np.uint16))


@cache
def neighbours_of(label: str) -> Neighbours:
    """The neighbours in the grid of a type; tenths of a second of work, kept."""
    grid = grid_of(label)
    total = _LEVELS[grid.bits] ** grid.dimensions
    span, near = np.empty(total, np.int32), []
    buffer, first = np.empty(_CHUNK * _MOST, np.uint16), 0
    for start in range(0, total, _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, total))
        part = span[start : start + len(numbers)]
        _group(_distances(grid, numbers).reshape(-1), grid.codes, _SHELLS[label], buffer, part)
        used = ((part[-1] >> 10) + ((part[-1] >> 1 & 511) + 7) // 8) * 8
        part += first // 8 << 10
        first += used
        near.append(buffer[:used].copy())
    near.append(np.zeros(8, np.uint16))
    index = np.zeros(1 << grid.bits * grid.dimensions, np.uint16)
    index[grid.codes] = np.arange(len(grid.codes))
    return Neighbours(span, np.concatenate(near), index)


def _distances(grid: Grid, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Squared distances, in steps between levels, from codes numbered in base `levels` to the points of the grid."""
    places, levels = np.arange(grid.dimensions), _LEVELS[grid.bits]
    points = (grid.codes[:, None] >> grid.bits * places & (1 << grid.bits) - 1).astype(np.float32)
    codes = (numbers[:, None] // levels**places % levels).astype(np.float32)
    squares: NDArray[np.float32] = (codes**2).sum(1)[:, None] + (points**2).sum(1) - 2 * codes @ points.T
    return squares.astype(np.uint8)  # whole numbers, at most 4 * 7**2


class _Tabled:
    """A kernel that takes tables before its output, made on its first call."""

    def __init__(self, kernel: Callable[..., None], tables: Callable[[], tuple[NDArray[Any], ...]]) -> None:
        self.kernel, self.tables = kernel, tables

    def __call__(self, *arguments: Any) -> None:
        """All arguments but the tables."""
        *inputs, out = arguments
        self.kernel(*inputs, *self.tables(), out)


class GridDecoder(_Tabled):
    """A decoder that takes (blocks, packed grid, values)."""

    def __init__(self, kernel: Callable[..., None], label: str) -> None:
        super().__init__(kernel, lambda: (grid_of(label).packed,))


class GridEncoder(_Tabled):
    """An encoder that takes (values, importance, columns, span, near, index, blocks)."""

    def __init__(self, kernel: Callable[..., None], label: str) -> None:
        super().__init__(kernel, lambda: neighbours_of(label).arrays)
