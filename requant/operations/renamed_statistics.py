"""Statistics, which name tensors and order rows as GGUF files do, by the names and rows of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from requant.encodings import Shape, rows_of
from requant.importance import Measured
from requant.ir import Naming
from requant.plan import Move, Translation
from requant.statistics import Statistics

#: A row of a tensor of a GGUF: its name, and its number among all rows of all matrices.
_Row = tuple[str, int]


def in_names_of(said: Translation, statistics: Statistics) -> Statistics:
    """By the names of `said.moves`; a tensor whose columns are others than a GGUF's is left out."""
    shapes, rows = _rows_by_source(said)
    inputs: dict[str, Measured] = {}
    outputs: dict[str, Measured] = {}
    lookups: dict[str, Measured] = {}
    weighted: dict[str, Measured] = {}
    for move in said.moves:
        found = _rows_of(move, rows) if len(move.shape) > 1 else None
        if found is None:
            continue
        matrices = move.shape[-3] if len(move.shape) > 2 else 1
        per_matrix = len(found) // matrices
        firsts = [found[matrix * per_matrix] for matrix in range(matrices)]
        for table, own in ((statistics.importance.entries, inputs), (statistics.weighted, weighted)):
            entries = [_matrix(table, name, row, shapes) for name, row in firsts]
            known = [entry for entry in entries if entry is not None]
            if len(known) == matrices:
                own[move.name] = Measured(np.stack([s for s, _ in known]), np.array([c for _, c in known], np.int64))
        entries = [_matrix(statistics.outputs, name, row, shapes) for name, row in firsts]
        known = [entry for entry in entries if entry is not None]
        if len(known) == matrices and all(name in statistics.outputs for name, _ in found):
            sums = [statistics.outputs[name].sums.reshape(-1)[row] for name, row in found]
            outputs[move.name] = Measured(
                np.array(sums, np.float32).reshape(matrices, -1), np.array([c for _, c in known], np.int64)
            )
        if (looked_up := statistics.lookups.get(firsts[0][0])) is not None:
            lookups[move.name] = Measured(looked_up.sums, looked_up.counts[[row for _, row in found]])
    return replace(
        statistics,
        importance=replace(statistics.importance, entries=inputs),
        outputs=outputs,
        lookups=lookups,
        weighted=weighted,
    )


def _matrix(
    table: Mapping[str, Measured], name: str, row: int, shapes: Mapping[str, Shape]
) -> tuple[np.ndarray, int] | None:
    """Sums and count of the matrix that a row of a GGUF's tensor belongs to."""
    if (entry := table.get(name)) is None:
        return None
    matrix = row // shapes[name][-2] if len(shapes[name]) > 2 else 0
    return entry.sums[matrix], int(entry.counts[min(matrix, len(entry.counts) - 1)])


def _rows_by_source(said: Translation) -> tuple[dict[str, Shape], Mapping[str, list[_Row | None]]]:
    """Shapes of a GGUF's tensors, and where the rows of each stored tensor are in it."""
    if said.source.naming is Naming.GGML:
        shapes = {tensor.name: tensor.shape for tensor in said.source.tensors}
        return shapes, {name: [(name, row) for row in range(rows_of(shape))] for name, shape in shapes.items()}
    from requant.architectures import translate

    rows: dict[str, list[_Row | None]] = {t.name: [None] * rows_of(t.shape) for t in said.source.tensors}
    shapes = {}
    for move in translate(said.source, Naming.GGML).moves:
        shapes[move.name] = move.shape
        if len(move.shape) > 1:
            for number in range(move.values.rows):
                if (origin := move.values.origin(number)) is not None:
                    rows[origin[0].name][origin[1]] = (move.name, number)
    return shapes, rows


def _rows_of(move: Move, rows: Mapping[str, list[_Row | None]]) -> list[_Row] | None:
    """Where the rows of a tensor of the folder are in a GGUF; None where one is not."""
    found: list[_Row] = []
    for number in range(move.values.rows):
        origin = move.values.origin(number)
        place = None if origin is None else rows[origin[0].name][origin[1]]
        if place is None:
            return None
        found.append(place)
    return found
