"""Steps on their way into files, as tasks for workers: first what must be known of whole tensors, then runs of rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Encoding, rows_of
from requant.expressions import Form, Reduction, Shared, slabs
from requant.parts import part_slice
from requant.plan import Fidelity, Step
from requant.run_journal import checksum
from requant.runs import files_of, reducing, runs_of
from requant.sink import Sink
from requant.sources import Bytes, remotes
from requant.storing import Storing
from requant.values import float_bits

#: Bytes copied at a time where nothing is computed.
COPY_BYTES: Final = 4 << 20
#: Bytes compared at a time: no more than the processor's caches hold.
_COMPARED: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Task:
    """Rows of a job in one of its stages; or a stretch of bytes to copy.

    stage: a reduction, by its number, or the last one, which stores. part: set where the bytes [start, stop) of this
    part are copied. number: of the task in its stage, as they are numbered if none is finished yet.
    """

    job: Job
    stage: int
    number: int
    start: int
    stop: int
    part: str = ""

    @property
    def input_bytes(self) -> int:
        """Input bytes that it stands for; rounds off, but adds up to the whole input."""
        if self.part:
            return self.stop - self.start
        total, rows = self.job.input_bytes, max(1, rows_of(self.job.step.target.shape))
        stages = len(self.job.stages) + 1
        before = self.stage * rows
        return total * (before + self.stop) // (rows * stages) - total * (before + self.start) // (rows * stages)


@dataclass(frozen=True)
class Stored:
    """Where a step's rows go: a file, and the offset of each part in it."""

    step: Step
    sink: Sink
    offsets: Mapping[str, int]

    @cached_property
    def storing(self) -> Storing:
        """How values become its parts."""
        return Storing(self.step)

    def write(self, part: str, at: int, data: NDArray[Any]) -> None:
        """Bytes of a part, the first of which is its byte `at`."""
        self.sink.write(self.offsets[part] + at, data)

    def has(self, part: str, at: int, data: Bytes) -> bool:
        """Whether the file has these bytes of a part, the first of which is its byte `at`."""
        room = np.empty(min(_COMPARED, data.size), np.uint8)
        for start in range(0, data.size, _COMPARED):
            wanted = data[start : start + _COMPARED]
            found = room[: wanted.size]
            if not self.sink.read_into(self.offsets[part] + at + start, found.data):
                return False
            if not np.array_equal(found, wanted):
                return False
        return True

    def checked(self, stretches: Iterable[tuple[str, int, int]], room: Callable[[int], Bytes]) -> int | None:
        """The checksum of what the file has in some stretches of parts; None where it ends before."""
        found = 0
        for part, begin, end in stretches:
            data = room(end - begin)
            if not self.sink.read_into(self.offsets[part] + begin, memoryview(data.data).cast("B")):
                return None
            found = checksum(data, found)
        return found


class Job:
    """One step on its way into one file, shared by the workers that do its tasks.

    number: among all jobs of a conversion. besides: where else the same values go, which are read and computed once for
    all; `shared_by` says which may be. finished: numbers of the runs that are in the files already.
    """

    def __init__(
        self,
        step: Step,
        sink: Sink,
        offsets: Mapping[str, int],
        besides: Sequence[Stored] = (),
        number: int = 0,
    ) -> None:
        self.number = number
        self.finished: frozenset[int] = frozenset()
        self.step, self.sink, self.offsets = step, sink, offsets
        self.places = (Stored(step, sink, offsets), *besides)
        self.shared = Shared()
        self.form = step.form
        self.moves = self.form in (Form.BYTES, Form.HALVES)
        self.input_bytes = step.input_bytes
        #: Whether whoever goes on compares its runs with what they are copied from, and not with a checksum: to sum up
        #: bytes that are only moved would take a tenth of the time. What a server has is not fetched again for that.
        self.compared = step.fidelity is Fidelity.COPY and self.moves | self.copies and not remotes(files_of(step))
        self.storing = None if self.moves or self.copies else self.places[0].storing
        #: (reduction, the list its result goes to), in the order in which they must be made.
        self.stages: list[tuple[Reduction, list[Any]]] = []
        for node in reducing(step.values):
            found = self.shared.results[id(node)] = list[Any]()
            self.stages += [(reduction, found) for reduction in node.reductions()]
        self._known: list[Any] = []
        self.stages += [(reduction, self._known) for reduction in (self.storing.reductions() if self.storing else ())]
        self._whole: dict[str, NDArray[Any]] | None = None
        self._lock = threading.Lock()

    @property
    def copies(self) -> bool:
        """Whether bytes are copied that nobody looks at: dense floats are looked at, for NaN."""
        return self.step.is_verbatim and float_bits(self.step.target.encoding) is None

    @property
    def held(self) -> bool:
        """Whether the output cannot be stored in slices: it is made in memory, and written at the end, as one run."""
        return self.storing is not None and not self.step.target.encoding.sliced

    def tasks(self, stage: int) -> Iterator[Task]:
        """All tasks of a stage that are not finished; those of the next may begin when they are done."""
        if stage < len(self.stages):
            reduction, found = self.stages[stage]
            needed = (rows for rows in slabs(reduction.inputs) if reduction.needs(rows, found))
            for number, rows in enumerate(needed):
                yield Task(self, stage, number, rows.start, rows.stop)
        else:
            for number, (start, stop, part) in enumerate(self._runs()):
                if number not in self.finished:
                    yield Task(self, stage, number, start, stop, part)

    def runs(self) -> Iterator[Task]:
        """The tasks that store, finished or not."""
        for number, (start, stop, part) in enumerate(self._runs()):
            yield Task(self, len(self.stages), number, start, stop, part)

    def _runs(self) -> Iterator[tuple[int, int, str]]:
        if self.copies:
            for name, part in self.step.target.parts.items():
                for at in range(0, part.nbytes, COPY_BYTES):
                    yield at, min(part.nbytes, at + COPY_BYTES), name
        else:
            for start, stop in runs_of(self.step):
                yield start, stop, ""

    def stretches(self, task: Task | None, place: Stored) -> Iterator[tuple[str, int, int]]:
        """Which bytes of which parts a task writes at a place, in this order; None is the one run of what is held."""
        if task is not None and task.part:
            yield task.part, task.start, task.stop
            return
        for name, part in place.step.target.parts.items():
            begin, end = (
                (0, part.nbytes) if task is None else part_slice(place.step.target, part, task.start, task.stop)
            )
            yield name, begin, end

    def conclude(self, stage: int, total: Any | None) -> None:
        """After the last task of a reduction: what all parts together are becomes its result."""
        reduction, found = self.stages[stage]
        found.append(reduction.result(total))

    def whole(self) -> dict[str, NDArray[Any]] | None:
        """The parts of an output that cannot be stored in slices; the first who asks makes room for them."""
        assert self.storing is not None
        with self._lock:
            if self._whole is None and not self.step.target.encoding.sliced:
                self._whole = self.storing.whole_parts(self._known)
            return self._whole

    def finish(self) -> int | None:
        """After the last task: writes what was held, whose checksum it is then, and lets go of it."""
        self.shared.held.clear()
        if self._whole is None:
            return None
        found = 0
        for name in self.step.target.parts:
            array = self._whole[name]
            self.sink.write(self.offsets[name], array)
            found = checksum(array, found)
        self._whole = None
        return found


def shared_by(step: Step) -> Encoding | bool:
    """What two steps of the same values must have in common to be done at once; False for what is done alone.

    Values may be stored in any sliced encoding; bytes and halves that are moved go to the same one.
    """
    if step.form is Form.VALUES:
        return step.target.encoding.sliced
    return False if step.form is Form.CODES else step.target.encoding


class _Begun:
    """A job that is worked on: its stage, the task of it that comes next, and how many are being done."""

    def __init__(self, job: Job) -> None:
        self.job, self.stage, self.doing = job, 0, 0
        self._total: Any | None = None
        self._merged = 0
        self._waiting: dict[int, Any] = {}
        self._left = job.tasks(0)
        self._next = next(self._left, None)

    def take(self) -> Task | None:
        """The next task of the stage; None if those of the next one have to wait."""
        task = self._next
        if task is not None:
            self._next = next(self._left, None)
            self.doing += 1
        return task

    def add(self, number: int, part: Any) -> None:
        """What a task of a reduction has found: merged as soon as all before it are, so that few are ever kept."""
        self._waiting[number] = part
        while self._merged in self._waiting:
            part = self._waiting.pop(self._merged)
            self._total = part if self._merged == 0 else self.job.stages[self.stage][0].merge(self._total, part)
            self._merged += 1

    def is_over(self) -> bool:
        """Whether all is done; goes on to the next stage where one is."""
        while self._next is None and not self.doing:
            if self.stage == len(self.job.stages):
                return True
            self.job.conclude(self.stage, self._total)
            self.stage, self._total, self._merged = self.stage + 1, None, 0
            self._left = self.job.tasks(self.stage)
            self._next = next(self._left, None)
        return False


class Tasks:
    """Hands out the tasks of jobs, in order as far as may be; safe to use from many threads.

    Where the tasks of a job wait for others of it, the next job is begun: no more are in progress than there are
    workers.
    """

    def __init__(self, jobs: Iterator[Job]) -> None:
        self._jobs = jobs
        self._begun: list[_Begun] = []
        self._changed = threading.Condition()
        self._stopped = False

    def take(self) -> Task | None:
        """The next task, as soon as one may be done; None when there is none any more."""
        with self._changed:
            while not self._stopped:
                for begun in self._begun:
                    if (task := begun.take()) is not None:
                        return task
                job = next(self._jobs, None)
                if job is not None:
                    begun = _Begun(job)
                    self._begun += [] if begun.is_over() else [begun]  # a tensor without rows has nothing to do
                elif self._begun:
                    self._changed.wait()
                else:
                    return None
            return None

    def done(self, task: Task, part: Any = None) -> bool:
        """After each task, with what was found if it is one of a reduction; whether it was the last of its job."""
        with self._changed:
            begun = next(begun for begun in self._begun if begun.job is task.job)
            begun.doing -= 1
            if task.stage < len(task.job.stages):
                begun.add(task.number, part)
            over = begun.is_over()
            if over:
                self._begun.remove(begun)
            self._changed.notify_all()
            return over

    def stop(self) -> None:
        """Hand out no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
