"""What an importance matrix says: what it was measured on, how well it covers a model, and where the weight lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from requant.encodings import Shape
from requant.importance import Importance, Measured
from requant.ir import Checkpoint, Json, Naming, Tensor

#: Columns that are named of each entry.
_TOP: Final = 5


@dataclass(frozen=True, slots=True)
class Column:
    """An input of a matrix. share: of the mean squares of all inputs of that matrix."""

    matrix: int
    column: int
    share: float


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What was measured of one tensor.

    tokens: that went into it, of all its matrices. unreached: matrices (experts) that no token reached. silent:
    columns that were 0 for every token, of the matrices that were reached. broken: sums that are no numbers.
    """

    name: str
    matrices: int
    columns: int
    tokens: int
    unreached: int
    silent: int
    broken: int
    top: tuple[Column, ...]

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "name": self.name,
            "matrices": self.matrices,
            "columns": self.columns,
            "tokens": self.tokens,
            "unreached": self.unreached,
            "silent_columns": self.silent,
            "not_numbers": self.broken,
            "top": [{"matrix": one.matrix, "column": one.column, "share": one.share} for one in self.top],
        }


@dataclass(frozen=True, slots=True)
class Coverage:
    """Beside a model. missing: its matrices without an entry. unknown: entries without a tensor. misfits: why."""

    covered: int
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    misfits: Mapping[str, str]

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "covered": self.covered,
            "missing": list(self.missing),
            "unknown": list(self.unknown),
            "misfits": dict(self.misfits),
        }


def entries_of(importance: Importance) -> list[EntryFacts]:
    """In the order of the file."""
    return [_facts(name, entry) for name, entry in importance.entries.items()]


def _facts(name: str, entry: Measured) -> EntryFacts:
    sums = entry.sums.astype(np.float64)
    reached = entry.counts > 0
    broken = int(np.count_nonzero(~np.isfinite(sums)))
    with np.errstate(all="ignore"):
        means = np.where(np.isfinite(sums), sums, 0) / np.maximum(entry.counts, 1)[:, None]
        shares = means / means.sum(axis=1, keepdims=True)
    shares = np.where(np.isfinite(shares), shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:_TOP]
    places = [divmod(int(at), sums.shape[1]) for at in order]
    return EntryFacts(
        name,
        sums.shape[0],
        sums.shape[1],
        int(entry.counts.sum()),
        int(np.count_nonzero(~reached)),
        int(np.count_nonzero(sums[reached] == 0)),
        broken,
        tuple(Column(row, column, float(shares[row, column])) for row, column in places if shares[row, column] > 0),
    )


def coverage(importance: Importance, model: Checkpoint[Tensor]) -> Coverage:
    """Beside a model of either naming; raises `Error` for a folder that cannot be said in GGUF's names."""
    shapes = dict(_matrices(model))
    misfits = {name: why for name, shape in shapes.items() if (why := importance.mismatch(name, shape))}
    return Coverage(
        sum(name in importance.entries and name not in misfits for name in shapes),
        tuple(name for name in shapes if name not in importance.entries),
        tuple(name for name in importance.entries if name not in shapes),
        misfits,
    )


def _matrices(model: Checkpoint[Tensor]) -> Iterator[tuple[str, Shape]]:
    """By the names of a GGUF, what multiplies activations: matrices of layers, and the output."""
    for name, shape in _named(model):
        multiplies = name.startswith("blk.") and not any(word in name for word in ("norm", "conv1d", "shortconv.conv"))
        if len(shape) > 1 and name.endswith(".weight") and (multiplies or name == "output.weight"):
            yield name, shape


def _named(model: Checkpoint[Tensor]) -> Sequence[tuple[str, Shape]]:
    if model.naming is Naming.GGML:
        return [(tensor.name, tensor.shape) for tensor in model.tensors]
    from requant.architectures import translated
    from requant.plan import unchanged

    said = unchanged(model)
    for part in ("family", "hyperparameters", "names"):
        said = translated(said, Naming.GGML, part)
    return [(move.name, move.shape) for move in said.moves]
