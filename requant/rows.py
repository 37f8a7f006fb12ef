"""Runs of rows of a step: how they are cut, read from the inputs, and converted.

A tensor of any rank is a matrix here: its last dimension is a row. A run `[start, stop)` of the target's rows
is the unit of work and of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Codec, Codes, CodesCodec, HalvesCodec, NeedsLargest, Parts, Values, codec_for
from requant.encodings import Dense, Encoding, columns_of, decoding_granule, rows_of
from requant.encodings.exactness import values_of
from requant.ir import Tensor
from requant.parts import part_slice, view_part
from requant.plan import Fidelity, Step
from requant.sources import Bytes, read
from requant.transforms import Add, RopeOrder, Rows, Transpose, Unwoven, Woven

#: Values in one run: small enough to stay in the caches of most machines, large enough to hide the overhead of a task.
RUN_VALUES: Final = 1 << 19


class Scratch:
    """Named buffers of one worker, kept between runs: touching fresh memory costs more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, Bytes] = {}

    def bytes(self, name: str, nbytes: int) -> Bytes:
        """A buffer of `nbytes` bytes, aligned to 64; its content is whatever the last user left."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < nbytes:
            raw = np.empty(nbytes + 64, np.uint8)
            buffer = self._buffers[name] = raw[-raw.ctypes.data % 64 :]
        return buffer[:nbytes]

    def values(self, name: str, rows: int, columns: int) -> Values:
        """A float32 matrix."""
        return self.bytes(name, 4 * rows * columns).view(np.float32).reshape(rows, columns)


def upright(step: Step) -> Step:
    """The step with vectors stood up as columns where their values move like rows: a bias in rope order.

    Vectors of one bias for each expert are told from matrices by their length, which changes.
    """
    transforms, shape = step.move.transforms, step.target.shape
    moved = any(isinstance(transform, RopeOrder | Rows | Unwoven | Woven) for transform in transforms)
    resized = columns_of(step.move.inputs[0].shape) != columns_of(shape) and not _turns(step)
    if not moved or not (len(shape) == 1 or resized):
        return step
    inputs = tuple(replace(tensor, shape=(*tensor.shape, 1)) for tensor in step.move.inputs)
    target = replace(step.target, shape=(*step.target.shape, 1))
    return replace(step, move=replace(step.move, shape=target.shape, inputs=inputs), target=target)


def granule_of(step: Step) -> int:
    """Rows of the target that must stay in one run: whole rotary heads, whole blocks of rows of the encodings.

    All rows of a matrix where it is transposed, or where an encoding needs the tensor whole.
    """
    shape = step.target.shape
    if _turns(step):
        return lcm(max(shape[-2], 1), max(step.target.encoding.granule(shape), 1))
    heads = [rows_of(shape) // t.heads for t in step.move.transforms if isinstance(t, RopeOrder)]
    woven = [len(step.move.inputs) for t in step.move.transforms if isinstance(t, Woven)]
    encodings = [step.target.encoding.granule(shape)]
    encodings += [decoding_granule(tensor.encoding, tensor.shape) for tensor in step.move.inputs]
    if woven:  # a granule of each input
        encodings = [woven[0] * n for n in encodings]
    return lcm(*(max(n, 1) for n in (*heads, *woven, *encodings)))


def _turns(step: Step) -> bool:
    return any(isinstance(transform, Transpose) for transform in step.move.transforms)


def rows_per_run(step: Step) -> int:
    """Rows of every run but the last."""
    granule = granule_of(step)
    return granule * max(1, RUN_VALUES // max(1, granule * columns_of(step.target.shape)))


def runs_of(step: Step) -> Iterator[tuple[int, int]]:
    """The runs of a step, in order; none for an empty tensor."""
    rows, length = rows_of(step.target.shape), rows_per_run(step)
    for start in range(0, rows, length):
        yield start, min(rows, start + length)


def run_bytes(step: Step) -> int:
    """Upper bound on a worker's buffers while it does a run of `step`: input, values, reordered values, output."""
    rows = max(rows_of(step.target.shape), 1)
    here = min(rows, rows_per_run(step))
    if step.fidelity is Fidelity.COPY and moves_bytes(step):
        read = max(step.target.nbytes, sum(tensor.nbytes for tensor in step.move.inputs))
        return 2 * (read * here // rows + 1)
    sources = sum(tensor.nbytes for tensor in step.move.inputs if tensor.encoding.sliced)
    values = 4 * here * columns_of(step.target.shape)
    buffers = 2 + any(isinstance(t, RopeOrder | Transpose | Woven) for t in step.move.transforms)
    buffers += sum(t.of for t in step.move.transforms if isinstance(t, Unwoven))
    return (sources + step.target.nbytes) * here // rows + buffers * values + values // 4


def held_bytes(step: Step) -> int:
    """Bytes of a step's parts that are held whole while its runs are done."""
    inputs = sum(tensor.nbytes for tensor in step.move.inputs if not tensor.encoding.sliced)
    return inputs + (0 if step.target.encoding.sliced else step.target.nbytes)


@dataclass(frozen=True, slots=True)
class _Input:
    """One input of a step: where its rows begin among all input rows, and how to read them."""

    tensor: Tensor
    first: int
    rows: int
    columns: int
    codec: Codec | None

    def read_bytes(self, start: int, stop: int, out: Bytes) -> None:
        """The stored bytes of own rows `[start, stop)` of a one-part, sliced tensor."""
        part = self.tensor.parts["data"]
        begin, _ = part_slice(self.tensor, part, start, stop)
        self.tensor.sources["data"].read_into(begin, out)

    def decode(self, start: int, stop: int, out: Values, scratch: Scratch, held: Mapping[str, NDArray[Any]]) -> None:
        """Own rows `[start, stop)` as float32."""
        assert self.codec is not None
        if held:
            self.codec.decode(held, out, start)
            return
        self.codec.decode(self.parts(start, stop, scratch), out)

    def decode_halves(self, start: int, stop: int, out: Bytes, scratch: Scratch, held: Parts) -> None:
        """Own rows `[start, stop)` as 16-bit numbers."""
        assert isinstance(self.codec, HalvesCodec)
        rows = out.view(np.uint16).reshape(stop - start, self.columns)
        if held:
            self.codec.decode_halves(held, rows, start)
            return
        self.codec.decode_halves(self.parts(start, stop, scratch), rows)

    def parts(self, start: int, stop: int, scratch: Scratch) -> dict[str, NDArray[Any]]:
        """The stored arrays of own rows `[start, stop)` of a sliced tensor, one row of each for a row of the tensor."""
        parts: dict[str, NDArray[Any]] = {}
        for name, part in self.tensor.parts.items():
            begin, end = part_slice(self.tensor, part, start, stop)
            data = scratch.bytes(f"in.{name}", end - begin)
            self.tensor.sources[name].read_into(begin, data)
            parts[name] = data.view(part.dtype.numpy).reshape(stop - start, -1)
        return parts


class StepRows:
    """Reads and converts the runs of one step; safe to use from many threads, each with its own `Scratch`."""

    def __init__(self, step: Step) -> None:
        """Reads whole what cannot be read in slices."""
        self.step = step
        self.columns = columns_of(step.target.shape)
        self.by_bytes = moves_bytes(step)
        self._target = None if self.by_bytes else codec_for(step.target.encoding)
        self._rope = [t for t in step.move.transforms if isinstance(t, RopeOrder)]
        self._shift = sum(t.start for t in step.move.transforms if isinstance(t, Rows))
        self._add = [np.float32(t.value) for t in step.move.transforms if isinstance(t, Add)]
        self._transposed = _turns(step)
        self._unwoven = next((t for t in step.move.transforms if isinstance(t, Unwoven)), Unwoven(0, of=1))
        self._woven = len(step.move.inputs) if any(isinstance(t, Woven) for t in step.move.transforms) else 1
        self._inputs: list[_Input] = []
        first = 0
        for tensor in step.move.inputs:
            codec = None if self.by_bytes else codec_for(tensor.encoding)
            self._inputs.append(_Input(tensor, first, rows_of(tensor.shape), columns_of(tensor.shape), codec))
            first += rows_of(tensor.shape)
        self._held: dict[int, dict[str, NDArray[Any]]] = {}
        for item in self._inputs:
            if not item.tensor.encoding.sliced:  # its rows cannot be read apart
                sources = item.tensor.sources
                self._held[item.first] = {
                    name: view_part(read(sources[name]), part) for name, part in item.tensor.parts.items()
                }

    def bytes(self, start: int, stop: int, scratch: Scratch) -> Bytes:
        """The stored bytes of target rows `[start, stop)`: rows are moved as they are, or as they are decoded."""
        width = self.step.target.nbytes // max(rows_of(self.step.target.shape), 1)
        out = scratch.bytes("out.data", width * (stop - start) * self._unwoven.of)
        for item, a, b, at in self._overlaps(start, stop):
            rows = out[at * width : (at + b - a) * width]
            if self.by_bytes:
                item.read_bytes(a, b, rows)
            else:
                item.decode_halves(a, b, rows, scratch, self._held.get(item.first, {}))
        return self._ordered(out.reshape((stop - start) * self._unwoven.of, width), scratch).reshape(-1)

    def values(self, start: int, stop: int, scratch: Scratch) -> Values:
        """Target rows `[start, stop)` as float32."""
        if self._transposed:
            return self._turned(start, stop, scratch)
        out = scratch.values("values", (stop - start) * self._unwoven.of, self.columns)
        for item, a, b, at in self._overlaps(start, stop):
            item.decode(a, b, out[at : at + b - a], scratch, self._held.get(item.first, {}))
        out = self._ordered(out, scratch)
        for value in self._add:
            out += value
        return out

    def _turned(self, start: int, stop: int, scratch: Scratch) -> Values:
        """Target rows `[start, stop)` of whole transposed matrices; what is woven or unwoven are the input's rows."""
        out = scratch.values("values", stop - start, self.columns)
        wide, turn, of = self.step.target.shape[-2], self._unwoven.turn, self._unwoven.of
        for at in range(0, stop - start, wide):
            matrix = (start + at) // wide
            for number, item in enumerate(self._inputs):
                stored = np.empty(item.tensor.shape[-2:], np.float32)
                first, held = matrix * len(stored), self._held.get(item.first, {})
                item.decode(first, first + len(stored), stored, scratch, held)
                out[at : at + wide, number :: len(self._inputs)] = stored[:, turn::of].T
        return out

    def codes(self, start: int, stop: int, scratch: Scratch) -> Codes:
        """Target rows `[start, stop)` as integers and their scales."""
        runs, turn, of = [], self._unwoven.turn, self._unwoven.of
        for item, a, b, _ in self._overlaps(start, stop):
            held = self._held.get(item.first)
            assert isinstance(item.codec, CodesCodec)
            if held is not None:
                runs.append(item.codec.unpack(held, b - a, a))
                continue
            parts = item.parts(a, b, scratch)
            if of > 1:  # the other rows need not be unpacked
                parts = {name: np.ascontiguousarray(part[turn::of]) for name, part in parts.items()}
            runs.append(item.codec.unpack(parts, (b - a) // of))
        codes = runs[0]
        for name in ("codes", "scales", "zeros", "offsets"):
            arrays = [getattr(run, name) for run in runs]
            if arrays[0] is None or not arrays[0].size:
                continue
            array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
            if self._rope or self._woven > 1 or (of > 1 and self._held):
                array = self._ordered(np.ascontiguousarray(array), scratch).copy()
            setattr(codes, name, array)
        return codes

    def pack(self, codes: Codes, out: Parts, at: int) -> None:
        """Store integers in the target's encoding; `out` is filled from its row `at` on."""
        assert isinstance(self._target, CodesCodec)
        self._target.pack(codes, out, at)

    def begin(self, out: Parts, scratch: Scratch) -> None:
        """Before the first rows are stored in parts held whole: decide what all of them share."""
        if carries_codes(self.step) or not isinstance(self._target, NeedsLargest):
            return
        largest = 0.0
        for start, stop in runs_of(self.step):
            values = self.values(start, stop, scratch)
            if values.size:
                largest = max(largest, float(values.max()), -float(values.min()))
        self._target.begin(largest, out)

    def encode(self, values: Values, start: int, out: Parts) -> None:
        """Store float32 rows in the target's encoding."""
        assert self._target is not None
        self._target.encode(values, out, start, self._importance(start, len(values)))

    def decoded(self, out: Parts, start: int, rows: int, scratch: Scratch) -> Values:
        """What was just encoded, as a reader will see it."""
        assert self._target is not None
        again = scratch.values("again", rows, self.columns)
        self._target.decode(out, again, start)
        return again

    def new_parts(self, start: int, stop: int, scratch: Scratch) -> dict[str, NDArray[Any]]:
        """Room for the parts of rows `[start, stop)` of a sliced target."""
        parts: dict[str, NDArray[Any]] = {}
        for name, part in self.step.target.parts.items():
            begin, end = part_slice(self.step.target, part, start, stop)
            parts[name] = scratch.bytes(f"out.{name}", end - begin).view(part.dtype.numpy).reshape(stop - start, -1)
        return parts

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[_Input, int, int, int]]:
        """Inputs with what is needed for target rows `[start, stop)`: (input, its rows from, to, position in the run).

        Of what is to be unwoven, the other rows are read as well.
        """
        if self._woven > 1:
            length = (stop - start) // self._woven
            for number, item in enumerate(self._inputs):
                yield item, start // self._woven, stop // self._woven, number * length
            return
        start, stop = start * self._unwoven.of + self._shift, stop * self._unwoven.of + self._shift
        for item in self._inputs:
            a, b = max(start, item.first), min(stop, item.first + item.rows)
            if a < b:
                yield item, a - item.first, b - item.first, a - start

    def _ordered(self, rows: NDArray[Any], scratch: Scratch) -> NDArray[Any]:
        for rope in self._rope:
            head = rows_of(self.step.target.shape) // rope.heads
            order = rope.source_rows(head)
            moved = scratch.bytes("ordered", rows.nbytes).view(rows.dtype).reshape(-1, head, rows.shape[1])
            np.take(rows.reshape(-1, head, rows.shape[1]), order, axis=1, out=moved, mode="clip")
            rows = moved.reshape(rows.shape)
        turn, of, width = self._unwoven.turn, self._unwoven.of, rows.shape[1]
        if of > 1:
            taken = scratch.bytes("ordered", rows.nbytes // of).view(rows.dtype).reshape(-1, width)
            taken[...] = rows[turn::of]
            rows = taken
        if self._woven > 1:
            woven = scratch.bytes("ordered", rows.nbytes).view(rows.dtype).reshape(-1, self._woven, width)
            woven[...] = rows.reshape(self._woven, -1, width).swapaxes(0, 1)
            rows = woven.reshape(rows.shape)
        return rows

    def _importance(self, start: int, rows: int) -> Values | None:
        """The importance of each column, for the matrix (of a stack of experts) that the run lies in."""
        importance = self.step.importance
        if importance is None or importance.ndim == 1:
            return importance
        per_matrix = rows_of(self.step.target.shape) // len(importance)
        which = np.arange(start, start + rows) // per_matrix
        chosen: Values = importance[which[0] if which[0] == which[-1] else which]
        return np.ascontiguousarray(chosen)


def moves_bytes(step: Step) -> bool:
    """Whether the step is done on encoded rows, without decoding."""
    return step.fidelity is Fidelity.COPY and set(step.target.parts) == {"data"} and step.target.encoding.sliced


def decodes_halves(step: Step) -> bool:
    """Whether the inputs' values are 16-bit numbers that the target holds as they are, in some order of rows."""
    target, codecs = step.target.encoding, (codec_for(tensor.encoding) for tensor in step.move.inputs)
    if float_bits(target) not in ("F16", "BF16") or any(isinstance(t, Add | Transpose) for t in step.move.transforms):
        return False
    if any(values_of(tensor.encoding) != target for tensor in step.move.inputs):
        return False
    return all(isinstance(codec, HalvesCodec) for codec in codecs)


def carries_codes(step: Step) -> bool:
    """Whether the step is done on integers and their scales, without computing a value."""
    if moves_bytes(step) or isinstance(step.target.encoding, Dense):
        return False
    return step.fidelity is not Fidelity.ROUND or step.keeps_codes


def float_bits(encoding: Encoding) -> str | None:
    """The dtype label of dense floats, whose bits tell NaN and infinity; None for everything else."""
    return encoding.label if isinstance(encoding, Dense) and encoding.label in ("F16", "BF16", "F32") else None
