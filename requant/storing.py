"""Rows of a step as the target's encoding stores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codes, CodesCodec, CorrectingCodec, NeedsLargest, Parts, Values, codec_for
from requant.encodings import rows_of
from requant.expressions import Form, Node, Reduction, Scratch
from requant.parts import part_slice
from requant.plan import Step


class Largest(Reduction):
    """The largest size of any finite number of a tensor."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The tensor."""
        return (self._node,)

    def part(self, values: Sequence[Values], rows: range, known: Sequence[Any]) -> float:
        """Of a slab; a number that is none is looked for when it is stored."""
        (slab,) = values
        largest = max(float(slab.max()), -float(slab.min())) if slab.size else 0.0
        return largest if np.isfinite(largest) else float(np.abs(slab[np.isfinite(slab)]).max(initial=0))

    def merge(self, one: float, other: float) -> float:
        """The larger."""
        return max(one, other)

    def result(self, total: float | None) -> float:
        """0 where there is nothing."""
        return total or 0.0


class Storing:
    """The second half of a step, from rows to stored parts; safe to use from many threads."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self._codec = codec_for(step.target.encoding)

    def reductions(self) -> tuple[Reduction, ...]:
        """What must be known of all values before the first is stored."""
        whole = not self.step.target.encoding.sliced and self.step.form is Form.VALUES
        needs = whole and isinstance(self._codec, NeedsLargest)
        return (Largest(self.step.values),) if needs else ()

    def whole_parts(self, known: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Room for all parts, for encodings whose rows cannot be stored apart. known: what `reductions` have found."""
        parts: dict[str, NDArray[Any]] = {
            name: np.zeros(part.shape if part.dtype.bits >= 8 else part.nbytes, part.dtype.numpy)
            for name, part in self.step.target.parts.items()
        }
        if known:
            assert isinstance(self._codec, NeedsLargest)
            self._codec.begin(known[0], parts)
        return parts

    def new_parts(self, start: int, stop: int, scratch: Scratch) -> dict[str, NDArray[Any]]:
        """Room for the parts of rows `[start, stop)` of a sliced target."""
        parts: dict[str, NDArray[Any]] = {}
        for name, part in self.step.target.parts.items():
            begin, end = part_slice(self.step.target, part, start, stop)
            parts[name] = scratch.bytes(end - begin).view(part.dtype.numpy).reshape(stop - start, -1)
        return parts

    def pack(self, codes: Codes, out: Parts, at: int) -> None:
        """Store integers; `out` is filled from its row `at` on."""
        assert isinstance(self._codec, CodesCodec)
        self._codec.pack(codes, out, at)

    def encode(self, values: Values, start: int, out: Parts, at: int) -> None:
        """Store float32 rows, the first of which is row `start` of the tensor, from row `at` of `out` on."""
        if self.step.corrections is None:
            self._codec.encode(values, out, at, self._importance(start, len(values)))
            return
        per_matrix = rows_of(self.step.target.shape) // len(self.step.corrections.hessians)
        done = 0
        while done < len(values):
            matrix = (start + done) // per_matrix
            last = min(len(values), (matrix + 1) * per_matrix - start)
            self._encode_corrected(matrix, values[done:last], start + done, out, at, done)
            done = last

    def _encode_corrected(self, matrix: int, values: Values, start: int, out: Parts, at: int, done: int) -> None:
        """Rows of one matrix, as the rows from `at + done` of `out` on."""
        assert self.step.corrections is not None and isinstance(self._codec, CorrectingCodec)
        place = at + done
        if self.step.target.encoding.sliced:
            out, place = {name: part[done : done + len(values)] for name, part in out.items()}, at
        correction = self.step.corrections.of(matrix)
        if correction is None:
            self._codec.encode(values, out, place, self._importance(start, len(values)))
        else:
            self._codec.encode_corrected(values, out, place, correction)

    def decoded(self, out: Parts, at: int, again: Values) -> None:
        """What was just encoded, as a reader will see it."""
        self._codec.decode(out, again, at)

    def _importance(self, start: int, rows: int) -> Values | None:
        """The importance of each column, for the matrix (of a stack of experts) that the run lies in."""
        importance = self.step.importance
        if importance is None or importance.ndim == 1:
            return importance
        per_matrix = rows_of(self.step.target.shape) // len(importance)
        which = np.arange(start, start + rows) // per_matrix
        chosen: Values = importance[which[0] if which[0] == which[-1] else which]
        return np.ascontiguousarray(chosen)
