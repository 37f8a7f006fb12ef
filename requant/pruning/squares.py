"""What a calibration has measured, by the names of a model's tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.hessians import Hessian
from requant.importance import Importance
from requant.ir import Naming
from requant.merging.model import Model
from requant.passes.importance import in_hf_names, places_in_hf_names
from requant.plan import Move

#: The last matrices of all experts of a layer, as GGUF has them.
_LAST: Final = re.compile(r"blk\.(\d+)\.ffn_down_exps\.weight", re.ASCII)


def squares_of(importance: Importance, model: Model) -> dict[str, NDArray[np.float32]]:
    """Mean squares of what each column is given, [matrices, columns]; of [in, out] matrices, columns are inputs."""
    moves = tuple(Move(name, node) for name, node in model.tensors.items())
    found = in_hf_names(importance, model.source, moves)
    squares = {name: weights for name in found.entries if (weights := found.weights(name)) is not None}
    if model.source.naming is Naming.HF:
        squares |= _of_transposed(importance, model)
    return squares


def _of_transposed(importance: Importance, model: Model) -> dict[str, NDArray[np.float32]]:
    from requant.architectures import translate

    found = {}
    for move in translate(model.source, Naming.GGML).moves:
        if len(move.shape) == 2 and len(move.inputs) == 1 and move.values.origin(0) is None:
            weights = importance.weights_for(move.name, move.shape)
            if weights is not None and move.values.turned().origin(0) is not None:
                found[move.inputs[0].name] = weights
    return found


def experts_of(importance: Importance) -> dict[int, NDArray[np.float64]]:
    """By layer, of each expert: the squares of what goes into its last matrix, summed over the tokens that reach it."""
    found = {}
    for name, entry in importance.entries.items():
        match = _LAST.fullmatch(name)
        if match is not None:
            found[int(match[1])] = entry.sums.astype(np.float64).sum(1)
    return found


def hessians_of(
    hessians: Mapping[str, tuple[Hessian | None, ...]], model: Model
) -> dict[str, tuple[Hessian | None, ...]]:
    """Of each matrix of each tensor; None of one that there is nothing of."""
    moves = tuple(Move(name, node) for name, node in model.tensors.items())
    found = {}
    for name, places in places_in_hf_names(model.source, moves):
        known = [hessians.get(entry, ()) for entry, _, _ in places]
        pairs = zip(known, places, strict=True)
        found[name] = tuple(own[matrix] if matrix < len(own) else None for own, (_, _, matrix) in pairs)
    return found
