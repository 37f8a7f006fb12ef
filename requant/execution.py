"""Carry out a plan: one thread pool, bounded memory, whole files or none.

This is the only place where tensor bytes are written. Workers take runs of rows in file order; each reads,
converts and writes its run at the planned offset. A file gets its name only when every file is complete and
on the disk, so an interrupted or failed run changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from requant.codecs import Parts
from requant.encodings import Blocks
from requant.errors import PlanError
from requant.expressions import DTYPES, Context, Form, Scratch, part_of
from requant.ir import Json
from requant.jobs import COPY_BYTES, Job, Task, Tasks
from requant.layout import OutputFile
from requant.output import OutputSet
from requant.parts import part_slice
from requant.plan import Fidelity, Plan, Step
from requant.runs import held_bytes, run_bytes
from requant.sources import Source, check_unchanged
from requant.storing import Storing
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


def peak_bytes(plan: Plan, workers: int) -> int:
    """Upper bound on the memory the run takes on top of the interpreter and its libraries.

    Every worker keeps its largest buffers; a step that is held whole counts once, and no more steps are in
    progress than there are workers.
    """
    held = sorted((held_bytes(step) for step in plan.steps), reverse=True)
    heads = sum(len(file.head) for file in plan.layout.files)
    return workers * _buffers(plan) + sum(held[:workers]) + heads


def _buffers(plan: Plan) -> int:
    """The most that a worker has in its hands at once."""
    return max(COPY_BYTES, *(run_bytes(step) for step in plan.steps), 0)


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
    began = time.monotonic()
    if not overwrite and (there := existing(plan)) is not None:
        raise PlanError(f"{there} exists", hint="execute(plan, overwrite=True) replaces it")
    run = _Run(plan, options or Options(), progress)
    with OutputSet(plan.layout, plan.obsolete) as outputs:
        run.work(outputs)
        outputs.publish(lambda: check_unchanged(_inputs(plan)))
    names = {file.name: file.nbytes for file in plan.layout.files}
    errors = {name: total.relative for name, total in run.errors.items()}
    return Receipt(names, time.monotonic() - began, run.bytes_read, errors, run.replaced)


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

    def __init__(self, plan: Plan, options: Options, progress: Progress) -> None:
        self.plan, self.options, self.progress = plan, options, progress
        self.errors: dict[str, ErrorSum] = {}
        self.replaced: dict[str, int] = {}
        self.bytes_read = 0
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._buffers = _buffers(plan)

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
        steps = {step.target.name: step for step in self.plan.steps}
        for file in self.plan.layout.files:
            sink = outputs.sink(file.name)
            for name, offsets in _slots_by_tensor(file).items():
                yield Job(steps[name], sink, offsets)

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
        task.job.sink.write(task.job.offsets[task.part] + task.start, data)

    def _move(self, task: Task, context: Context) -> None:
        job, step = task.job, task.job.step
        begin, end = part_slice(step.target, step.target.parts["data"], task.start, task.stop)
        data = context.scratch.bytes(end - begin)
        rows = data.view(DTYPES[job.form]).reshape(task.stop - task.start, -1)
        step.values.fill(job.form, range(task.start, task.stop), rows, context)
        bits = float_bits(step.target.encoding)
        if self.options.any_value:
            pass
        elif bits is not None:
            self._count(step, check_bits(step, task.start, data, bits, self.options.replace_nan))
        elif isinstance(step.target.encoding, Blocks):
            self._count(step, check_copied_blocks(step, task.start, data, self.options.replace_nan))
        if self.options.measure and step.fidelity is Fidelity.ROUND:  # in the numbers that are stored
            with self._lock:
                self.errors.setdefault(step.target.name, ErrorSum())
        job.sink.write(job.offsets["data"] + begin, data)

    def _convert(self, task: Task, context: Context) -> None:
        job, step, storing = task.job, task.job.step, task.job.storing
        assert storing is not None
        whole = job.whole()
        out = storing.new_parts(task.start, task.stop, context.scratch) if whole is None else whole
        at = 0 if whole is None else task.start
        if job.form is Form.CODES:
            codes = step.values.codes(range(task.start, task.stop), context)
            self._count(step, check_scales(step, task.start, codes, self.options.replace_nan))
            storing.pack(codes, out, at)
        else:
            self._encode(task, storing, out, at, context)
        if isinstance(step.target.encoding, Blocks):
            check_blocks(step, task.start, out["data"])
        if whole is None:
            for name, part in step.target.parts.items():
                begin, _ = part_slice(step.target, part, task.start, task.stop)
                job.sink.write(job.offsets[name] + begin, out[name])

    def _encode(self, task: Task, storing: Storing, out: Parts, at: int, context: Context) -> None:
        step, count = storing.step, task.stop - task.start
        values = context.scratch.values(count, step.values.columns)
        step.values.fill(Form.VALUES, range(task.start, task.stop), values, context)
        if not self.options.any_value:
            self._count(step, check_values(step, task.start, values, self.options.replace_nan))
        storing.encode(values, task.start, out, at)
        if self.options.measure and step.fidelity is Fidelity.ROUND:
            again = context.scratch.values(count, step.values.columns)
            storing.decoded(out, at, again)
            self._measure(step, values, again)

    def _count(self, step: Step, replaced: int) -> None:
        if replaced:
            with self._lock:
                self.replaced[step.target.name] = self.replaced.get(step.target.name, 0) + replaced

    def _measure(self, step: Step, values: NDArray[np.float32], again: NDArray[np.float32]) -> None:
        flat = values.reshape(-1)
        squares = float(np.dot(flat, flat))
        again -= values
        error = float(np.dot(again.reshape(-1), again.reshape(-1)))
        with self._lock:
            total = self.errors.setdefault(step.target.name, ErrorSum())
            total.squared_error += error
            total.squares += squares


def _slots_by_tensor(file: OutputFile) -> dict[str, dict[str, int]]:
    """Part offsets of each tensor, in the order in which the tensors lie in the file."""
    tensors: dict[str, dict[str, int]] = {}
    for (name, part), offset in sorted(file.slots.items(), key=lambda slot: slot[1]):
        tensors.setdefault(name, {})[part] = offset
    return tensors
