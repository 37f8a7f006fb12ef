"""How the zero points of a GPTQ layer are written, told by their words.

Symmetric layers have one zero, 2**(bits - 1), whose words are as good as a signature of the writer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.encodings.gptq import OLD_THREE_BITS, PLANES, Zeros
from requant.errors import UnsupportedError
from requant.ir import Tensor
from requant.sources import read

Words = NDArray[np.uint32]

#: The largest array of zeros that is read: of a layer of 1.6e10 weights in groups of 128.
_MAX_BYTES: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class Found:
    """What words of zeros say; zeros is None when they leave the version open."""

    symmetric: bool
    zeros: Zeros | None
    planar: bool


def read_words(zeros: Tensor, path: Path) -> Words:
    """All words of `qzeros`."""
    if zeros.nbytes > _MAX_BYTES:
        raise UnsupportedError(f"{path}: {zeros.name!r} has {zeros.nbytes} bytes of zero points, beyond {_MAX_BYTES}")
    return read(zeros.sources["data"]).view("<u4").reshape(zeros.shape)


def recognize(words: Words, bits: int, outputs: int, *, planar: bool) -> Found:
    """Compare with the words of a symmetric layer in every way it may have been written.

    words: [groups, words]. outputs: of the layer; what fills the last word counts for nothing.
    """
    middle = 1 << (bits - 1)
    planes = [True] if bits in (5, 6, 7) else [planar, not planar] if bits == 3 else [False]
    for split in planes:
        for zeros, code in ((Zeros.V1, middle - 1), (Zeros.V2, middle)):
            if _all_equal(words, _pattern(bits, code, split), bits * outputs):
                return Found(True, zeros, split)
    if bits == 3:
        old = [(word - taken) & 0xFFFFFFFF for word, taken in zip(_pattern(3, 4, False), OLD_THREE_BITS, strict=True)]
        if _all_equal(words, old, bits * outputs):
            return Found(True, Zeros.V1_OLD, False)
    return Found(False, None, planes[0])


def damaged_words(words: Words, bits: int) -> int:
    """How many words end in several codes of ones only, as AutoGPTQ leaves them after a zero of 0.

    It takes one off 0 and packs the result unmasked, so that every later code of the word is lost. Other writers
    make such a word only of the zeros 0, 1, 1, …
    """
    length = max(3 * bits, 8)
    return int(np.count_nonzero(words >> np.uint32(32 - length) == (1 << length) - 1))


def first_codes(weight: Tensor, zeros: Words, bits: int, outputs: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The codes of the first `count` inputs [count, outputs], and all zeros as stored [groups, outputs]."""
    columns = weight.shape[1]
    rows = min(weight.shape[0], -(-count * bits // 32))
    words = read(weight.sources["data"], 0, 4 * rows * columns).view("<u4").reshape(rows, columns)
    return _stream(words, bits, count), _stream(np.ascontiguousarray(zeros.T), bits, outputs).T


def _stream(words: Words, bits: int, count: int) -> NDArray[np.int64]:
    """Codes that run down the columns of words, without gaps."""
    wide = np.vstack([words, np.zeros((1, words.shape[1]), np.uint32)]).astype(np.uint64)
    place = np.arange(count) * bits
    pairs = wide[place >> 5] | wide[(place >> 5) + 1] << np.uint64(32)
    codes = pairs >> (place & 31).astype(np.uint64)[:, None] & np.uint64((1 << bits) - 1)
    return np.asarray(codes, np.int64)


def _pattern(bits: int, code: int, planar: bool) -> list[int]:
    """The words of 32 equal codes."""
    if not planar:
        stream = sum(code << bits * k for k in range(32))
        return [stream >> 32 * k & 0xFFFFFFFF for k in range(bits)]
    words: list[int] = []
    for width, place in PLANES[bits]:
        field = code >> place & ((1 << width) - 1)
        words += [sum(field << width * k for k in range(32 // width))] * width
    return words


def _all_equal(words: Words, pattern: list[int], used: int) -> bool:
    """Whether the first `used` bits of every row repeat the pattern."""
    columns = words.shape[1]
    expected = np.resize(np.array(pattern, np.uint32), columns)
    mask = np.full(columns, 0xFFFFFFFF, np.uint32)
    if used % 32:
        mask[-1] = (1 << used % 32) - 1
    return not ((words ^ expected) & mask).any()
