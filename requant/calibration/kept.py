"""What a calibration has found so far, kept in a folder after every layer, so that one that was ended can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from requant.calibration.recording import Record, Sums
from requant.errors import PlanError

_FILE: Final = "found.npz"
_PARTS: Final = ("columns", "rows", "weighted", "noise")


class Kept:
    """key: of the model, the tokens and all that changes what is found. done: stages that need not be run again.

    folder: None keeps nothing. Raises `PlanError` for a folder in which another calibration lies.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder, self._key = folder, key
        self.done, self.width = 0, 0
        self._found: dict[str, Any] = {}
        self._influences: dict[int, tuple[float, int]] = {}
        if folder is not None and (folder / _FILE).exists():
            self._read(folder / _FILE)

    def _read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                self._found = {name: file[name] for name in file.files}
            said = json.loads(self._found.pop("said").tobytes())
            key, self.done, self.width, self._keys = said["key"], said["done"], said["width"], said["keys"]
            self._influences = {int(n): (total, tokens) for n, (total, tokens) in said["influences"].items()}
        except Exception as error:  # a zip file can be damaged in many ways
            raise PlanError(f"{path} is damaged: {error}", hint=f"remove {path.parent} to begin anew") from error
        if key != self._key:
            raise PlanError(
                f"{path.parent} holds a calibration of another model, text or seed",
                hint="remove it, or calibrate as it was begun",
            )

    def restore(self, record: Record) -> None:
        """Put the sums that were found into an empty record."""
        for n, (kind, name, matrix, inputs, gradients) in enumerate(self._keys if self.done else ()):
            columns, rows, weighted, noise = (self._found[f"{part}{n}"] for part in _PARTS)
            sums = Sums(columns, rows, inputs, gradients, weighted, noise)
            if kind == "sums":
                record.sums[name, matrix] = sums
            else:
                record.lookups[name] = sums
        record.influences.update(self._influences)

    def save(self, done: int, record: Record, width: int) -> None:
        """Whole or not at all."""
        if self._folder is None:
            return
        found = [("sums", name, matrix, sums) for (name, matrix), sums in record.sums.items()]
        found += [("lookups", name, 0, sums) for name, sums in record.lookups.items()]
        keys = [(kind, name, matrix, sums.inputs, sums.gradients) for kind, name, matrix, sums in found]
        said = {"key": self._key, "done": done, "width": width, "keys": keys, "influences": record.influences}
        arrays = {f"{part}{n}": getattr(sums, part) for n, (*_, sums) in enumerate(found) for part in _PARTS}
        partial = self._folder / "partial.npz"
        np.savez(partial, said=np.frombuffer(json.dumps(said).encode(), np.uint8), **arrays)
        partial.replace(self._folder / _FILE)
