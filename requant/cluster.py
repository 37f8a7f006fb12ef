"""A plan's work on an existing Dask cluster, over storage that all its machines see under the same names.

The client plans, makes the files under their partial names, and hands out *chunks*: the runs of a tensor, or some of a
large one. A worker reads, converts and writes them at their planned offsets, has them on the storage, and answers with
what they came to; the client keeps the journal and gives the files their names, as on one machine. A chunk that is done
twice, since a worker was lost, has the same bytes at the same place.

Tensors of which something must be known before their first row, and those that are held whole, are one chunk each. What
lies together in a shard goes to the same worker, as long as it has no more to do than others.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from requant import __version__, sources, system
from requant.errors import Error, FormatError, PlanError, UnsupportedError, VerifyError
from requant.jobs import Job, Stored, Task, Tasks
from requant.plan import Step
from requant.run_journal import Outcome
from requant.runs import position
from requant.sink import Sink
from requant.worker import Options, Worker

#: Input bytes of a chunk, at most and at least; between them, so many chunks for each worker.
_MOST: Final = 64 << 20
_LEAST: Final = 1 << 20
_FOR_EACH: Final = 16
#: Seconds to wait for the scheduler.
_PATIENCE: Final = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step's rows go: a file as it is called while it is made, and the offset of each part."""

    step: Step
    path: str
    offsets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Runs of one job, by their numbers; none stands for all of a job that is not cut.

    input_bytes: how much is read for it. position: where that lies.
    """

    job: int
    places: tuple[Place, ...]
    runs: tuple[int, ...]
    options: Options
    buffers: int
    input_bytes: int
    position: tuple[str, int]

    def jobs(self, open_: Mapping[str, Sink]) -> Job:
        """The job as a worker has it, with all other runs finished."""
        first, *others = self.places
        besides = [Stored(place.step, open_[place.path], place.offsets) for place in others]
        job = Job(first.step, open_[first.path], first.offsets, besides, self.job)
        if self.runs:
            job.finished = frozenset(task.number for task in job.runs()) - set(self.runs)
        return job


@dataclass(frozen=True, slots=True)
class Done:
    """What a chunk came to: runs with their outcomes at each place, or an error of requant's."""

    job: int
    runs: Sequence[tuple[int, list[Outcome]]] = ()
    input_bytes: int = 0
    error: tuple[str, str, str] | None = None


def do(chunk: Chunk) -> Done:
    """On a worker: make a chunk, and have it on the storage."""
    sources.on_another_machine()
    opened: dict[str, Sink] = {}
    try:
        for place in chunk.places:
            if place.path not in opened:
                descriptor = os.open(place.path, os.O_RDWR | system.NO_FOLLOW | system.BINARY)
                opened[place.path] = Sink.of(Path(place.path), descriptor)
        runs = list(_made(chunk, chunk.jobs(opened)))
        for sink in opened.values():
            sink.sync()
        return Done(chunk.job, runs, chunk.input_bytes)
    except Error as error:
        return Done(chunk.job, error=(type(error).__name__, str(error), error.hint))
    except OSError as error:
        said = f"{error.filename or chunk.places[0].path}: {error.strerror}, on a worker"
        return Done(chunk.job, error=("PlanError", said, "is it on storage that all workers see?"))
    finally:
        for sink in opened.values():
            sink.close()


def _made(chunk: Chunk, job: Job) -> Iterator[tuple[int, list[Outcome]]]:
    tasks, worker = Tasks(iter([job])), Worker(chunk.options, chunk.buffers)
    total: list[Outcome] = []
    while (task := tasks.take()) is not None:
        found = None
        if task.stage < len(job.stages):
            found = worker.reduce(task)
        else:
            outcomes = worker.store(task)
            if job.held:
                total = [outcomes[0].plus(total[0])] if total else outcomes
            else:
                yield task.number, outcomes
        if tasks.done(task, found):
            checksum = job.finish()
            if checksum is not None and total:
                total[0].checksum = checksum
                yield 0, total


class Cluster:
    """A connection to the scheduler at an address. Raises `PlanError` without Dask, a scheduler, or workers."""

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise PlanError("--dask needs Dask", hint="pip install 'requant[dask]'") from None
        try:
            self._client: Any = Client(address, timeout=_PATIENCE, set_as_default=False)
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PlanError(f"{address}: no Dask cluster there: {reason}", hint="is the address right?") from None
        self.address = address

    def check(self, paths: Sequence[Path]) -> None:
        """Raises `PlanError` unless every worker has this version and sees these files as they are here."""
        wanted = [(str(path), path.stat().st_size) for path in paths]
        for worker, said in self._client.run(_about, wanted).items():
            found, trouble = said
            if found != __version__:
                raise PlanError(f"worker {worker} has requant {found or 'unknown'}, and here is {__version__}")
            if trouble:
                raise PlanError(f"worker {worker} does not see {trouble}", hint="storage that all machines share?")

    def workers(self) -> list[str]:
        """Their addresses."""
        return list(self._client.scheduler_info(n_workers=-1)["workers"])

    def run(self, chunks: Sequence[Chunk], name: str) -> Iterator[Done]:
        """What chunks came to, as they are done. A lost worker's are done by others; the first error is raised."""
        from distributed import as_completed

        workers, total = self.workers(), sum(chunk.input_bytes + 1 for chunk in chunks)
        futures, before = [], 0
        for number, chunk in enumerate(sorted(chunks, key=lambda chunk: chunk.position)):
            here = workers[before * len(workers) // total]
            before += chunk.input_bytes + 1
            key = f"requant-{name}-{os.getpid()}-{number}"
            try:
                futures.append(
                    self._client.submit(do, chunk, key=key, pure=False, workers=[here], allow_other_workers=True)
                )
            except (TypeError, pickle.PicklingError, AttributeError) as error:
                raise PlanError(f"this cannot be done on a cluster: {error}", hint="leave out --dask") from None
        try:
            for future in as_completed(futures, loop=self._client.loop):
                try:
                    done: Done = future.result()
                except Exception as error:
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise PlanError(f"{self.address}: {reason}", hint="--resume goes on from here") from None
                if done.error is not None:
                    raise _error(*done.error)
                yield done
                future.release()
        finally:
            self._client.cancel(futures, force=True)

    def close(self) -> None:
        """Let go of the connection; the cluster stays."""
        self._client.close()


def chunks_of(jobs: Iterator[Job], options: Options, buffers: int, workers: int) -> Iterator[Chunk]:
    """What is left of jobs, cut for so many workers."""
    waiting = list(jobs)
    total = sum(job.input_bytes for job in waiting)
    size = max(_LEAST, min(_MOST, total // max(1, workers * _FOR_EACH)))
    for job in waiting:
        places = tuple(Place(place.step, str(place.sink.made), place.offsets) for place in job.places)
        if job.held or job.stages:
            left = [task for task in job.runs() if task.number not in job.finished]
            pieces = [left] if left else []
        else:
            pieces = list(_pieces(job, size))
        for piece in pieces:
            runs = () if job.held else tuple(task.number for task in piece)
            nbytes = sum(task.input_bytes for task in piece)
            name, offset = position(job.step)
            yield Chunk(job.number, places, runs, options, buffers, nbytes, (name, offset + piece[0].start))


def _pieces(job: Job, size: int) -> Iterator[list[Task]]:
    piece: list[Task] = []
    for task in job.runs():
        if task.number in job.finished:
            continue
        piece.append(task)
        if sum(one.input_bytes for one in piece) >= size:
            yield piece
            piece = []
    if piece:
        yield piece


def _about(wanted: Sequence[tuple[str, int]]) -> tuple[str, str]:
    """On a worker: its version, and the first file that it does not see as it is."""
    for name, nbytes in wanted:
        try:
            if Path(name).stat().st_size != nbytes:
                return __version__, f"{name} with its {nbytes} bytes"
        except OSError:
            return __version__, name
    return __version__, ""


def _error(kind: str, message: str, hint: str) -> Error:
    """An error of a worker's, of the same class and with the same words."""
    kinds = {one.__name__: one for one in (FormatError, UnsupportedError, PlanError, VerifyError)}
    found = kinds.get(kind, PlanError)
    error = found.__new__(found)
    Exception.__init__(error, message)
    error.hint = hint
    return error
