"""Carry out a plan: one thread pool, bounded memory, whole files or none.

This is the only place where tensor bytes are written. Workers take runs of rows in file order; each reads,
converts and writes its run at the planned offset. A file gets its name only when every file is complete and
on the disk, so an interrupted or failed run changes nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Blocks, rows_of
from requant.ir import Json
from requant.layout import OutputFile
from requant.output import OutputSet, Sink
from requant.parts import part_slice
from requant.plan import Fidelity, Plan, Step
from requant.rows import (
    Scratch,
    StepRows,
    carries_codes,
    decodes_halves,
    float_bits,
    held_bytes,
    moves_bytes,
    run_bytes,
    runs_of,
    upright,
)
from requant.values import check_bits, check_blocks, check_copied_blocks, check_scales, check_values

#: Bytes copied at a time where nothing is computed.
COPY_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    workers: threads (default: the processors this process may use).
    replace_nan: NaN and infinities become this value instead of an error.
    measure: decode what was encoded and sum up the error of every rounded tensor.
    """

    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    replace_nan: float | None = None
    measure: bool = False


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

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "files": dict(self.files),
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
    buffers = max((run_bytes(step) for step in plan.steps), default=0)
    held = sorted((held_bytes(step) for step in plan.steps), reverse=True)
    heads = sum(len(file.head) for file in plan.layout.files)
    return workers * max(buffers, COPY_BYTES) + sum(held[:workers]) + heads


Progress = Callable[[int], None]


def execute(plan: Plan, options: Options | None = None, progress: Progress = lambda nbytes: None) -> Receipt:
    """Write every file of `plan`; `progress` is called with the bytes of input done, from any thread."""
    began = time.monotonic()
    run = _Run(plan, options or Options(), progress)
    with OutputSet(plan.layout) as outputs:
        run.work(outputs)
        outputs.publish(plan.obsolete)
    names = {file.name: file.nbytes for file in plan.layout.files}
    errors = {name: total.relative for name, total in run.errors.items()}
    return Receipt(names, time.monotonic() - began, run.bytes_read, errors, run.replaced)


class _Job:
    """One step on its way into one file, shared by the workers that do its runs."""

    def __init__(self, step: Step, sink: Sink, offsets: Mapping[str, int], runs: int) -> None:
        self.step, self.sink, self.offsets = step, sink, offsets
        self.remaining = runs
        self.moves = moves_bytes(step) or decodes_halves(step)
        self.whole: dict[str, NDArray[Any]] | None = None
        self.lock = threading.Lock()
        self._rows: StepRows | None = None

    def start(self, scratch: Scratch) -> StepRows:
        """Before every run; the first reads inputs and makes room for outputs that cannot be handled in slices."""
        with self.lock:
            if self._rows is not None:
                return self._rows
            rows = StepRows(self.step)
            if not self.step.target.encoding.sliced:
                self.whole = {
                    name: np.zeros(part.shape if part.dtype.bits >= 8 else part.nbytes, part.dtype.numpy)
                    for name, part in self.step.target.parts.items()
                }
                rows.begin(self.whole, scratch)
            self._rows = rows
            return rows

    def finish(self) -> None:
        """After every run; the last one writes what was held and lets go of it."""
        with self.lock:
            self.remaining -= 1
            if self.remaining:
                return
        self._rows = None
        if self.whole is not None:
            for name, array in self.whole.items():
                self.sink.write(self.offsets[name], array)
            self.whole = None


@dataclass(frozen=True, slots=True)
class _Task:
    """Rows of a job; or, without a job, a stretch of bytes to copy."""

    job: _Job
    start: int
    stop: int
    part: str = ""  # set: copy the bytes [start, stop) of this part


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

    def work(self, outputs: OutputSet) -> None:
        """Run all tasks on the pool; raises the first failure after every worker has stopped."""
        tasks = self._tasks(outputs)
        with ExitStack() as stack:
            stack.callback(self._stop.set)
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
                self._stop.set()
                for worker in workers:
                    worker.join()
                raise
        if self._failure is not None:
            raise self._failure

    def _tasks(self, outputs: OutputSet) -> Iterator[_Task]:
        steps = {step.target.name: upright(step) for step in self.plan.steps}
        for file in self.plan.layout.files:
            sink = outputs.sink(file.name)
            for name, offsets in _slots_by_tensor(file).items():
                yield from _tasks_of(steps[name], sink, offsets)

    def _worker(self, tasks: Iterator[_Task]) -> None:
        scratch = Scratch()
        try:
            while not self._stop.is_set():
                with self._lock:
                    task = next(tasks, None)
                if task is None:
                    return
                self._do(task, scratch)
        except BaseException as error:  # raised again by `work`, in the caller's thread
            with self._lock:
                self._failure = self._failure or error
            self._stop.set()

    def _do(self, task: _Task, scratch: Scratch) -> None:
        job = task.job
        if task.part:
            self._copy(task, scratch)
        elif job.moves:
            self._move(task, scratch)
        else:
            self._convert(task, scratch)
        job.finish()
        done = _input_bytes(task)
        with self._lock:
            self.bytes_read += done
        self.progress(done)

    def _copy(self, task: _Task, scratch: Scratch) -> None:
        data = scratch.bytes("copy", task.stop - task.start)
        task.job.step.move.inputs[0].sources[task.part].read_into(task.start, data)
        task.job.sink.write(task.job.offsets[task.part] + task.start, data)

    def _move(self, task: _Task, scratch: Scratch) -> None:
        job = task.job
        data = job.start(scratch).bytes(task.start, task.stop, scratch)
        bits = float_bits(job.step.target.encoding)
        if bits is not None:
            self._count(job.step, check_bits(job.step, task.start, data, bits, self.options.replace_nan))
        elif isinstance(job.step.target.encoding, Blocks):
            self._count(job.step, check_copied_blocks(job.step, task.start, data, self.options.replace_nan))
        begin, _ = part_slice(job.step.target, job.step.target.parts["data"], task.start, task.stop)
        job.sink.write(job.offsets["data"] + begin, data)

    def _convert(self, task: _Task, scratch: Scratch) -> None:
        job, step = task.job, task.job.step
        rows = job.start(scratch)
        out = rows.new_parts(task.start, task.stop, scratch) if job.whole is None else job.whole
        start = 0 if job.whole is None else task.start
        if carries_codes(step):
            codes = rows.codes(task.start, task.stop, scratch)
            self._count(step, check_scales(step, task.start, codes, self.options.replace_nan))
            rows.pack(codes, out, start)
        else:
            values = rows.values(task.start, task.stop, scratch)
            self._count(step, check_values(step, task.start, values, self.options.replace_nan))
            rows.encode(values, start, out)
            if self.options.measure and step.fidelity is Fidelity.ROUND:
                self._measure(step, values, rows.decoded(out, start, len(values), scratch))
        if isinstance(step.target.encoding, Blocks):
            check_blocks(step, task.start, out["data"])
        if job.whole is None:
            for name, part in step.target.parts.items():
                begin, _ = part_slice(step.target, part, task.start, task.stop)
                job.sink.write(job.offsets[name] + begin, out[name])

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


def _tasks_of(step: Step, sink: Sink, offsets: Mapping[str, int]) -> Iterator[_Task]:
    if step.fidelity is Fidelity.COPY and not step.move.transforms and len(step.move.inputs) == 1:
        bits = float_bits(step.target.encoding)
        if bits is None:
            stretches = [
                (name, at, min(part.nbytes, at + COPY_BYTES))
                for name, part in step.target.parts.items()
                for at in range(0, part.nbytes, COPY_BYTES)
            ]
            job = _Job(step, sink, offsets, len(stretches))
            for name, start, stop in stretches:
                yield _Task(job, start, stop, name)
            return
    runs = list(runs_of(step))
    job = _Job(step, sink, offsets, len(runs))
    for start, stop in runs:
        yield _Task(job, start, stop)


def _input_bytes(task: _Task) -> int:
    """Input bytes that a task stands for; rounds off, but adds up to the whole input."""
    if task.part:
        return task.stop - task.start
    total = sum(tensor.nbytes for tensor in task.job.step.move.inputs)
    rows = max(1, rows_of(task.job.step.target.shape))
    return total * task.stop // rows - total * task.start // rows
