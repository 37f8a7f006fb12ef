"""States between layers, in a file: a window of them is in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from requant import system
from requant.errors import PlanError


class States:
    """windows [tokens, width] of float32, one after another. A file is mapped nowhere: it would count as memory."""

    def __init__(self, path: Path, tokens: int, width: int) -> None:
        self._path, self._tokens, self._width = path, tokens, width

    def make_room(self, windows: int) -> States:
        """On the disk, for so many; a full one is an `OSError` now and not later."""
        with self._path.open("wb") as file:
            system.reserve(file.fileno(), windows * self._step)
        return self

    @property
    def _step(self) -> int:
        return 4 * self._tokens * self._width

    def __getitem__(self, number: int) -> Any:
        """[1, tokens, width], a tensor of its own."""
        with self._path.open("rb") as file:
            values = np.fromfile(file, np.float32, self._tokens * self._width, offset=number * self._step)
        if values.nbytes != self._step:
            raise PlanError(f"{self._path} is cut off", hint=f"remove {self._path.parent} to begin anew")
        return torch.from_numpy(values.reshape(1, self._tokens, self._width))

    def __setitem__(self, number: int, states: Any) -> None:
        """states: [tokens, width]."""
        with self._path.open("r+b") as file:
            file.seek(number * self._step)
            file.write(np.ascontiguousarray(states.numpy()).data)
