"""AWQ's factors: found, folded into what makes inputs, and told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np

from requant.codecs import Values
from requant.encodings import Dense
from requant.errors import PlanError
from requant.feedback import Smoothing
from requant.importance import Importance
from requant.ir import Naming, Typed
from requant.passes.importance import places_in_hf_names
from requant.passes.passing import Fact
from requant.plan import Move, Translation
from requant.smoothing import (
    FAMILIES,
    Fold,
    Matrix,
    Smoothed,
    applied,
    divided,
    divided_feedback,
    factors_of,
    folds_of,
    searched,
)

#: Where metadata say how inputs were smoothed.
KEYS: Final = "quantize.smoothing."


@dataclass(frozen=True, slots=True)
class Smooth:
    """Columns with large inputs are multiplied, what makes the inputs divided.

    importance, smoothing: by names of GGML. naming: of the output.
    """

    name: ClassVar = "smoothing"
    needs: ClassVar = frozenset({Fact.TYPED})
    ensures: ClassVar = frozenset[Fact]()
    importance: Importance
    smoothing: Smoothing
    naming: Naming

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for a model of which no matrix can be smoothed."""
        smoothed = self.smoothing.found or self._searched(said)
        factors = factors_of(smoothed)
        importance = said.importance and divided(said.importance, factors)
        feedback = said.feedback and divided_feedback(said.feedback, factors)
        alphas = sorted(one.alpha for one in smoothed)
        alpha, middle = self.smoothing.alpha, alphas[len(alphas) // 2]
        told = {
            "groups": str(len(smoothed)),
            "alpha": f"searched, median {middle:g}" if alpha is None else f"{alpha:g}",
        }
        metadata = {**said.metadata, **{KEYS + key: Typed("str", text) for key, text in told.items()}}
        said = replace(said, moves=applied(said.moves, smoothed), importance=importance, feedback=feedback)
        return replace(said, metadata=metadata, smoothed=smoothed)

    def _searched(self, said: Translation) -> tuple[Smoothed, ...]:
        """By the names of the moves."""
        own, asked = self.importance, self.smoothing
        if self.naming is Naming.GGML and said.importance is not None:  # layers may be numbered anew
            now = {move.inputs[0].name: move.name for move in said.moves} if said.source.naming is Naming.GGML else {}
            own, asked = said.importance, asked.renamed(now.get) if now else asked
        names = _names(said, self.naming)
        shapes = {ggml: move.shape for ggml, move in names.items()}
        encodings = dict(zip((move.name for move in said.moves), said.encodings, strict=True))
        tasks: list[tuple[Fold, list[Matrix]]] = []
        for fold in folds_of(_architecture(said), shapes, asked.inputs or own):
            matrices = []
            for name in fold.consumers:
                squares, encoding = _squares(own, name), encodings[names[name].name]
                matrices.append(Matrix(names[name], encoding, squares, asked.weight(name), asked.noise.get(name)))
            if any(not isinstance(matrix.encoding, Dense) for matrix in matrices):
                tasks.append((fold, matrices))
        if not tasks:
            raise PlanError(
                f"{said.architecture or 'this model'} has no matrices whose inputs could be smoothed",
                hint=f"leave out --smooth; families that can be: {', '.join(sorted(FAMILIES))}",
            )
        found = searched(tasks, asked.known, asked.alpha)
        return tuple(replace(one, fold=_in_own_names(one.fold, names)) for one in found)


def _squares(importance: Importance, name: str) -> Values:
    """Mean squares of the inputs of a matrix."""
    entry = importance.entries[name]
    return np.asarray(entry.sums.reshape(-1) / np.float32(max(int(entry.counts[0]), 1)), np.float32)


def _in_own_names(fold: Fold, names: Mapping[str, Move]) -> Fold:
    return replace(
        fold, maker=names[fold.maker].name, consumers=tuple(names[consumer].name for consumer in fold.consumers)
    )


def _names(said: Translation, naming: Naming) -> Mapping[str, Move]:
    """By the names of GGUF, the moves that make a whole tensor of it (and biases, which no statistics name)."""
    if naming is Naming.GGML:
        return {move.name: move for move in said.moves}
    moves, found = {move.name: move for move in said.moves}, dict[str, Move]()
    for name, places in places_in_hf_names(said.source, said.moves):
        if len(places) == 1 and name in moves and places[0][1] == moves[name].shape:
            found[places[0][0]] = moves[name]
    return found


def _architecture(said: Translation) -> str:
    """As ggml calls it."""
    if said.source.naming is Naming.GGML:
        return said.source.architecture
    from requant.architectures import translate

    return translate(said.source, Naming.GGML).architecture
