"""Which type each tensor gets so that a file has a given size and the model loses least.

What storing a tensor as a type costs is predicted in Kullback-Leibler divergence per token, in nats: half the sum of
E[g_i²] E[x_j²] ΔW_ij² over its weights, with ΔW what rounding changes, x its inputs and g the gradients at its outputs
(see `requant.statistics`); an embedding's rows count as often as they are looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import codec_for
from requant.encodings import BLOCKS, Blocks, rows_of
from requant.errors import PlanError
from requant.expressions import Context, Form, Shared
from requant.measuring import on_measured
from requant.plan import Step
from requant.statistics import LEAST_TOKENS, Statistics
from requant.system import processors

#: What is tried where the user names no types; blocks of 32 only where rows have no whole blocks of 256.
_SUPER: Final = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
_SMALL: Final = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
#: Values of a tensor that are rounded at once.
_RUN: Final = 1 << 19

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Option:
    """A type that a tensor can have, the bytes it takes then, and the divergence that is predicted."""

    encoding: Blocks
    nbytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Weighing:
    """How much errors of a tensor's rows and columns count, for each matrix: sums over `rows` x `columns`."""

    rows: Doubles
    columns: Doubles


def options_of(steps: Sequence[Step], statistics: Statistics, types: Sequence[str]) -> list[list[Option]]:
    """What each tensor can be, from small to large; every weight is rounded to every type.

    Raises `PlanError` for statistics that do not fit, before anything is rounded.
    """
    check_statistics(steps, statistics)
    candidates = [_candidates(step, types) for step in steps]
    weighed = [list(_weighings(step, statistics)) for step in steps]
    shared = [Shared() for _ in steps]
    tasks = [(n, encoding, rows) for n, step in enumerate(steps) for encoding in candidates[n] for rows in _runs(step)]
    found: dict[tuple[int, str], float] = {}

    def measure(task: tuple[int, Blocks, range]) -> float:
        n, encoding, rows = task
        return _loss(steps[n], encoding, rows, weighed[n], statistics, Context(shared=shared[n]))

    with ThreadPoolExecutor(processors()) as pool:
        for done, ((n, encoding, _), loss) in enumerate(zip(tasks, pool.map(measure, tasks), strict=True), 1):
            found[n, encoding.label] = found.get((n, encoding.label), 0.0) + loss
            for tell in on_measured:
                tell(done, len(tasks))
    return [
        sorted(
            (
                Option(encoding, encoding.parts(step.target.shape)["data"].nbytes, found[n, encoding.label])
                for encoding in candidates[n]
            ),
            key=lambda option: option.nbytes,
        )
        for n, step in enumerate(steps)
    ]


def allocated(options: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """One option for each tensor, of at most `budget` bytes together, with about the least loss there is.

    On the convex hull of each tensor's options upgrades are taken in the order of what they save for a byte; what is
    left is filled with the best that still fits. Raises `PlanError` where even the smallest are too large.
    """
    chosen = [min(candidates, key=lambda option: (option.nbytes, option.loss)) for candidates in options]
    left = budget - sum(option.nbytes for option in chosen)
    if left < 0:
        raise PlanError(
            f"the smallest types take {budget - left} bytes, and {max(budget, 0)} are asked for",
            hint="name smaller ones with --types, or ask for more",
        )
    steps = [(rate, n, option) for n, one in enumerate(options) for rate, option in _hull(one)]
    for _, n, option in sorted(steps, key=lambda step: (-step[0], step[1])):
        more = option.nbytes - chosen[n].nbytes
        if 0 <= more <= left and option.loss < chosen[n].loss:
            chosen[n], left = option, left - more
    while gains := [
        ((chosen[n].loss - option.loss) / max(option.nbytes - chosen[n].nbytes, 1), n, option)
        for n, one in enumerate(options)
        for option in one
        if option.loss < chosen[n].loss and option.nbytes - chosen[n].nbytes <= left
    ]:
        _, n, option = max(gains, key=lambda gain: gain[0])
        left -= option.nbytes - chosen[n].nbytes
        chosen[n] = option
    return chosen


def _hull(options: Sequence[Option]) -> Iterator[tuple[float, Option]]:
    """The upgrades on the lower convex hull, each with what it saves for a byte."""
    now = min(options, key=lambda option: (option.nbytes, option.loss))
    while better := [o for o in options if o.nbytes > now.nbytes and o.loss < now.loss]:
        best = max(better, key=lambda o: ((now.loss - o.loss) / (o.nbytes - now.nbytes), o.nbytes))
        yield (now.loss - best.loss) / (best.nbytes - now.nbytes), best
        now = best


def check_statistics(steps: Sequence[Step], statistics: Statistics) -> None:
    """Raises `PlanError`, naming tensor and reason, where statistics cannot be of this model or are too few."""
    if statistics.provenance.tokens < LEAST_TOKENS:
        raise PlanError(
            f"the statistics are of {statistics.provenance.tokens} tokens, too few to choose types by",
            hint=f"calibrate with {LEAST_TOKENS} at least; tens of thousands are usual",
        )
    for step in steps:
        name, shape = step.target.name, step.target.shape
        matrices, rows = _matrices(step)
        entries = {
            "inputs": (statistics.importance.entries.get(name), (matrices, shape[-1])),
            "outputs": (statistics.outputs.get(name), (matrices, rows)),
            "lookups": (statistics.lookups.get(name), (1, shape[-1])),
        }
        for what, (entry, wanted) in entries.items():
            if entry is not None and entry.sums.shape != wanted:
                raise PlanError(
                    f"{name}: the statistics' {what} are {list(entry.sums.shape)}, the tensor takes {list(wanted)}",
                    hint="they are of another model",
                )
            if entry is not None and not (np.isfinite(entry.sums).all() and (entry.sums >= 0).all()):
                raise PlanError(f"{name}: the statistics' {what} hold values that are no sums of squares")
        if all(entry is None for entry, _ in entries.values()):
            raise PlanError(f"{name} is to be rounded, and the statistics lack it", hint="they are of another model")


def _candidates(step: Step, types: Sequence[str]) -> list[Blocks]:
    columns = step.target.shape[-1]
    named = types or (_SUPER if columns % 256 == 0 else _SMALL)
    fitting = [BLOCKS[name] for name in named if columns % BLOCKS[name].values == 0]
    if not fitting:
        raise PlanError(f"{step.target.name}: none of the types fits rows of {columns}", hint="--types Q4_0,Q8_0")
    return fitting


def _matrices(step: Step) -> tuple[int, int]:
    """How many a tensor has, and the rows of each."""
    shape = step.target.shape
    matrices = shape[-3] if len(shape) > 2 else 1
    return matrices, rows_of(shape) // matrices


def _runs(step: Step) -> Iterator[range]:
    """Rows of one matrix at a time."""
    node, (matrices, per_matrix) = step.values, _matrices(step)
    length = node.granule * max(1, _RUN // (node.granule * node.columns))
    for matrix in range(matrices):
        for start in range(0, per_matrix, length):
            yield range(matrix * per_matrix + start, matrix * per_matrix + min(start + length, per_matrix))


def _weighings(step: Step, statistics: Statistics) -> Iterator[Weighing]:
    """Of all rows of the tensor; columns [matrices, columns] are those of a row's matrix."""
    name, tokens = step.target.name, statistics.provenance.tokens
    matrices, per_matrix = _matrices(step)
    inputs, outputs = statistics.importance.entries.get(name), statistics.outputs.get(name)
    if inputs is not None and (outputs is not None or not statistics.has_gradients):
        seen = np.maximum(np.broadcast_to(inputs.counts, matrices), 1)
        columns: Doubles = inputs.sums.astype(np.float64) / seen[:, None] * (seen / tokens)[:, None]
        rows: Doubles = np.ones((matrices, per_matrix))
        if outputs is not None:
            rows = outputs.sums.astype(np.float64) / np.maximum(outputs.counts, 1)[:, None]
        yield Weighing(rows.reshape(-1), columns)
    lookups = statistics.lookups.get(name)
    if lookups is not None and (statistics.has_gradients or inputs is None):
        shares = lookups.counts / max(lookups.counts.sum(), 1)
        each = lookups.sums.astype(np.float64) / tokens if statistics.has_gradients else np.ones(lookups.sums.shape)
        yield Weighing(shares, each)


def _loss(
    step: Step,
    encoding: Blocks,
    rows: range,
    weighed: Sequence[Weighing],
    statistics: Statistics,
    context: Context,
) -> float:
    """Predicted divergence of some rows; without gradients the error over what goes through the whole tensor."""
    values = np.empty((len(rows), step.values.columns), np.float32)
    step.values.fill(Form.VALUES, rows, values, context)
    _, per_matrix = _matrices(step)
    matrix = rows.start // per_matrix
    importance = statistics.importance.weights_for(step.target.name, step.target.shape)
    width = encoding.parts(values.shape)["data"].nbytes // len(rows)
    stored = {"data": np.empty((len(rows), width), np.uint8)}
    codec, again = codec_for(encoding), np.empty_like(values)
    codec.encode(values, stored, 0, None if importance is None else np.ascontiguousarray(importance[matrix]))
    codec.decode(stored, again)
    squares = np.square(again - values)
    total = 0.0
    for one in weighed:
        columns = one.columns[min(matrix, len(one.columns) - 1)]
        error = float(one.rows[rows.start : rows.stop] @ (squares @ columns))
        if not statistics.has_gradients:
            error /= max(float(one.rows[rows.start : rows.stop] @ (np.square(values) @ columns)), 1e-30)
            error *= len(rows) / one.rows.size
        total += error / 2
    return total
