"""Predicted losses that are kept beside the statistics they follow from: STATS.gguf.losses.json.

Measuring rounds every weight to every type, which takes minutes; choosing for another size takes none of it again. A
tensor is known by a digest of how its values are made and of bytes from its whole length, so that a fine-tuned model is
not taken for the one it began as, and of what it is weighed by; the statistics by the digest of their file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from requant.divergence import Losses, losses_of
from requant.encodings import Encoding
from requant.errors import FormatError
from requant.json_values import TOKENIZER, parse_json
from requant.plan import Step
from requant.sources import read
from requant.statistics import Statistics

#: Changes when what is rounded, or how it is summed up, does.
_VERSION: Final = 3
#: Places of a stored part that are looked at, and bytes at each.
_PLACES: Final = 16
_BYTES: Final = 256


class Cache:
    """statistics: their file, whose digest must be that of the losses that are kept."""

    def __init__(self, statistics: Path) -> None:
        self.path = statistics.with_name(f"{statistics.name}.losses.json")
        with statistics.open("rb") as file:
            self._digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._known = self._read()

    def __call__(
        self, steps: Sequence[Step], statistics: Statistics, types: Sequence[Sequence[Encoding]]
    ) -> list[Losses]:
        """As `losses_of`; what is known is not measured again, and what is new is kept, if the folder allows it."""
        keys = [_key(step, statistics) for step in steps]
        known = [self._known.get(key, {}) for key in keys]
        missing = [[e for e in one if e.label not in found] for one, found in zip(types, known, strict=True)]
        todo = [n for n, one in enumerate(missing) if one]
        if todo:
            measured = losses_of([steps[n] for n in todo], statistics, [missing[n] for n in todo])
            for n, found in zip(todo, measured, strict=True):
                known[n] = self._known[keys[n]] = known[n] | found
            self._write()
        return [{e.label: found[e.label] for e in one} for one, found in zip(types, known, strict=True)]

    def _read(self) -> dict[str, Losses]:
        """Nothing where there is no such file, or it is of other statistics or damaged."""
        try:
            said: Any = parse_json(self.path.read_bytes(), self.path, TOKENIZER).value
            if (said["version"], said["statistics"]) != (_VERSION, self._digest):
                return {}
            found = {str(key): {str(n): float(v) for n, v in one.items()} for key, one in said["tensors"].items()}
        except (OSError, FormatError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        sane = all(math.isfinite(value) and value >= 0 for one in found.values() for value in one.values())
        return found if sane else {}

    def _write(self) -> None:
        said = {"version": _VERSION, "statistics": self._digest, "tensors": self._known}
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        with suppress(OSError):
            try:
                partial.write_text(json.dumps(said), "utf-8")
                partial.replace(self.path)
            finally:
                partial.unlink(missing_ok=True)


def _key(step: Step, statistics: Statistics) -> str:
    """Of a tensor, and of how much its rows and columns count: the factors of a smoothed one are seen there."""
    found, name = hashlib.sha256(digest_of(step).encode()), step.target.name
    for table in (statistics.importance.entries, statistics.outputs):
        if (entry := table.get(name)) is not None:
            found.update(entry.sums.tobytes())
    return found.hexdigest()


def digest_of(step: Step) -> str:
    """Of a tensor's name, its expression, and bytes of what it is made of."""
    found = hashlib.sha256(f"{step.target.name} {step.target.shape} {step.values.explain()}".encode())
    for tensor in step.inputs:
        found.update(f"{tensor.name} {tensor.shape} {tensor.encoding.label}".encode())
        for name in sorted(tensor.sources):
            source = tensor.sources[name]
            stride = max(source.nbytes // _PLACES, 1)
            for start in range(0, source.nbytes, stride):
                found.update(read(source, start, min(start + _BYTES, source.nbytes)).tobytes())
    return found.hexdigest()
