"""Models whose arrays can be listed and copied, though nothing here knows what weights they mean."""

from __future__ import annotations

from typing import Final

from requant.errors import UnsupportedError
from requant.ir import Checkpoint, Tensor

#: What is told of a checkpoint that is shown as it is stored.
AS_STORED: Final = "what its weights are is not understood, so every array is shown as it is stored: it can be copied"


class NotUnderstood(UnsupportedError):
    """A fold's refusal. stored: the arrays as they lie in the files, which can be looked at, and copied as they are."""

    def __init__(self, message: str, *, hint: str = "", stored: Checkpoint[Tensor] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.stored = stored
