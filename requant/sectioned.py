"""Rows of a stored tensor as a tensor of its own, read from the same file: an expert of a stack, gate or up of both.

Nothing is decoded: whatever has codes has them still, with the scales that belong to these rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from requant.encodings import Encoding, Shape, rows_of
from requant.encodings.companions import Companioned
from requant.encodings.compressed import Packed
from requant.encodings.scaled import Scaled
from requant.ir import Tensor
from requant.sources import Bytes, FileSlice, Memory, Source


def sectioned(tensor: Tensor, start: int, stop: int) -> Tensor | None:
    """The rows `[start, stop)` as a matrix, or as a stack where they are several matrices; None where a scale, or a
    byte, belongs to them and to others besides."""
    shape = _shape(tensor.shape, start, stop)
    encoding = None if shape is None else _encoding(tensor.encoding, tensor.shape, shape)
    if shape is None or encoding is None:
        return None
    sources: dict[str, Source] = {}
    made, rows = encoding.parts(shape), range(start, stop)
    for name, part in tensor.parts.items():
        if isinstance(encoding, Packed) and name == "shape":
            sources[name] = Memory(np.array(shape, made[name].dtype.numpy).tobytes())
            continue
        together = _together(encoding) if name in ("scales", "zeros") else 1
        place = _place(part.nbytes, made[name].nbytes, tensor.shape, rows, together)
        if place is None:
            return None
        sources[name] = _cut(tensor.sources[name], place, made[name].nbytes)
    return Tensor(tensor.name, shape, encoding, sources)


def _shape(whole: Shape, start: int, stop: int) -> Shape | None:
    """[rows, columns], or whole matrices of a stack."""
    if len(whole) not in (2, 3) or not 0 <= start < stop <= rows_of(whole):
        return None
    height, count = whole[-2], stop - start
    if len(whole) == 2 or start // height == (stop - 1) // height:
        return (count, whole[-1])
    return None if start % height or stop % height else (count // height, *whole[1:])


def _encoding(encoding: Encoding, whole: Shape, shape: Shape) -> Encoding | None:
    """How these rows are stored, if it is known where the numbers of rows lie."""
    if isinstance(encoding, Scaled) and encoding.whole_form in ("matrices", "halves"):
        return replace(encoding, whole_form="one") if len(shape) == 2 else None
    if isinstance(encoding, Packed) and len(shape) == 2 and shape[0] < whole[-2] and not encoding.symmetric:
        aligned = encoding.plain_zeros or shape[0] * encoding.bits % 32 == 0
        return encoding if aligned else None
    return encoding if encoding.sliced or isinstance(encoding, Scaled | Packed | Companioned) else None


def _together(encoding: Encoding) -> int:
    """Rows that share a row of scales; 0 for all of a matrix."""
    if isinstance(encoding, Packed):
        return encoding.rows if encoding.group else 0
    if isinstance(encoding, Scaled):
        return 0 if encoding.form in ("one", "scalar") else encoding.rows
    return 1


def _place(whole: int, nbytes: int, shape: Shape, rows: range, together: int) -> int | None:
    """Where the bytes of these rows begin in a part of `whole` bytes.

    shape: of the whole tensor. together: rows that share a row of the part; 0 for all of a matrix.
    """
    height, count = shape[-2], rows_of(shape) // shape[-2]
    if nbytes == whole:  # one for all
        return 0
    if together == 1 and nbytes * rows_of(shape) == whole * len(rows):
        first, rest = divmod(rows.start * whole, rows_of(shape))
        return None if rest else first
    matrix, row = divmod(rows.start, height)
    if together > 1 and row % together == 0 and (rows.stop % height == 0 or rows.stop % height % together == 0):
        blocks = -(-height // together)
        return whole // (count * blocks) * (matrix * blocks + row // together)
    if together > 1:
        return None
    if whole == nbytes * count:  # as many for each matrix
        return nbytes * matrix
    half = 2 * row // height
    apart = whole == 2 * nbytes * count and half == 2 * (row + len(rows) - 1) // height  # as many for each half
    return nbytes * (2 * matrix + half) if apart else None


def _cut(source: Source, start: int, nbytes: int) -> Source:
    if start == 0 and nbytes == source.nbytes:
        return source
    if isinstance(source, FileSlice):
        return replace(source, offset=source.offset + start, nbytes=nbytes)
    return Cut(source, start, nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A stretch of what is no plain stretch of a file: the bytes `[start, start + nbytes)` of `source`."""

    source: Source
    start: int
    nbytes: int

    @property
    def file(self) -> Source:
        """What must not change meanwhile, if anything."""
        found: Source = getattr(self.source, "file", self.source)
        return found

    def read_into(self, start: int, out: Bytes) -> None:
        """As the source reads."""
        self.source.read_into(self.start + start, out)
