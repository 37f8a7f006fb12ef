"""Carry out a plan: one thread pool, bounded memory, whole files or none.

This is the only place where tensor bytes are written. Workers take runs of rows in file order; each reads,
converts and writes its run at the planned offset. A file gets its name only when every file is complete and
on the disk, so an interrupted or failed run changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Parts
from requant.encodings import Blocks
from requant.errors import PlanError
from requant.expressions import DTYPES, Context, Form, Scratch, part_of
from requant.ir import Json
from requant.jobs import COPY_BYTES, Job, Stored, Task, Tasks
from requant.output import OutputSet
from requant.parts import part_slice
from requant.plan import Fidelity, Plan, Step
from requant.runs import held_bytes, run_bytes
from requant.sources import Source, check_unchanged
from requant.system import processors
from requant.together import groups_of, together
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


@dataclass(slots=True)
class ErrorSum:
    """Squared error of one tensor against its input, and the input's own sum of squares."""

    squared_error: float = 0.0
    squares: float = 0.0

    @property
    def relative(self) -> float:
        """Root of error over root of signal: 0 is exact."""
        return float(np.sqrt(self.squared_error / self.squares)) if self.squares else 0.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was done.

    errors: relative error by tensor name, for rounded tensors, if it was measured. replaced: by tensor name, how many
    values were not finite and were replaced.
    """

    files: Mapping[str, int]
    seconds: float
    bytes_read: int
    errors: Mapping[str, float]
    replaced: Mapping[str, int]

    def _repr_html_(self) -> str:
        from requant.notebook import receipt_html

        return receipt_html(self)

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "files": [{"name": name, "bytes": nbytes} for name, nbytes in self.files.items()],
            "seconds": round(self.seconds, 3),
            "bytes_read": self.bytes_read,
            "bytes_written": sum(self.files.values()),
            "relative_errors": dict(self.errors),
            "replaced_values": dict(self.replaced),
        }


def peak_bytes(plan: Plan, workers: int, *others: Plan) -> int:
    """Upper bound on the memory the run takes on top of the interpreter and its libraries.

    Every worker keeps its largest buffers; a step that is held whole counts once, and no more steps are in
    progress than there are workers. others: plans that are carried out in the same pass.
    """
    plans = (plan, *others)
    held = sorted((held_bytes(step) for one in plans for step in one.steps), reverse=True)
    heads = sum(len(file.head) for one in plans for file in one.layout.files)
    return workers * _buffers(plans) + sum(held[:workers]) + heads


def _buffers(plans: Sequence[Plan]) -> int:
    """The most that a worker has in its hands at once."""
    return max(COPY_BYTES, *(run_bytes(step) for plan in plans for step in plan.steps), 0)


Progress = Callable[[int], None]


def execute(
    plan: Plan,
    options: Options | None = None,
    progress: Progress = lambda nbytes: None,
    *,
    overwrite: bool = False,
) -> Receipt:
    """Write every file of `plan`; `progress` is called with the bytes of input done, from any thread.

    overwrite: whether files that exist may be replaced, and those of the model that is replaced removed; without it
    they are a `PlanError`, before anything is written.
    """
    return execute_together((plan,), options, progress, overwrite=overwrite)[0]


def execute_together(
    plans: Sequence[Plan],
    options: Options | None = None,
    progress: Progress = lambda nbytes: None,
    *,
    overwrite: bool = False,
) -> tuple[Receipt, ...]:
    """Write every file of all plans in one pass over what they read, as `execute` does one: all of them, or none.

    Values that several plans store are computed once. The receipts share their seconds and the bytes that were read.
    Raises `PlanError` for two plans that write the same file.
    """
    began = time.monotonic()
    there = None if overwrite else next(filter(None, map(existing, plans)), None)
    if there is not None:
        raise PlanError(f"{there} exists", hint="overwrite=True replaces it")
    layout, names = together(plans)
    run = _Run(plans, names, options or Options(), progress)
    obsolete = dict.fromkeys(path for plan in plans for path in plan.obsolete)
    with OutputSet(layout, obsolete) as outputs:
        run.work(outputs)
        outputs.publish(lambda: check_unchanged(chain.from_iterable(map(_inputs, plans))))
    seconds = time.monotonic() - began
    return tuple(run.receipt(plan, seconds) for plan in plans)


def existing(plan: Plan) -> Path | None:
    """The first file that carrying out the plan would replace or remove.

    Shards have names that only the plan knows, so that a look at the destination is not enough.
    """
    written = (plan.layout.root / file.name for file in plan.layout.files)
    return next((path for path in (*written, *plan.obsolete) if path.exists()), None)


def _inputs(plan: Plan) -> Iterator[Source]:
    """Everything that is read while the plan is carried out, and what was read while it was made."""
    yield from plan.opened
    for step in plan.steps:
        for tensor in step.inputs:
            yield from tensor.sources.values()
    for file in plan.layout.files:
        if file.body is not None:
            yield file.body


class _Run:
    """The state of one execution."""

    def __init__(
        self, plans: Sequence[Plan], names: Sequence[Mapping[str, str]], options: Options, progress: Progress
    ) -> None:
        self.plans, self.names, self.options, self.progress = plans, names, options, progress
        self.errors: dict[int, ErrorSum] = {}  # by the step's id: plans have tensors of the same names
        self.replaced: dict[int, int] = {}
        self.bytes_read = 0
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._buffers = _buffers(plans)

    def receipt(self, plan: Plan, seconds: float) -> Receipt:
        """What was done for one of the plans."""
        names = {file.name: file.nbytes for file in plan.layout.files}
        said = [(step.target.name, id(step)) for step in plan.steps]
        errors = {name: self.errors[number].relative for name, number in said if number in self.errors}
        replaced = {name: self.replaced[number] for name, number in said if number in self.replaced}
        return Receipt(names, seconds, self.bytes_read, errors, replaced)

    def work(self, outputs: OutputSet) -> None:
        """Run all tasks on the pool; raises the first failure after every worker has stopped."""
        tasks = Tasks(self._jobs(outputs))
        with ExitStack() as stack:
            stack.callback(self._halt, tasks)
            workers = [
                threading.Thread(target=self._worker, args=(tasks,), name=f"requant-{i}", daemon=True)
                for i in range(max(1, self.options.workers))
            ]
            for worker in workers:
                worker.start()
            try:
                for worker in workers:
                    while worker.is_alive():
                        worker.join(0.2)  # a bare join would not see Ctrl-C on every platform
            except BaseException:
                self._halt(tasks)
                for worker in workers:
                    worker.join()
                raise
        if self._failure is not None:
            raise self._failure

    def _halt(self, tasks: Tasks) -> None:
        self._stop.set()
        tasks.stop()

    def _jobs(self, outputs: OutputSet) -> Iterator[Job]:
        for first, *others in groups_of(self.plans, self.names):
            besides = [Stored(way.step, outputs.sink(way.file), way.offsets) for way in others]
            yield Job(first.step, outputs.sink(first.file), first.offsets, besides)

    def _worker(self, tasks: Tasks) -> None:
        scratch = Scratch(self._buffers)
        try:
            while not self._stop.is_set() and (task := tasks.take()) is not None:
                with scratch.room():
                    found = self._do(task, scratch)
                if tasks.done(task, found):
                    task.job.finish()
                done = task.input_bytes
                with self._lock:
                    self.bytes_read += done
                self.progress(done)
        except BaseException as error:  # raised again by `work`, in the caller's thread
            with self._lock:
                self._failure = self._failure or error
            self._halt(tasks)

    def _do(self, task: Task, scratch: Scratch) -> object:
        """A task, and what it found if it is one of a reduction."""
        context = Context(scratch, task.job.shared)
        if task.stage < len(task.job.stages):
            reduction, known = task.job.stages[task.stage]
            return part_of(reduction, range(task.start, task.stop), known, context)
        if task.part:
            self._copy(task, scratch)
        elif task.job.moves:
            self._move(task, context)
        else:
            self._convert(task, context)
        return None

    def _copy(self, task: Task, scratch: Scratch) -> None:
        data = scratch.bytes(task.stop - task.start)
        task.job.step.inputs[0].sources[task.part].read_into(task.start, data)
        for place in task.job.places:
            place.write(task.part, task.start, data)

    def _move(self, task: Task, context: Context) -> None:
        job, step = task.job, task.job.step
        begin, end = part_slice(step.target, step.target.parts["data"], task.start, task.stop)
        data = context.scratch.bytes(end - begin)
        rows = data.view(DTYPES[job.form]).reshape(task.stop - task.start, -1)
        step.values.fill(job.form, range(task.start, task.stop), rows, context)
        bits, replaced = float_bits(step.target.encoding), 0
        if self.options.any_value:
            pass
        elif bits is not None:
            replaced = check_bits(step, task.start, data, bits, self.options.replace_nan)
        elif isinstance(step.target.encoding, Blocks):
            replaced = check_copied_blocks(step, task.start, data, self.options.replace_nan)
        if self.options.measure and step.fidelity is Fidelity.ROUND:  # in the numbers that are stored
            with self._lock:
                self.errors |= {id(place.step): ErrorSum() for place in job.places}
        for place in job.places:
            self._count(place.step, replaced)
            place.write("data", begin, data)

    def _convert(self, task: Task, context: Context) -> None:
        job, step, storing = task.job, task.job.step, task.job.storing
        assert storing is not None
        if job.form is Form.CODES:
            codes = step.values.codes(range(task.start, task.stop), context)
            self._count(step, check_scales(step, task.start, codes, self.options.replace_nan))
            self._store(task, job.places[0], context, lambda out, at: storing.pack(codes, out, at))
            return
        values = context.scratch.values(task.stop - task.start, step.values.columns)
        step.values.fill(Form.VALUES, range(task.start, task.stop), values, context)
        replaced = 0
        if not self.options.any_value:
            replaced = check_values(step, task.start, values, self.options.replace_nan)
        for place in job.places:
            self._count(place.step, replaced)
            with context.scratch.room():
                self._store(task, place, context, partial(self._encode, task, place, values, context))

    def _store(self, task: Task, stored: Stored, context: Context, fill: Callable[[Parts, int], None]) -> None:
        """Rows as the parts of a target; `fill` gets room for them, and at which row of it they begin."""
        step, whole = stored.step, task.job.whole() if stored.step is task.job.step else None
        out = stored.storing.new_parts(task.start, task.stop, context.scratch) if whole is None else whole
        fill(out, 0 if whole is None else task.start)
        if isinstance(step.target.encoding, Blocks):
            check_blocks(step, task.start, out["data"])
        if whole is None:
            for name, part in step.target.parts.items():
                begin, _ = part_slice(step.target, part, task.start, task.stop)
                stored.write(name, begin, out[name])

    def _encode(
        self, task: Task, stored: Stored, values: NDArray[np.float32], context: Context, out: Parts, at: int
    ) -> None:
        stored.storing.encode(values, task.start, out, at)
        if self.options.measure and stored.step.fidelity is Fidelity.ROUND:
            again = context.scratch.values(*values.shape)
            stored.storing.decoded(out, at, again)
            self._measure(stored.step, values, again)

    def _count(self, step: Step, replaced: int) -> None:
        if replaced:
            with self._lock:
                self.replaced[id(step)] = self.replaced.get(id(step), 0) + replaced

    def _measure(self, step: Step, values: NDArray[np.float32], again: NDArray[np.float32]) -> None:
        flat = values.reshape(-1)
        squares = float(np.dot(flat, flat))
        again -= values
        error = float(np.dot(again.reshape(-1), again.reshape(-1)))
        with self._lock:
            total = self.errors.setdefault(id(step), ErrorSum())
            total.squared_error += error
            total.squares += squares
