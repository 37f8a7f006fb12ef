"""A tensor in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, CodesCodec, HalvesCodec, codec_for
from requant.encodings import Encoding, Shape, decoding_granule, exactness
from requant.expressions.context import Context
from requant.expressions.factors import Factors, Products
from requant.expressions.form import Form, is_half
from requant.expressions.granules import InGranules
from requant.expressions.node import Node
from requant.ir import Tensor
from requant.parts import part_slice
from requant.sectioned import sectioned


@lru_cache(1024)  # a plan asks for the same few pairs thousands of times
def _forms(source: Encoding, target: Encoding, plain: bool) -> Form:
    """As what rows stored as `source` can be read for a `target`. plain: they have one part, `data`."""
    forms = Form.VALUES
    if plain and source == target and source.sliced:
        forms |= Form.BYTES
    if is_half(target) and exactness.values_of(source) == target:
        forms |= Form.HALVES
    return forms | Form.CODES if exactness.takes_codes(source, target) else forms


@dataclass(frozen=True, slots=True)
class Stored(InGranules):
    """The only leaf: a stored tensor as it is."""

    tensor: Tensor

    @property
    def shape(self) -> Shape:
        """Its own."""
        return self.tensor.shape

    @property
    def children(self) -> tuple[Node, ...]:
        """None."""
        return ()

    def over(self, children: Sequence[Node]) -> Node:
        """Itself."""
        return self

    def explain(self) -> str:
        """Its name."""
        return self.tensor.name

    def leaves(self) -> tuple[Tensor, ...]:
        """The tensor."""
        return (self.tensor,)

    def encodings(self) -> tuple[Encoding, ...]:
        """The tensor's."""
        return (self.tensor.encoding,)

    def product(self, of: Products) -> Factors | None:
        """By its name."""
        return of.get(self.tensor.name)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Node:
        """Another tensor."""
        return Stored(change(self.tensor))

    def grafted(self, change: Callable[[Tensor], Node]) -> Node:
        """What takes its place."""
        return change(self.tensor)

    def forms(self, target: Encoding) -> Form:
        """What its encoding can be read as."""
        return _forms(self.tensor.encoding, target, self.tensor.sources.keys() == {"data"})

    def holds(self, target: Encoding) -> bool:
        """As the encodings say."""
        return exactness.holds(self.tensor.encoding, target)

    @property
    def verbatim(self) -> Tensor | None:
        """The tensor."""
        return self.tensor

    def origin(self, row: int) -> tuple[Tensor, int] | None:
        """The row itself."""
        return self.tensor, row

    def section(self, start: int, stop: int) -> Node:
        """They become a tensor of their own where, to read one, the whole tensor would be."""
        narrow = None if self.tensor.encoding.sliced else sectioned(self.tensor, start, stop)
        return InGranules.section(self, start, stop) if narrow is None else Stored(narrow)

    @property
    def granule(self) -> int:
        """What its encoding decodes at once."""
        return max(1, min(decoding_granule(self.tensor.encoding, self.shape), self.rows))

    def granule_bytes(self, form: Form, rows: int, width: int) -> int:
        """Rows as they are stored, and as float32 on their way to halves."""
        if self._stored_as(form):
            return 0
        stored = self.tensor.nbytes * rows // max(self.rows, 1) if self.tensor.encoding.sliced else 0
        parts = 64 * len(self.tensor.parts)
        return stored + parts + (4 * self.columns * rows if form is Form.HALVES else 0)

    def fill_granules(self, form: Form, start: int, stop: int, out: NDArray[Any], context: Context) -> None:
        """Read; and decoded, unless they are stored in that form."""
        if self._stored_as(form):
            begin, _ = part_slice(self.tensor, self.tensor.parts["data"], start, stop)
            self.tensor.sources["data"].read_into(begin, out.reshape(-1).view(np.uint8))
            return
        codec = codec_for(self.tensor.encoding)
        with context.scratch.room() as scratch:
            parts, first = self._parts(start, stop, context)
            if form is Form.VALUES:
                codec.decode(parts, out, first)
            elif isinstance(codec, HalvesCodec):
                codec.decode_halves(parts, out, first)
            else:  # it has float32 only, each of which is a half
                values = scratch.values(len(out), self.columns)
                codec.decode(parts, values, first)
                codec_for(exactness.values_of(self.tensor.encoding)).encode(values, {"data": out})

    def _stored_as(self, form: Form) -> bool:
        """Whether rows of this form are what the file has."""
        return form is Form.BYTES or (form is Form.HALVES and is_half(self.tensor.encoding))

    def codes_of_granules(self, start: int, stop: int, context: Context) -> Codes:
        """Unpacked."""
        codec = codec_for(self.tensor.encoding)
        assert isinstance(codec, CodesCodec)
        with context.scratch.room():
            parts, first = self._parts(start, stop, context)
            return codec.unpack(parts, stop - start, first)

    def codes(self, rows: range, context: Context) -> Codes:
        """Rows between those that are wanted are read, and not unpacked where they are stored apart."""
        if rows.step == 1 or self.granule > 1 or not self.tensor.encoding.sliced:
            return InGranules.codes(self, rows, context)
        codec = codec_for(self.tensor.encoding)
        assert isinstance(codec, CodesCodec)
        with context.scratch.room():
            parts, _ = self._parts(*self._covering(rows), context)
            wanted = {name: np.ascontiguousarray(part[:: rows.step]) for name, part in parts.items()}
            return codec.unpack(wanted, len(rows))

    def _parts(self, start: int, stop: int, context: Context) -> tuple[Mapping[str, NDArray[Any]], int]:
        """The stored arrays that rows `[start, stop)` are in, and the number of the first in them."""
        if not self.tensor.encoding.sliced:
            return context.held(self.tensor), start
        parts: dict[str, NDArray[Any]] = {}
        for name, part in self.tensor.parts.items():
            begin, end = part_slice(self.tensor, part, start, stop)
            data = context.scratch.bytes(end - begin)
            self.tensor.sources[name].read_into(begin, data)
            parts[name] = data.view(part.dtype.numpy).reshape(stop - start, -1)
        return parts, 0
