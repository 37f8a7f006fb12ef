"""What a calibration in torch has found so far, kept in a folder after every layer, so that one that was ended can go
on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

from requant.calibration.recording import Record, Sums, Tried
from requant.calibration.resuming import Key, keep, read_kept

_PARTS: Final = ("columns", "rows", "weighted", "noise")


class Kept:
    """done: stages that need not be run again. folder: None keeps nothing.

    Raises `PlanError` for a folder in which another calibration lies.
    """

    def __init__(self, folder: Path | None, key: Key) -> None:
        self._folder, self._key = folder, key
        said, self._found = read_kept(folder, key) if folder is not None else ({}, {})
        self.done, self.width = int(said.get("done", 0)), int(said.get("width", 0))
        self._keys = said.get("keys", [])
        self._influences = {int(n): (total, tokens) for n, (total, tokens) in said.get("influences", {}).items()}
        self._trials = {name: Tried(**one) for name, one in said.get("trials", {}).items()}

    def restore(self, record: Record) -> None:
        """Put the sums that were found into an empty record."""
        for n, (kind, name, matrix, inputs, gradients) in enumerate(self._keys):
            columns, rows, weighted, noise = (self._found[f"{part}{n}"] for part in _PARTS)
            sums = Sums(columns, rows, inputs, gradients, weighted, noise)
            if kind == "sums":
                record.sums[name, matrix] = sums
            else:
                record.lookups[name] = sums
        record.influences.update(self._influences)
        record.trials.update(self._trials)

    def save(self, done: int, record: Record, width: int) -> None:
        """Whole or not at all."""
        if self._folder is None:
            return
        found = [("sums", name, matrix, sums) for (name, matrix), sums in record.sums.items()]
        found += [("lookups", name, 0, sums) for name, sums in record.lookups.items()]
        keys = [(kind, name, matrix, sums.inputs, sums.gradients) for kind, name, matrix, sums in found]
        trials = {name: asdict(one) for name, one in record.trials.items()}
        said = {"done": done, "width": width, "keys": keys, "influences": record.influences, "trials": trials}
        arrays = {f"{part}{n}": getattr(sums, part) for n, (*_, sums) in enumerate(found) for part in _PARTS}
        keep(self._folder, self._key, said, arrays)
