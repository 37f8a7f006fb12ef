"""Sums by Hugging Face's names, said by the names, rows and stacks of GGUF; and what tells one model from another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from requant.calibration.outer import Key, Outer
from requant.calibration.recording import Record, Sums
from requant.hessians import Hessian
from requant.importance import Measured
from requant.ir import Checkpoint, Naming, Tensor
from requant.plan import Move, Plan
from requant.sources import Memory
from requant.statistics import NOISE_BLOCKS


@dataclass(frozen=True, slots=True)
class Tables:
    """As `requant.statistics.Statistics` has them."""

    inputs: dict[str, Measured] = field(default_factory=dict)
    outputs: dict[str, Measured] = field(default_factory=dict)
    lookups: dict[str, Measured] = field(default_factory=dict)
    weighted: dict[str, Measured] = field(default_factory=dict)
    noise: dict[str, Measured] = field(default_factory=dict)
    influences: dict[str, Measured] = field(default_factory=dict)
    trials: dict[str, Measured] = field(default_factory=dict)


def ggml_moves(plan: Plan) -> tuple[Move, ...]:
    """The tensors of a GGUF, as moves of those that a plan writes into a folder."""
    from requant.architectures import translate

    config = plan.passes[-1].after.config
    tensors = tuple(
        Tensor(step.target.name, step.target.shape, step.target.encoding, dict.fromkeys(step.target.parts, Memory(b"")))
        for step in plan.steps
    )
    source: Checkpoint[Tensor] = Checkpoint(Naming.HF, str(config.get("model_type", "")), tensors, config)
    return tuple(translate(source, Naming.GGML).moves)


def in_ggml_names(record: Record, moves: Iterable[Move]) -> Tables:
    """Inputs, outputs and lookups of the tensors of a GGUF; of a tensor whose columns are computed there is nothing."""
    found = Tables()
    for layer, (total, tokens) in record.influences.items():
        found.influences[f"blk.{layer}"] = Measured(np.array([[total]], np.float32), np.array([tokens], np.int64))
    for name, one in record.trials.items():
        if one.predicted:  # where no row fits a type, there was no trial
            sums = np.array([[one.predicted * one.windows, one.measured]], np.float32)
            found.trials[name] = Measured(sums, np.array([one.windows], np.int64))
    stored = {name for name, _ in record.sums}
    for move in moves:
        if len(move.shape) < 2:
            continue
        origins = [move.values.origin(row) for row in range(move.values.rows)]
        known = [origin for origin in origins if origin is not None]
        if len(known) < len(origins) or not known:
            continue
        if known[0][0].name in record.lookups:
            rows = [row for _, row in known]
            own = record.lookups[known[0][0].name]
            gradients = own.columns[None] if own.gradients else np.zeros((1, len(own.columns)))
            scale = own.inputs / max(own.gradients, 1)
            found.lookups[move.name] = Measured((gradients * scale).astype(np.float32), own.rows[rows].astype(np.int64))
        if all(tensor.name in stored for tensor, _ in known):
            _products(record, move, [(tensor, row) for tensor, row in known], found)
    return found


def _products(
    record: Record,
    move: Move,
    origins: list[tuple[Tensor, int]],
    found: Tables,
) -> None:
    matrices = move.shape[-3] if len(move.shape) > 2 else 1
    per_matrix = len(origins) // matrices
    columns, rows, counts, gradients, weighted = [], [], [], [], []
    noise = np.zeros(len(NOISE_BLOCKS))
    for matrix in range(matrices):
        own = origins[matrix * per_matrix : (matrix + 1) * per_matrix]
        placed = [_place(record, tensor, row) for tensor, row in own]
        first = placed[0][0]
        columns.append(first.columns)
        counts.append(first.inputs)
        rows.append([sums.rows[row] for sums, row in placed])
        gradients.append(first.gradients)
        weighted.append(first.weighted)
        noise += first.noise
    found.inputs[move.name] = Measured(np.array(columns, np.float32), np.array(counts, np.int64))
    if any(gradients):
        found.outputs[move.name] = Measured(np.array(rows, np.float32), np.array(gradients, np.int64))
        found.weighted[move.name] = Measured(np.array(weighted, np.float32), np.array(gradients, np.int64))
        found.noise[move.name] = Measured(noise[None].astype(np.float32), np.array([max(gradients)], np.int64))


def hessians_in_ggml_names(
    outer: Outer, moves: Iterable[Move], measured: Iterable[str]
) -> dict[str, tuple[Hessian | None, ...]]:
    """Of each matrix of the tensors of a GGUF that were measured; None of an expert that no token has reached.

    A sum has the name of the first matrix that it is of.
    """
    wanted, names = set(measured), dict[Key, str]()
    found = {}
    for move in moves:
        if move.name not in wanted:
            continue
        matrices = move.shape[-3] if len(move.shape) > 2 else 1
        origins = [move.values.origin(matrix * (move.values.rows // matrices)) for matrix in range(matrices)]
        squares: list[Hessian | None] = []
        for matrix, origin in enumerate(origins):
            assert origin is not None  # or it had not been measured
            tensor, row = origin
            place = outer.found((tensor.name, row // tensor.shape[-2] if len(tensor.shape) > 2 else 0))
            if place is None:
                squares.append(None)
                continue
            name = names.setdefault(place[0], f"{move.name}.{matrix}" if matrices > 1 else move.name)
            squares.append(replace(place[1], name=name))
        found[move.name] = tuple(squares)
    return found


def _place(record: Record, tensor: Tensor, row: int) -> tuple[Sums, int]:
    """Where the sums of a row of a tensor of the plan are."""
    if len(tensor.shape) < 3:
        return record.sums[tensor.name, 0], row
    matrix, inside = divmod(row, tensor.shape[-2])
    return record.sums[tensor.name, matrix], inside
