"""An importance matrix, which names tensors as GGUF files do, for a checkpoint in Hugging Face names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from statistics import fmean

import numpy as np

from requant.encodings import Dense, Encoding, Shape
from requant.encodings.bitsandbytes import FourBit, RowInt8
from requant.encodings.scaled import Scaled
from requant.importance import Importance, Measured
from requant.ir import Checkpoint, Naming, Tensor
from requant.losses import Loss, LossKind
from requant.plan import Fidelity, Move, Step

#: Entry, shape of its tensor, matrix of a stack of experts.
_Place = tuple[str, Shape, int]


def in_hf_names(importance: Importance, source: Checkpoint[Tensor], moves: Sequence[Move]) -> Importance:
    """The entries by the names that `moves` give their tensors: one matrix each, or one for each matrix of a stack.

    source: what the moves read. Raises `UnsupportedError` or `PlanError` for an HF checkpoint whose GGML names are
    not known.
    """
    entries: dict[str, Measured] = {}
    outputs: dict[str, float] = {}
    for name, places in places_in_hf_names(source, moves):
        _enter(entries, importance, name, places)
        if all(place[0] in importance.outputs for place in places):
            outputs[name] = fmean(importance.outputs[place[0]] for place in places)
    return replace(importance, entries=entries, outputs=outputs)


def places_in_hf_names(
    source: Checkpoint[Tensor], moves: Sequence[Move]
) -> Iterator[tuple[str, tuple[tuple[str, Shape, int], ...]]]:
    """HF name -> where a GGUF has each of its matrices: entry, shape of its tensor, number of the matrix in that.

    Tensors of which it has no matrix as it is, by its columns, are left out.
    """
    known = None if source.naming is Naming.GGML else dict(_from_hf(source))
    stacks = {move.name for move in moves if len(move.shape) > 2}
    found = _from_ggml(moves) if known is None else ((name, [place]) for name, place in known.items())
    yield from ((name, tuple(places)) for name, places in found if name not in stacks)
    for move in moves:
        if len(move.shape) > 2:
            places = [place for place in _of_stack(move, known) if place is not None]
            if len(places) == prod(move.shape[:-2]):
                yield move.name, tuple(places)


def _enter(entries: dict[str, Measured], importance: Importance, name: str, places: Sequence[_Place]) -> None:
    """The weights of some matrices as the entry of one tensor, if all of them have any."""
    found = []
    for place in places:
        weights = importance.weights_for(place[0], place[1])
        if weights is None:
            return
        found.append(weights[place[2]])
    entries[name] = Measured(np.stack(found), np.ones(len(found), np.int64))


def _of_stack(move: Move, known: Mapping[str, _Place] | None) -> list[_Place | None]:
    """Where each matrix of a stack is from; known: of an HF checkpoint, the places of its tensors."""
    count, height = prod(move.shape[:-2]), move.shape[-2]
    origins = [move.values.origin(number * height) for number in range(count)]
    if known is None:
        return [None if origin is None else _in_ggml(*origin) for origin in origins]
    return [None if origin is None or len(origin[0].shape) > 2 else known.get(origin[0].name) for origin in origins]


def _in_ggml(tensor: Tensor, row: int) -> _Place:
    return tensor.name, tensor.shape, row // tensor.shape[-2] if len(tensor.shape) > 2 else 0


def unused_importance(steps: Sequence[Step], importance: Importance) -> list[Loss]:
    """Losses for layers that are rounded to something narrower, and have no entry that fits; one if none heeds it."""
    quantized = [s for s in steps if s.fidelity is Fidelity.ROUND and not isinstance(s.target.encoding, Dense)]
    heeding = [step for step in quantized if _is_weighed(step.target.encoding)]
    if not heeding:
        into = quantized[0].target.encoding.label if quantized else "what is there"
        return [Loss(LossKind.IMPORTANCE_UNUSED, "--imatrix", f"rounding to {into} takes no heed of it")]
    detail = f"{importance.source or 'the importance matrix'} lacks it"
    return [Loss(LossKind.IMPORTANCE_UNUSED, step.target.name, detail) for step in heeding if step.importance is None]


def _is_weighed(encoding: Encoding) -> bool:
    """Whether scales are searched for; where the largest value of a group makes its scale, nothing can weigh."""
    if isinstance(encoding, FourBit | RowInt8):
        return False
    return not isinstance(encoding, Scaled) or encoding.element in ("F4", "I8")


def _from_ggml(moves: Sequence[Move]) -> Iterator[tuple[str, list[_Place]]]:
    """HF name -> the place of its matrix."""
    for move in moves:
        origin = move.values.origin(0)
        if origin is not None:  # else its columns are others
            yield move.name, [_in_ggml(*origin)]


def _from_hf(source: Checkpoint[Tensor]) -> Iterator[tuple[str, _Place]]:
    from requant.architectures import translate

    for move in translate(source, Naming.GGML).moves:
        if move.values.origin(0) is None:
            continue
        for number, tensor in enumerate(move.inputs):
            yield tensor.name, (move.name, move.shape, number if len(move.shape) > 2 else 0)
