"""A model by whatever names it: what a library's user calls."""

from __future__ import annotations

from pathlib import Path

from requant import formats
from requant.ir import Checkpoint, Tensor
from requant.locating import located


def open(model: Path | str) -> Checkpoint[Tensor]:
    """Describe a model, whatever its format; no tensor byte is read. Raises `Error`.

    model: a file or folder. A string that names none may name a model of the Hugging Face Hub (see `requant.hub`),
    which is downloaded into its cache. If a model was being replaced when a process was killed, that is finished first.
    """
    return formats.open(located(model) if isinstance(model, str) else model)
