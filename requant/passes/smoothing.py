"""AWQ's factors: found, folded into what makes inputs, and told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from requant.encodings import Dense
from requant.errors import PlanError
from requant.feedback import Feedback
from requant.importance import Importance
from requant.ir import Naming, Typed
from requant.passes.feedback import in_ggml_names
from requant.passes.importance import places_in_hf_names
from requant.passes.passing import Fact
from requant.plan import Move, Translation
from requant.smoothing import FAMILIES, Fold, Matrix, applied, divided, divided_feedback, folds_of, searched

#: Where metadata say how inputs were smoothed.
KEYS: Final = "quantize.smoothing."


@dataclass(frozen=True, slots=True)
class Smooth:
    """Columns with large inputs are multiplied, what makes the inputs divided.

    importance, known: by names of GGML; known: Hessians, for the search. alpha: the power of the inputs' size; None
    tries several. naming: of the output.
    """

    name: ClassVar = "smoothing"
    needs: ClassVar = frozenset({Fact.TYPED})
    ensures: ClassVar = frozenset[Fact]()
    importance: Importance
    known: Feedback | None
    alpha: float | None
    naming: Naming

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for a model of which no matrix can be smoothed."""
        own, known = self.importance, self.known
        if self.naming is Naming.GGML and said.importance is not None:  # layers may be numbered anew
            own, known = said.importance, known and in_ggml_names(known, said)
        names = _names(said, self.naming)
        shapes = {ggml: move.shape for ggml, move in names.items()}
        encodings = dict(zip((move.name for move in said.moves), said.encodings, strict=True))
        tasks: list[tuple[Fold, list[Matrix]]] = []
        for fold in folds_of(_architecture(said), shapes, own):
            matrices = [Matrix(names[name], encodings[names[name].name]) for name in fold.consumers]
            if any(not isinstance(matrix.encoding, Dense) for matrix in matrices):
                tasks.append((fold, matrices))
        if not tasks:
            raise PlanError(
                f"{said.architecture or 'this model'} has no matrices whose inputs could be smoothed",
                hint=f"leave out --smooth; families that can be: {', '.join(sorted(FAMILIES))}",
            )
        smoothed = searched(tasks, own, known, self.alpha)
        moves = applied(said.moves, smoothed, lambda name: [names[name].name] if name in names else [])
        factors = {names[name].name: one.factors for one in smoothed for name in one.fold.consumers}
        importance = said.importance and divided(said.importance, factors)
        feedback = said.feedback and divided_feedback(said.feedback, factors)
        alphas = sorted(one.alpha for one in smoothed)
        told = {
            "groups": str(len(smoothed)),
            "alpha": f"{alphas[0]:g}" if self.alpha is not None else f"searched, median {alphas[len(alphas) // 2]:g}",
        }
        metadata = {**said.metadata, **{KEYS + key: Typed("str", text) for key, text in told.items()}}
        said = replace(said, moves=moves, importance=importance, feedback=feedback, metadata=metadata)
        return replace(said, smoothed=frozenset(factors))


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
