"""The work on plans: a pool of threads that take one task after another, and what they found."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from requant.jobs import COPY_BYTES, Job, Stored, Task, Tasks
from requant.output import OutputSet
from requant.plan import Plan, Step
from requant.run_journal import Outcome, RunJournal
from requant.runs import files_of, position, run_bytes
from requant.sink import disk_error
from requant.together import groups_of
from requant.worker import Options, Worker

if TYPE_CHECKING:
    from requant.cluster import Cluster

Progress = Callable[[int], None]


@dataclass(slots=True)
class ErrorSum:
    """Squared error of one tensor against its input, and the input's own sum of squares."""

    squared_error: float = 0.0
    squares: float = 0.0

    @property
    def relative(self) -> float:
        """Root of error over root of signal: 0 is exact."""
        return float(np.sqrt(self.squared_error / self.squares)) if self.squares else 0.0


def buffers(plans: Sequence[Plan]) -> int:
    """The most bytes that a worker has in its hands at once."""
    return max(COPY_BYTES, *(run_bytes(step) for plan in plans for step in plan.steps), 0)


class Run:
    """The state of one execution.

    errors, replaced: by the step's id, since plans have tensors of the same names. resumed: bytes of the files that
    were finished before. in_source_order: tensors are made in the order in which they lie in what is read, which
    servers give best in one go; else in that of the files that are written. cluster: where the work is done, else here.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        names: Sequence[Mapping[str, str]],
        options: Options,
        progress: Progress,
        *,
        in_source_order: bool = False,
        cluster: Cluster | None = None,
    ) -> None:
        self.cluster, self.chunks, self.cluster_workers = cluster, 0, 0
        self._in_source_order = in_source_order
        self.plans, self.names, self.options, self.progress = plans, names, options, progress
        self.errors: dict[int, ErrorSum] = {}
        self.replaced: dict[int, int] = {}
        self.bytes_read = 0
        self.resumed = 0
        self._journal: RunJournal | None = None
        self._finished: dict[int, set[int]] = {}
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._buffers = buffers(plans)

    def work(self, outputs: OutputSet) -> None:
        """Do all that is not finished; raises the first failure after every worker has stopped."""
        self._journal = outputs.journal
        if self._journal is not None and self._journal.known:
            recorded = _Recorded(self._jobs(outputs), self._journal)
            self._on_threads(lambda: self._check(recorded), lambda: None)
        if self.cluster is not None:
            self._on_cluster(self.cluster, outputs)
            return
        tasks = Tasks(job for job in self._jobs(outputs) if not self._is_done(job))
        self._on_threads(lambda: self._do(tasks), tasks.stop)

    def _on_cluster(self, cluster: Cluster, outputs: OutputSet) -> None:
        from requant.cluster import chunks_of

        jobs = {job.number: job for job in self._jobs(outputs) if not self._is_done(job)}
        workers = cluster.workers()
        chunks = list(chunks_of(iter(jobs.values()), self.options, self._buffers, len(workers)))
        self.chunks, self.cluster_workers = len(chunks), len(workers)
        files = {one.path for job in jobs.values() for one in files_of(job.step)}
        cluster.check([*sorted(files), *{place.sink.made for job in jobs.values() for place in job.places}])
        for done in cluster.run(chunks, outputs.name):
            for number, outcomes in done.runs:
                self._count(jobs[done.job], outcomes)
                self._record(jobs[done.job], number, outcomes)
            self.bytes_read += done.input_bytes
            self.progress(done.input_bytes)

    def _on_threads(self, target: Callable[[], None], stop: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                target()
            except BaseException as error:  # raised again below, in the caller's thread
                with self._lock:
                    self._failure = self._failure or error
                halt()

        def halt() -> None:
            self._stop.set()
            stop()

        workers = [
            threading.Thread(target=guarded, name=f"requant-{i}", daemon=True)
            for i in range(max(1, self.options.workers))
        ]
        with ExitStack() as stack:
            stack.callback(stop)
            for worker in workers:
                worker.start()
            try:
                for worker in workers:
                    while worker.is_alive():
                        worker.join(0.2)  # a bare join would not see Ctrl-C on every platform
            except BaseException:
                halt()
                for worker in workers:
                    worker.join()
                raise
        if self._failure is not None:
            raise self._failure

    def _jobs(self, outputs: OutputSet) -> Iterator[Job]:
        groups = groups_of(self.plans, self.names)
        if self._in_source_order:
            groups.sort(key=lambda group: position(group[0].step))
        for number, (first, *others) in enumerate(groups):
            besides = [Stored(way.step, outputs.sink(way.file), way.offsets) for way in others]
            job = Job(first.step, outputs.sink(first.file), first.offsets, besides, number)
            job.finished = frozenset(self._finished.get(number, ()))
            yield job

    def _is_done(self, job: Job) -> bool:
        """Whether nothing is left to do, so that nothing must be known of its tensors either."""
        if not job.finished:
            return False
        return job.held or all(task.number in job.finished for task in job.runs())

    def _check(self, recorded: _Recorded) -> None:
        """Read again what is said to be finished."""
        worker = Worker(self.options, self._buffers)
        while not self._stop.is_set() and (found := recorded.take()) is not None:
            task, outcomes = found
            if not worker.is_stored(task, outcomes):
                continue
            job = task.job
            with self._lock:
                self._finished.setdefault(job.number, set()).add(task.number)
                self.resumed += sum(
                    end - begin
                    for place in job.places
                    for _, begin, end in job.stretches(None if job.held else task, place)
                )
            self._count(job, [outcomes[place] for place in range(len(job.places))])
            self.progress(job.input_bytes if job.held else task.input_bytes)

    def _do(self, tasks: Tasks) -> None:
        worker = Worker(self.options, self._buffers)
        while not self._stop.is_set() and (task := tasks.take()) is not None:
            job, found = task.job, None
            if task.stage < len(job.stages):
                found = worker.reduce(task)
            else:
                outcomes = worker.store(task)
                self._count(job, outcomes)
                if not job.held:
                    self._record(job, task.number, outcomes)
            if tasks.done(task, found):
                checksum = job.finish()
                if checksum is not None:
                    self._record(job, 0, [self._total(job.step, checksum)])
            done = task.input_bytes
            with self._lock:
                self.bytes_read += done
            self.progress(done)

    def _record(self, job: Job, number: int, outcomes: list[Outcome]) -> None:
        if self._journal is not None:
            try:
                self._journal.add(job.number, number, outcomes)
            except OSError as error:
                raise disk_error(error, job.sink.path) from error

    def _count(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        for place, one in zip(job.places, outcomes, strict=True):
            key = id(place.step)
            with self._lock:
                if one.replaced:
                    self.replaced[key] = self.replaced.get(key, 0) + one.replaced
                if not math.isnan(one.squares):
                    total = self.errors.setdefault(key, ErrorSum())
                    total.squared_error += one.squared_error
                    total.squares += one.squares

    def _total(self, step: Step, checksum: int) -> Outcome:
        """What all runs of a tensor came to, which is one run to those who go on."""
        replaced = self.replaced.get(id(step), 0)
        total = self.errors.get(id(step))
        if total is None:
            return Outcome(checksum, replaced)
        return Outcome(checksum, replaced, total.squared_error, total.squares)


class _Recorded:
    """Hands out the runs that a journal knows, with what it says of them; safe to use from many threads."""

    def __init__(self, jobs: Iterator[Job], journal: RunJournal) -> None:
        self._left = self._of(jobs, journal)
        self._lock = threading.Lock()

    def take(self) -> tuple[Task, dict[int, Outcome]] | None:
        """The next one."""
        with self._lock:
            return next(self._left, None)

    @staticmethod
    def _of(jobs: Iterator[Job], journal: RunJournal) -> Iterator[tuple[Task, dict[int, Outcome]]]:
        for job in jobs:
            for task in job.runs():
                if (said := journal.known.get((job.number, task.number))) is not None:
                    yield task, said
                if job.held:
                    break
