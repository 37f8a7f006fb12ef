"""What storing a tensor as a type is predicted to cost, in Kullback-Leibler divergence per token, in nats.

Half the sum of E[g_i²] E[x_j²] ΔW_ij² over its weights, with ΔW what rounding changes, x its inputs and g the gradients
at its outputs (see `requant.statistics`). The mean of x_j² weighs each token by its |g|²: some tokens have inputs a
thousand times as large as others, and hardly matter. The rows of an embedding count as often as they are looked up.
The costs of tensors add up. Without gradients: half of what share of a tensor's outputs is error, which compares types
of one tensor and says little of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.codecs import codec_for
from requant.encodings import Encoding, rows_of
from requant.errors import PlanError
from requant.expressions import Context, Form, Shared
from requant.importance import Importance, Measured
from requant.measuring import on_measured
from requant.plan import Step
from requant.statistics import LEAST_TOKENS, LLAMA_CPP, Statistics
from requant.system import processors

#: Values of a tensor that are rounded at once.
_RUN: Final = 1 << 19

Doubles = NDArray[np.float64]
#: Of one tensor: label of a type -> predicted divergence.
Losses = dict[str, float]


@dataclass(frozen=True, slots=True)
class Weighing:
    """How much errors of a tensor's rows and columns count, for each matrix: sums over `rows` x `columns`."""

    rows: Doubles
    columns: Doubles


def losses_of(steps: Sequence[Step], statistics: Statistics, types: Sequence[Sequence[Encoding]]) -> list[Losses]:
    """What each tensor would lose as each of its `types`; every weight is rounded to every type."""
    rounding = statistics.rounding
    weighed = [list(_weighings(step, statistics, rounding)) for step in steps]
    shared = [Shared() for _ in steps]
    tasks = [(n, encoding, rows) for n, step in enumerate(steps) for encoding in types[n] for rows in _runs(step)]
    found: list[Losses] = [dict.fromkeys((encoding.label for encoding in one), 0.0) for one in types]

    def measure(task: tuple[int, Encoding, range]) -> float:
        n, encoding, rows = task
        importance = rounding.weights_for(steps[n].target.name, steps[n].target.shape)
        context = Context(shared=shared[n])
        return _loss(steps[n], encoding, rows, weighed[n], importance, statistics.has_gradients, context)

    with ThreadPoolExecutor(processors()) as pool:
        for done, ((n, encoding, _), loss) in enumerate(zip(tasks, pool.map(measure, tasks), strict=True), 1):
            found[n][encoding.label] += loss
            for tell in on_measured:
                tell(done, len(tasks))
    return found


def check_statistics(steps: Sequence[Step], statistics: Statistics) -> None:
    """Raises `PlanError`, naming tensor and reason, where statistics cannot be of this model or are too few."""
    if statistics.provenance.tokens < LEAST_TOKENS:
        raise PlanError(
            f"the statistics are of {statistics.provenance.tokens} tokens, too few to choose types by",
            hint=f"calibrate with {LEAST_TOKENS} at least; tens of thousands are usual",
        )
    looked_up = statistics.provenance.engine == LLAMA_CPP  # what has no entry, or its inputs would have been seen
    for step in steps:
        name, shape = step.target.name, step.target.shape
        matrices, rows = _matrices(step)
        entries = {
            "inputs": (statistics.importance.entries.get(name), (matrices, shape[-1])),
            "outputs": (statistics.outputs.get(name), (matrices, rows)),
            "lookups": (statistics.lookups.get(name), (1, shape[-1])),
            "weighted inputs": (statistics.weighted.get(name), (matrices, shape[-1])),
            "errors of rounded inputs": (statistics.noise.get(name), (1, 2)),
        }
        for what, (entry, wanted) in entries.items():
            if entry is not None:
                _check_entry(name, what, entry, wanted)
        if all(entry is None for entry, _ in entries.values()) and not looked_up:
            raise PlanError(f"{name} is to be rounded, and the statistics lack it", hint="they are of another model")


def _check_entry(name: str, what: str, entry: Measured, wanted: tuple[int, int]) -> None:
    if entry.sums.shape != wanted:
        raise PlanError(
            f"{name}: the statistics' {what} are {list(entry.sums.shape)}, the tensor takes {list(wanted)}",
            hint="they are of another model",
        )
    if not (np.isfinite(entry.sums).all() and (entry.sums >= 0).all()):
        raise PlanError(f"{name}: the statistics' {what} hold values that are no sums of squares")


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


def _weighings(step: Step, statistics: Statistics, rounding: Importance) -> Iterator[Weighing]:
    """Of all rows of the tensor; columns [matrices, columns] are those of a row's matrix."""
    name, tokens = step.target.name, statistics.provenance.tokens
    matrices, per_matrix = _matrices(step)
    inputs, outputs = rounding.entries.get(name), statistics.outputs.get(name)
    if inputs is not None and (outputs is not None or not statistics.has_gradients):
        seen = np.maximum(np.broadcast_to(inputs.counts, matrices), 1)
        columns: Doubles = inputs.sums.astype(np.float64) / seen[:, None] * (seen / tokens)[:, None]
        rows: Doubles = np.ones((matrices, per_matrix))
        if outputs is not None:
            rows = outputs.sums.astype(np.float64) / np.maximum(outputs.counts, 1)[:, None]
        yield Weighing(rows.reshape(-1), columns)
    lookups = statistics.lookups.get(name)
    if lookups is not None and (statistics.has_gradients or inputs is None):
        each = lookups.sums.astype(np.float64) / tokens if statistics.has_gradients else np.ones(lookups.sums.shape)
        yield Weighing(shares_of(lookups.counts), each)
    if inputs is None and lookups is None:  # rows that are looked up, nobody knows which
        yield Weighing(np.ones(matrices * per_matrix), np.ones((matrices, step.target.shape[-1])))


def shares_of(counts: NDArray[np.int64]) -> Doubles:
    """How often each row of an embedding will be looked up, after how often it was.

    Tokens that did not come in this text come in others: together as often as those came that came once (Good and
    Turing), each alike.

    >>> shares_of(np.array([6, 3, 1, 0, 0])).round(2).tolist()
    [0.55, 0.27, 0.09, 0.05, 0.05]
    """
    total, missing = int(counts.sum()), int((counts == 0).sum())
    if not total or not missing:
        return np.asarray(counts / max(total, 1), np.float64)
    unseen = max(int((counts == 1).sum()), 1) / (total + 1)
    return np.where(counts > 0, counts / total * (1 - unseen), unseen / missing)


def _loss(
    step: Step,
    encoding: Encoding,
    rows: range,
    weighed: Sequence[Weighing],
    importance: NDArray[np.float32] | None,
    has_gradients: bool,
    context: Context,
) -> float:
    """Predicted divergence of some rows; without gradients the error over what goes through the whole tensor."""
    values = np.empty((len(rows), step.values.columns), np.float32)
    step.values.fill(Form.VALUES, rows, values, context)
    _, per_matrix = _matrices(step)
    matrix = rows.start // per_matrix
    stored = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in encoding.parts(values.shape).items()}
    codec, again = codec_for(encoding), np.empty_like(values)
    codec.encode(values, stored, 0, None if importance is None else np.ascontiguousarray(importance[matrix]))
    codec.decode(stored, again)
    squares = np.square(again - values)
    total = 0.0
    for one in weighed:
        columns = one.columns[min(matrix, len(one.columns) - 1)]
        error = float(one.rows[rows.start : rows.stop] @ (squares @ columns))
        if not has_gradients:
            error /= max(float(one.rows[rows.start : rows.stop] @ (np.square(values) @ columns)), 1e-30)
            error *= len(rows) / one.rows.size
        total += error / 2
    return total
