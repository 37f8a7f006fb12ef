"""What a pipeline keeps beside its output: what was measured, digests of files, and what was begun.

Everything is found by its content: by digests of the files that went into it and of what was asked, never by a time
or a path. So a pipeline that was killed finds what was finished, and one whose input has changed does not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from requant.errors import FormatError
from requant.execution import inputs_of
from requant.json_values import TOKENIZER, parse_json
from requant.plan import Plan
from requant.sources import FileSlice, Identity


@dataclass(frozen=True)  # without slots: digests are read once
class Work:
    """folder: made when something is kept in it. keeps: False for a rehearsal, which finds and keeps nothing new."""

    folder: Path
    keeps: bool = True

    def digests(self, paths: Iterable[Path]) -> dict[Path, str]:
        """SHA-256 of files; those that have not changed since are not read again."""
        found, fresh = {}, False
        for path in paths:
            said = [str(path), *astuple(Identity.of(path.stat()))]
            key = json.dumps(said)
            if key not in self._known:
                self._known[key], fresh = digest_of(path), True
            found[path] = self._known[key]
        if fresh and self.keeps:
            self.write("digests.json", self._known)
        return found

    def read(self, name: str) -> dict[str, Any]:
        """What is kept under a name."""
        return kept(self.folder / name)

    def write(self, name: str, content: Mapping[str, object]) -> None:
        """Keep it, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        put(self.folder / name, json.dumps(content, indent=1))

    @cached_property
    def _known(self) -> dict[str, str]:
        return {key: str(value) for key, value in self.read("digests.json").items()}


def kept(path: Path) -> dict[str, Any]:
    """What is kept in a file; {} where nothing is, or where it is damaged: it is made again."""
    try:
        return parse_json(path.read_bytes(), path, TOKENIZER).object()
    except (OSError, FormatError):
        return {}


def put(path: Path, text: str) -> None:
    """Write a small file, whole or not at all, and have it on the disk."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(plan: Plan) -> list[Path]:
    """Every file that a plan reads, or was made from."""
    found = (getattr(source, "file", source) for source in inputs_of(plan))
    paths = dict.fromkeys(one.path for one in found if isinstance(one, FileSlice))
    return sorted(path for path in paths if path.is_file())


def address(*parts: object) -> str:
    """Of everything that decides on a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
