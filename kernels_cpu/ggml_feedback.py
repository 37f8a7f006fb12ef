"""Error feedback into ggml's blocks: what the scales of a block allow, and codes put into blocks that have scales.

A block with the codes 0 and one with the largest, both decoded, tell step and base of each of its groups: no type's
scales are taken apart here. Source of the layouts: ggml/src/ggml-common.h, as in ggml_decode.py and ggml_codes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Correction, Values
from requant.kernels_cpu.feedback import Corrected, Grid
from requant.kernels_cpu.ggml_iq4 import LEVELS

Codes = NDArray[np.uint8]
#: Makes one block of each row [rows, values], weighing the errors of columns: [rows, bytes].
Encode = Callable[[Values, Values], Codes]
Kernel = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Codable:
    """A block type whose codes stand for multiples of a step.

    group: values that share one. put: codes [rows, values] into blocks [rows, bytes]. levels: see `Grid`.
    """

    group: int
    top: int
    put: Callable[[Codes, Codes], None]
    levels: Values | None = None

    def grid(self, blocks: Codes, values: int, decode: Kernel) -> Grid:
        """What each block allows."""
        probe, span = self.top, self.top
        if self.levels is not None:  # their bases are 0: a step is what the level 1 stands for
            probe, span = int(np.flatnonzero(self.levels == 1)[0]), 1
        found = []
        for code in (0, probe):
            filled, numbers = blocks.copy(), np.empty((len(blocks), values), np.float32)
            self.put(np.full((len(blocks), values), code, np.uint8), filled)
            decode(filled.reshape(-1), numbers.reshape(-1))
            found.append(numbers[:, :: self.group])
        bases = found[0] if self.levels is None else np.zeros_like(found[0])
        steps = (found[1] - bases) / np.float32(span)
        return Grid(steps, bases, np.arange(values, dtype=np.int32) // self.group, self.top, self.levels)


def encode_corrected(
    values: Values, correction: Correction, how: Codable, encode: Encode, decode: Kernel, out: Codes
) -> None:
    """Rows into blocks [rows, blocks, bytes]. encode: one block of each row, as without feedback."""
    state, weights = Corrected(values, correction.factor), correction.weights
    size = values.shape[1] // out.shape[1]
    for number in range(out.shape[1]):
        first, last = number * size, (number + 1) * size
        blocks = encode(state.block(first, last), weights[first:last])
        how.put(state.round(first, last, how.grid(blocks, size, decode)), blocks)
        out[:, number] = blocks


def _joined(halves: NDArray[Any]) -> NDArray[Any]:
    """[rows, pairs, 2, values] of codes below 16 as bytes: the first of each pair in low halves."""
    found: NDArray[Any] = halves[:, :, 0] | halves[:, :, 1] << 4
    return found.reshape(len(halves), -1)


def _nibbles(codes: NDArray[Any]) -> NDArray[Any]:
    """[rows, 32 n] as bytes [rows, 16 n]: the first 16 of 32 in low halves."""
    return _joined(codes.reshape(len(codes), -1, 2, 16))


def _pairs(codes: NDArray[Any]) -> NDArray[Any]:
    """Low nibbles of 64 values as 32 bytes: those of the first 32 in low halves."""
    return _joined(codes.reshape(len(codes), -1, 2, 32))


def _planes(codes: NDArray[Any], bits: int) -> NDArray[Any]:
    """[rows, groups, 32] of codes below 2**bits as 32 bytes for each 8 // bits groups, the first in the lowest bits."""
    groups = codes.reshape(len(codes), -1, 8 // bits, 32).astype(np.uint16)
    shifts = bits * np.arange(8 // bits, dtype=np.uint16)[:, None]
    joined: NDArray[Any] = np.bitwise_or.reduce(groups << shifts, axis=2)
    return joined.astype(np.uint8).reshape(len(codes), -1)


def _bits(codes: NDArray[Any]) -> NDArray[Any]:
    return np.packbits(codes, axis=-1, bitorder="little")


def _put_legacy(at: int, high: int = 0) -> Callable[[Codes, Codes], None]:
    """Nibbles from byte `at` on; fifth bits, if any, from `high` on."""

    def put(codes: Codes, blocks: Codes) -> None:
        blocks[:, at : at + 16] = _nibbles(codes & 15)
        if high:
            blocks[:, high : high + 4] = _bits(codes >> 4)

    return put


def _put_q8_0(codes: Codes, blocks: Codes) -> None:
    blocks[:, 2:] = codes ^ 128


def _put_q2_k(codes: Codes, blocks: Codes) -> None:
    blocks[:, 16:80] = _planes(codes, 2)


def _put_q3_k(codes: Codes, blocks: Codes) -> None:
    blocks[:, :32] = _planes(codes >> 2, 1)
    blocks[:, 32:96] = _planes(codes & 3, 2)


def _put_q4_k(codes: Codes, blocks: Codes) -> None:
    blocks[:, 16:144] = _pairs(codes)


def _put_q5_k(codes: Codes, blocks: Codes) -> None:
    blocks[:, 16:48] = _planes(codes >> 4, 1)
    blocks[:, 48:176] = _pairs(codes & 15)


def _put_q6_k(codes: Codes, blocks: Codes) -> None:
    blocks[:, :128] = _joined((codes & 15).reshape(len(codes), 2, 2, 64))  # of 128, the last 64 lie above the first
    blocks[:, 128:192] = _planes(codes >> 4, 2)


def _put_iq4_xs(codes: Codes, blocks: Codes) -> None:
    blocks[:, 8:136] = _nibbles(codes)


_LEVELS: Final = np.asarray(LEVELS, np.float32)
#: The types that feedback goes into.
CODABLE: Final[Mapping[str, Codable]] = {
    "Q4_0": Codable(32, 15, _put_legacy(2)),
    "Q4_1": Codable(32, 15, _put_legacy(4)),
    "Q5_0": Codable(32, 31, _put_legacy(6, 2)),
    "Q5_1": Codable(32, 31, _put_legacy(8, 4)),
    "Q8_0": Codable(32, 255, _put_q8_0),
    "Q2_K": Codable(16, 3, _put_q2_k),
    "Q3_K": Codable(16, 7, _put_q3_k),
    "Q4_K": Codable(32, 15, _put_q4_k),
    "Q5_K": Codable(32, 31, _put_q5_k),
    "Q6_K": Codable(16, 63, _put_q6_k),
    "IQ4_NL": Codable(32, 15, _put_legacy(2), _LEVELS),
    "IQ4_XS": Codable(32, 15, _put_iq4_xs, _LEVELS),
}
