"""Carry out a plan: one thread pool, bounded memory, whole files or none.

This is the only place where tensor bytes are written. Workers take runs of rows in file order; each reads,
converts and writes its run at the planned offset. A file gets its name only when every file is complete and
on the disk, so an interrupted or failed run changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from requant.begun import Begun
from requant.errors import PlanError
from requant.fingerprint import beginning_of
from requant.ir import Json
from requant.output import OutputSet
from requant.plan import Plan
from requant.running import ErrorSum, Progress, Run, buffers
from requant.runs import held_bytes
from requant.sources import Source, check_unchanged, reading_through, remotes
from requant.together import together
from requant.worker import Options

if TYPE_CHECKING:
    from requant.cluster import Cluster
    from requant.read_ahead import ReadAhead

__all__ = ["ErrorSum", "Options", "Progress", "Receipt", "execute", "execute_together", "existing", "peak_bytes"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was done.

    errors: relative error by tensor name, for rounded tensors, if it was measured. replaced: by tensor name, how many
    values were not finite and were replaced. resumed: bytes of the files that an earlier process had finished.
    fetched: of servers, if the model is on one: bytes, files, files_checked (by SHA-256), repeated_requests.
    cluster: workers and tasks, if it was done on one.
    """

    files: Mapping[str, int]
    seconds: float
    bytes_read: int
    errors: Mapping[str, float]
    replaced: Mapping[str, int]
    resumed: int = 0
    fetched: Mapping[str, int] | None = None
    cluster: Mapping[str, int] | None = None

    def _repr_html_(self) -> str:
        from requant.notebook import receipt_html

        return receipt_html(self)

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        document: dict[str, Json] = {
            "files": [{"name": name, "bytes": nbytes} for name, nbytes in self.files.items()],
            "seconds": round(self.seconds, 3),
            "bytes_read": self.bytes_read,
            "bytes_written": sum(self.files.values()),
            "relative_errors": dict(self.errors),
            "replaced_values": dict(self.replaced),
            "resumed_bytes": self.resumed,
        }
        for name, said in (("fetched", self.fetched), ("cluster", self.cluster)):
            if said is not None:
                document[name] = dict(said)
        return document


def peak_bytes(plan: Plan, workers: int, *others: Plan) -> int:
    """Upper bound on the memory the run takes on top of the interpreter and its libraries.

    Every worker keeps its largest buffers; a step that is held whole counts once, and no more steps are in
    progress than there are workers. others: plans that are carried out in the same pass.
    """
    plans = (plan, *others)
    held = sorted((held_bytes(step) for one in plans for step in one.steps), reverse=True)
    heads = sum(len(file.head) for one in plans for file in one.layout.files)
    inputs = (source for one in plans for step in one.steps for t in step.inputs for source in t.sources.values())
    return workers * buffers(plans) + sum(held[:workers]) + heads + _ahead_bytes(inputs)


def _ahead_bytes(inputs: Iterable[Source]) -> int:
    if not remotes(inputs):
        return 0
    from requant.read_ahead import READ_AHEAD_BYTES

    return READ_AHEAD_BYTES


def execute(
    plan: Plan,
    options: Options | None = None,
    progress: Progress = lambda nbytes: None,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> Receipt:
    """Write every file of `plan`; `progress` is called with the bytes of input done, from any thread.

    overwrite: whether files that exist may be replaced, and those of the model that is replaced removed; without it
    they are a `PlanError`, before anything is written. resume: go on where an earlier process was killed, if one was;
    and should this one end in an error, what is finished stays. Raises `PlanError` if what was begun is another
    conversion, or if a file that is read has changed since.
    """
    return execute_together((plan,), options, progress, overwrite=overwrite, resume=resume)[0]


def execute_together(
    plans: Sequence[Plan],
    options: Options | None = None,
    progress: Progress = lambda nbytes: None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    dask: str | None = None,
) -> tuple[Receipt, ...]:
    """Write every file of all plans in one pass over what they read, as `execute` does one: all of them, or none.

    Values that several plans store are computed once. The receipts share their seconds and the bytes that were read.
    dask: the address of a Dask cluster that does the work.
    Raises `PlanError` for two plans that write the same file.
    """
    began = time.monotonic()
    there = None if overwrite else next(filter(None, map(existing, plans)), None)
    if there is not None:
        raise PlanError(f"{there} exists", hint="overwrite=True replaces it")
    layout, names = together(plans)
    options = options or Options()
    inputs = list(chain.from_iterable(map(inputs_of, plans)))
    far: list[Any] = remotes(inputs)
    cluster = _connected(dask, far)
    run = Run(plans, names, options, progress, in_source_order=bool(far), cluster=cluster)
    how = (options.replace_nan, options.measure, options.any_value)
    obsolete = dict.fromkeys(path for plan in plans for path in plan.obsolete)
    begun = Begun(beginning_of(plans, inputs, how), resume=resume)
    fetched: dict[str, int] | None = None

    def check() -> None:
        nonlocal fetched
        check_unchanged(inputs)
        fetched = ahead.told(far) if ahead is not None else None

    try:
        with _reading_ahead(far) as ahead, OutputSet(layout, obsolete, begun) as outputs:
            run.work(outputs)
            outputs.publish(check)
    finally:
        if cluster is not None:
            cluster.close()
    seconds = time.monotonic() - began
    return tuple(_receipt(run, plan, seconds, fetched) for plan in plans)


def _connected(dask: str | None, far: Sequence[Any]) -> Cluster | None:
    """The cluster at that address."""
    if dask is None:
        return None
    from requant.cluster import Cluster

    if far:
        raise PlanError(f"{far[0].name}: a cluster reads storage that its machines share", hint="download it there")
    return Cluster(dask)


@contextmanager
def _reading_ahead(far: Sequence[Any]) -> Iterator[ReadAhead | None]:
    """Within, files of servers are fetched ahead."""
    if not far:
        yield None
        return
    from requant.read_ahead import ReadAhead

    ahead = ReadAhead()
    try:
        with reading_through(ahead.read_into):
            yield ahead
    finally:
        ahead.close()


def _receipt(run: Run, plan: Plan, seconds: float, fetched: Mapping[str, int] | None) -> Receipt:
    """What was done for one of the plans."""
    names = {file.name: file.nbytes for file in plan.layout.files}
    cluster = None if run.cluster is None else {"workers": run.cluster_workers, "tasks": run.chunks}
    said = [(step.target.name, id(step)) for step in plan.steps]
    errors = {name: run.errors[number].relative for name, number in said if number in run.errors}
    replaced = {name: run.replaced[number] for name, number in said if number in run.replaced}
    return Receipt(names, seconds, run.bytes_read, errors, replaced, run.resumed, fetched, cluster)


def existing(plan: Plan) -> Path | None:
    """The first file that carrying out the plan would replace or remove.

    Shards have names that only the plan knows, so that a look at the destination is not enough.
    """
    written = (plan.layout.root / file.name for file in plan.layout.files)
    return next((path for path in (*written, *plan.obsolete) if path.exists()), None)


def inputs_of(plan: Plan) -> Iterator[Source]:
    """Everything that is read while the plan is carried out, and what was read while it was made."""
    yield from plan.opened
    for step in plan.steps:
        for tensor in step.inputs:
            yield from tensor.sources.values()
    for file in plan.layout.files:
        if file.body is not None:
            yield file.body
