"""The models that lie in a folder which is none itself: a line for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.errors import Error
from requant.formats import FORMATS, opened
from requant.ir import Json
from requant.operations.inspect import Report, report

#: Files of one model in several; the first stands for all.
_LATER_SHARD: Final = re.compile(r".*-(?!0*1-of-)\d{5}-of-\d{5}\.\w+")
_SUFFIXES: Final = frozenset((".gguf", ".safetensors", ".bin", ".pt", ".pth"))


@dataclass(frozen=True, slots=True)
class Found:
    """A file or folder that looks like a model, and what it is, or why it cannot be read."""

    path: Path
    report: Report | None
    error: str = ""

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        told = None if self.report is None else self.report
        return {
            "path": str(self.path),
            "format": told.format if told else None,
            "architecture": told.checkpoint.architecture if told else None,
            "file_type": told.file_type if told else None,
            "parameters": told.total.weights if told else None,
            "file_bytes": told.file_bytes if told else None,
            "bits_per_weight": round(told.total.bits_per_weight, 4) if told else None,
            "error": self.error or None,
        }


def is_model(path: Path) -> bool:
    """Whether a format knows what lies there."""
    return any(known.recognizes(path) for known in FORMATS.values())


def models_in(folder: Path) -> Iterator[Found]:
    """Those that lie in a folder and in the folders of it, by name; no deeper."""
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            inside = sorted(child.iterdir())
            yield from _found([child] if is_model(child) else [one for one in inside if one.suffix == ".gguf"])
        elif child.suffix in _SUFFIXES:
            yield from _found([child])


def _found(paths: list[Path]) -> Iterator[Found]:
    for path in paths:
        if not _LATER_SHARD.fullmatch(path.name):
            try:
                known, checkpoint = opened(path, as_stored=True)
                yield Found(path, report(checkpoint, known.name))
            except (Error, OSError) as error:
                yield Found(path, None, str(error))
