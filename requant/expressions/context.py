"""What is at hand while rows are made: memory to work in, tensors that are held whole, what reductions have found."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Values
from requant.ir import Tensor
from requant.parts import whole_parts
from requant.sources import Bytes

if TYPE_CHECKING:
    from requant.expressions.node import Node

#: Buffers begin at multiples of this many bytes.
_ALIGNED = 64


class Scratch:
    """Memory of one worker, handed out as from a stack and kept between runs: touching fresh memory costs more than
    the arithmetic. Should `nbytes` not suffice, it grows to what the largest run took."""

    def __init__(self, nbytes: int = 0) -> None:
        self._block = _aligned(nbytes)  # pages that nobody touches take no memory
        self._used = 0
        self._wanted = 0

    @contextmanager
    def room(self) -> Iterator[Scratch]:
        """What is taken inside is given back at the end."""
        before = self._used
        try:
            yield self
        finally:
            self._used = before

    @property
    def most(self) -> int:
        """The most bytes that were taken at once."""
        return self._wanted

    def bytes(self, nbytes: int) -> Bytes:
        """A buffer of `nbytes` bytes, aligned to 64; its content is whatever the last user left."""
        if not self._used and self._block.size < self._wanted:
            self._block = _aligned(0)  # let go of it first
            self._block = _aligned(self._wanted)
        start = self._used
        self._used += nbytes + -nbytes % _ALIGNED
        self._wanted = max(self._wanted, self._used)
        if self._used <= self._block.size:
            return self._block[start : start + nbytes]
        return _aligned(nbytes)  # the first run of this size

    def array(self, dtype: np.dtype[Any], rows: int, width: int) -> NDArray[Any]:
        """A matrix."""
        return self.bytes(dtype.itemsize * rows * width).view(dtype).reshape(rows, width)

    def values(self, rows: int, columns: int) -> Values:
        """A float32 matrix."""
        return self.array(np.dtype(np.float32), rows, columns)

    def like(self, out: NDArray[Any], rows: int) -> NDArray[Any]:
        """A matrix of `rows` rows such as those of `out`."""
        return self.array(out.dtype, rows, out.shape[1])


def _aligned(nbytes: int) -> Bytes:
    raw = np.empty(nbytes + _ALIGNED, np.uint8)
    return raw[-raw.ctypes.data % _ALIGNED :][:nbytes]


@dataclass(slots=True)
class Shared:
    """What all workers on one tensor have in common: parts held whole, results of reductions by the node's identity."""

    held: dict[int, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    results: dict[int, list[Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class Context:
    """A worker's view: `scratch` is its own, the rest is shared."""

    scratch: Scratch = field(default_factory=Scratch)
    shared: Shared = field(default_factory=Shared)

    def held(self, tensor: Tensor) -> Mapping[str, NDArray[Any]]:
        """All parts of a tensor whose rows cannot be read apart; they are read once and kept."""
        with self.shared.lock:
            if id(tensor) not in self.shared.held:
                self.shared.held[id(tensor)] = whole_parts(tensor)
            return self.shared.held[id(tensor)]

    def results(self, node: Node) -> Sequence[Any]:
        """What the node's reductions have found, in the order in which it declares them."""
        return self.shared.results.get(id(node), ())
