"""Files that an earlier process has begun, found again: with `--resume` a conversion goes on with them.

A file by itself is gone on with in its `NAME.partial`, several in their staging folder, as `requant.staging` names
them. Where a journal is missing nothing was done that is worth keeping, and the files are made anew; where it is that
of another conversion, or where files that are read have changed since, that is a `PlanError`: nothing is removed that
somebody may want.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from requant import system
from requant.errors import PlanError
from requant.layout import OutputFile
from requant.run_journal import Beginning, RunJournal, size_of
from requant.staging import (
    BEGIN_ANEW,
    RUNS,
    Staging,
    claim_file,
    claim_left_over,
    has_name,
    new_file,
    partial_of,
)


class Begun:
    """What is begun, or gone on with, as one conversion. beginning: what it is; without it no journal is kept.

    resume: an earlier process' files are looked for; and what is made stays when this one ends in an error.
    """

    def __init__(self, beginning: Beginning | None = None, *, resume: bool = False) -> None:
        self._beginning, self._resume = beginning, resume
        self._own: int | None = None  # the journal's file, where it is one by itself
        self._path: Path | None = None
        self.journal: RunJournal | None = None

    @property
    def stays(self) -> bool:
        """Whether what is there is worth going on with."""
        return self._resume and self.journal is not None

    def left_alone(self, path: Path, nbytes: int) -> int | None:
        """A descriptor of the file that was begun, `path` and its journal; None if none was."""
        if not self._resume:
            return None
        descriptor = claim_left_over(partial_of(path), path)
        if descriptor is None:
            return None
        try:
            size = size_of(descriptor)
            if size > nbytes and self._take(descriptor, nbytes, partial_of(path)):
                return descriptor
            if size not in (0, nbytes):
                raise PlanError(f"{partial_of(path)} was begun by another conversion", hint=BEGIN_ANEW)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def alone(self, path: Path) -> int:
        """A descriptor of a new file that will be `path`."""
        return claim_file(partial_of(path), path)

    def begin_alone(self, descriptor: int, nbytes: int) -> None:
        """Have a journal behind the file's end."""
        if self._beginning is not None and self.journal is None:
            self.journal = RunJournal.begin(descriptor, nbytes, self._beginning)

    def left_staged(self, places: Sequence[Path], files: Sequence[OutputFile]) -> Staging | None:
        """The staging folder that was begun, cleared of what does not belong there; None if there is none."""
        if not self._resume:
            return None
        for place in places:
            if place.is_file():
                raise PlanError(f"{place} was begun by another conversion", hint=BEGIN_ANEW)
            if not has_name(place / RUNS):
                continue
            staging = Staging.held(place)
            if staging is None:
                continue
            try:
                if self._open_runs(staging):
                    _clear(staging, {file.name for file in files})
                    return staging
                staging.release()
            except BaseException:
                staging.release()
                raise
        return None

    def staged(self, path: Path, replaced: Path, nbytes: int) -> tuple[int, bool]:
        """A descriptor of a file in a staging folder, and whether it is one that was begun."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.journal is not None and has_name(path):
            descriptor = os.open(path, os.O_RDWR | system.NO_FOLLOW | system.BINARY)
            if size_of(descriptor) == nbytes:
                return descriptor, True
            os.close(descriptor)  # it was being made: nothing of it is recorded
            path.unlink()
        return new_file(path, replaced), False

    def begin_staged(self, staging: Staging) -> None:
        """Have a journal in the staging folder."""
        if self._beginning is None or self.journal is not None:
            return
        self._path = staging.runs
        self._own = os.open(staging.runs, os.O_RDWR | os.O_CREAT | os.O_EXCL | system.BINARY, 0o600)
        self.journal = RunJournal.begin(self._own, 0, self._beginning)

    def end(self) -> None:
        """All is done: no journal from here on, and nothing that an interrupt leaves to be gone on with."""
        journal, self.journal = self.journal, None
        if journal is None:
            return
        if self._own is None:
            os.ftruncate(journal.descriptor, journal.base)
            system.sync(journal.descriptor)
        elif self._path is not None:
            self.close()
            self._path.unlink()
            system.sync_folder(self._path.parent)

    def close(self) -> None:
        """Let go of the journal's own file, if it has one."""
        descriptor, self._own = self._own, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    def _open_runs(self, staging: Staging) -> bool:
        self._own = os.open(staging.runs, os.O_RDWR | system.NO_FOLLOW | system.BINARY)
        self._path = staging.runs
        if self._take(self._own, 0, staging.path):
            return True
        self.close()
        return False

    def _take(self, descriptor: int, base: int, place: Path) -> bool:
        """Whether there is a journal there; raises `PlanError` for another conversion's, or if an input has changed."""
        found = RunJournal.found(descriptor, base)
        if found is None:
            return False
        journal, then = found
        if self._beginning is None:
            return False
        if then.plan != self._beginning.plan or then.inputs.keys() != self._beginning.inputs.keys():
            raise PlanError(
                f"{place} was begun by another conversion: of another model, with other options, or by another version",
                hint=BEGIN_ANEW,
            )
        for name, said in then.inputs.items():
            if said != self._beginning.inputs[name]:
                raise PlanError(f"{name}: it has changed since {place} was begun", hint=BEGIN_ANEW)
        self.journal = journal
        return True


def _clear(staging: Staging, names: set[str]) -> None:
    """Remove what does not belong to the model: what was carried along from the folder that is to be replaced."""
    staging.new.mkdir(exist_ok=True)
    for folder, _, files in os.walk(staging.new):
        for name in files:
            path = Path(folder, name)
            if path.relative_to(staging.new).as_posix() not in names:
                path.unlink()
