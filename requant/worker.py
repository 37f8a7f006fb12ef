"""One task after another, with a worker's own memory: read, convert, write, and say what it came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Parts
from requant.encodings import Blocks
from requant.expressions import DTYPES, Context, Form, Scratch, part_of
from requant.jobs import Stored, Task
from requant.parts import part_slice
from requant.plan import Fidelity
from requant.run_journal import Outcome, checksum
from requant.sources import Bytes
from requant.system import processors
from requant.values import check_bits, check_blocks, check_copied_blocks, check_scales, check_values, float_bits


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    workers: threads (default: the processors this process may use).
    replace_nan: NaN and infinities become this value instead of an error.
    measure: decode what was encoded and sum up the error of every rounded tensor.
    any_value: NaN and infinities are written as they are.
    """

    workers: int = field(default_factory=processors)
    replace_nan: float | None = None
    measure: bool = False
    any_value: bool = False


class Worker:
    """What does tasks, one at a time."""

    def __init__(self, options: Options, buffers: int) -> None:
        self._options = options
        self._scratch = Scratch(buffers)

    def reduce(self, task: Task) -> object:
        """What a task of a reduction found."""
        reduction, known = task.job.stages[task.stage]
        with self._scratch.room() as scratch:
            return part_of(reduction, range(task.start, task.stop), known, Context(scratch, task.job.shared))

    def store(self, task: Task) -> list[Outcome]:
        """Make a run and write it at all its places; what it came to at each."""
        outcomes = [Outcome() for _ in task.job.places]
        with self._scratch.room() as scratch:
            context = Context(scratch, task.job.shared)
            if task.part or task.job.moves:
                self._move(task, context, outcomes)
            else:
                self._convert(task, context, outcomes)
        return outcomes

    def is_stored(self, task: Task, outcomes: dict[int, Outcome]) -> bool:
        """Whether the files have what a journal says of a run at all its places."""
        job = task.job
        if outcomes.keys() != set(range(len(job.places))):
            return False
        with self._scratch.room() as scratch:
            if job.compared:
                part, begin, data, _ = self._moved(task, Context(scratch, job.shared))
                return all(place.has(part, begin, data) for place in job.places)
            return all(
                place.checked(job.stretches(None if job.held else task, place), scratch.bytes) == said.checksum
                for place, said in ((job.places[number], said) for number, said in outcomes.items())
            )

    def _move(self, task: Task, context: Context, outcomes: list[Outcome]) -> None:
        part, begin, data, replaced = self._moved(task, context)
        found = 0 if task.job.compared else checksum(data)
        for place, outcome in zip(task.job.places, outcomes, strict=True):
            place.write(part, begin, data)
            outcome.replaced, outcome.checksum = replaced, found
            if self._options.measure and task.job.step.fidelity is Fidelity.ROUND:  # in the numbers that are stored
                outcome.squared_error = outcome.squares = 0.0

    def _moved(self, task: Task, context: Context) -> tuple[str, int, Bytes, int]:
        """Bytes that nothing encodes, of which part and from which byte of it on, and how many values were replaced."""
        job, step = task.job, task.job.step
        if task.part:
            data = context.scratch.bytes(task.stop - task.start)
            step.inputs[0].sources[task.part].read_into(task.start, data)
            return task.part, task.start, data, 0
        begin, end = part_slice(step.target, step.target.parts["data"], task.start, task.stop)
        data = context.scratch.bytes(end - begin)
        rows = data.view(DTYPES[job.form]).reshape(task.stop - task.start, -1)
        step.values.fill(job.form, range(task.start, task.stop), rows, context)
        bits, replaced = float_bits(step.target.encoding), 0
        if self._options.any_value:
            pass
        elif bits is not None:
            replaced = check_bits(step, task.start, data, bits, self._options.replace_nan)
        elif isinstance(step.target.encoding, Blocks):
            replaced = check_copied_blocks(step, task.start, data, self._options.replace_nan)
        return "data", begin, data, replaced

    def _convert(self, task: Task, context: Context, outcomes: list[Outcome]) -> None:
        job, step, storing = task.job, task.job.step, task.job.storing
        assert storing is not None
        if job.form is Form.CODES:
            codes = step.values.codes(range(task.start, task.stop), context)
            outcomes[0].replaced = check_scales(step, task.start, codes, self._options.replace_nan)
            self._store(task, job.places[0], context, outcomes[0], lambda out, at: storing.pack(codes, out, at))
            return
        values = context.scratch.values(task.stop - task.start, step.values.columns)
        step.values.fill(Form.VALUES, range(task.start, task.stop), values, context)
        replaced = 0
        if not self._options.any_value:
            replaced = check_values(step, task.start, values, self._options.replace_nan)
        for place, outcome in zip(job.places, outcomes, strict=True):
            outcome.replaced = replaced
            with context.scratch.room():
                encode = partial(self._encode, task, place, values, context, outcome)
                self._store(task, place, context, outcome, encode)

    def _store(
        self, task: Task, stored: Stored, context: Context, outcome: Outcome, fill: Callable[[Parts, int], None]
    ) -> None:
        """Rows as the parts of a target; `fill` gets room for them, and at which row of it they begin."""
        step, whole = stored.step, task.job.whole() if stored.step is task.job.step else None
        out = stored.storing.new_parts(task.start, task.stop, context.scratch) if whole is None else whole
        fill(out, 0 if whole is None else task.start)
        if whole is not None:
            return
        for name, part in step.target.parts.items():
            begin, _ = part_slice(step.target, part, task.start, task.stop)
            if isinstance(step.target.encoding, Blocks):  # of one part
                outcome.checksum = check_blocks(step, task.start, out[name])
            else:  # while the processor's cache has it
                outcome.checksum = checksum(out[name], outcome.checksum)
            stored.write(name, begin, out[name])

    def _encode(
        self,
        task: Task,
        stored: Stored,
        values: NDArray[np.float32],
        context: Context,
        outcome: Outcome,
        out: Parts,
        at: int,
    ) -> None:
        stored.storing.encode(values, task.start, out, at)
        if self._options.measure and stored.step.fidelity is Fidelity.ROUND:
            again = context.scratch.values(*values.shape)
            stored.storing.decoded(out, at, again)
            flat = values.reshape(-1)
            outcome.squares = float(np.dot(flat, flat))
            again -= values
            outcome.squared_error = float(np.dot(again.reshape(-1), again.reshape(-1)))
