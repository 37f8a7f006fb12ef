"""Whether what was opened is an importance matrix: asked of every model, so that nothing heavy is imported here."""

from __future__ import annotations

from typing import Final

from requant.ir import Checkpoint, Naming, Tensor

_SUMS: Final = ".in_sum2"


def is_imatrix(checkpoint: Checkpoint[Tensor]) -> bool:
    """Whether a GGUF is one, by its tensors."""
    return checkpoint.naming is Naming.GGML and any(tensor.name.endswith(_SUMS) for tensor in checkpoint.tensors)
