"""An importance matrix, which names tensors as GGUF files do, for a checkpoint in Hugging Face names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from requant.encodings import Dense, Encoding, Shape
from requant.encodings.bitsandbytes import FourBit, RowInt8
from requant.encodings.scaled import Scaled
from requant.importance import Importance, Measured
from requant.ir import Checkpoint, Naming, Tensor
from requant.losses import Loss, LossKind
from requant.plan import Fidelity, Move, Step


def in_hf_names(importance: Importance, source: Checkpoint[Tensor], moves: Sequence[Move]) -> Importance:
    """The entries by the names that `moves` give their tensors, one matrix each.

    source: what the moves read. Raises `UnsupportedError` or `PlanError` for an HF checkpoint whose GGML names are
    not known.
    """
    found = _from_ggml(moves) if source.naming is Naming.GGML else _from_hf(source)
    entries = {}
    for name, (entry, shape, matrix) in found:
        weights = importance.weights_for(entry, shape)
        if weights is not None:
            entries[name] = Measured(weights[matrix : matrix + 1], np.ones(1, np.int64))
    return Importance(entries, importance.datasets, importance.chunks, importance.chunk_tokens, importance.source)


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


def _from_ggml(moves: Sequence[Move]) -> Iterator[tuple[str, tuple[str, Shape, int]]]:
    """HF name -> (entry, shape of its tensor, matrix of a stack of experts)."""
    for move in moves:
        origin = move.values.origin(0)
        if origin is not None:  # else its columns are others
            tensor, row = origin
            yield move.name, (tensor.name, tensor.shape, row // tensor.shape[-2] if len(tensor.shape) > 2 else 0)


def _from_hf(source: Checkpoint[Tensor]) -> Iterator[tuple[str, tuple[str, Shape, int]]]:
    from requant.architectures import translate

    for move in translate(source, Naming.GGML).moves:
        if move.values.origin(0) is None:
            continue
        for number, tensor in enumerate(move.inputs):
            yield tensor.name, (move.name, move.shape, number if len(move.shape) > 2 else 0)
