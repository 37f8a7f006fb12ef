"""Giving several files their names so that nobody ever finds some of the old model beside some of the new.

One rename replaces one file. Where a whole folder cannot be exchanged at one instant, a journal in the staging folder
says what is to be done, and is on the disk before the first rename:

1. every old file goes aside, into the staging folder, that first without which a reader finds no model;
2. every new file gets its name, that one last;
3. the staging folder is removed, with the old files in it.

So what has a name is at every moment a part of the old model or a part of the new one. An error on the way is undone. A
process that is killed leaves the journal, and whoever reads or writes there next goes on with it: `finish_around`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from requant import system
from requant.errors import FormatError, PlanError
from requant.staging import SUFFIX, Busy, Staging, has_name, inner, partial_of, write_document

if TYPE_CHECKING:
    from requant.head_journal import HeadJournal

_INSIDE: Final = "inside"
#: Bytes of the longest journal: 10,000 shards and their names.
_MAX_BYTES: Final = 1 << 24
#: Seconds to wait for another process that is giving names.
_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Journal:
    """Which files of `root` go aside, and which new ones get their names; in the order in which it is done.

    made: folders in `root` that are made for new files, to be removed again if all is undone.
    """

    root: Path
    aside: tuple[str, ...]
    new: tuple[str, ...]
    made: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: Path, names: Sequence[str], obsolete: Sequence[str]) -> Journal:
        """What puts the files `names` into `root`, in the place of those of the same names and the obsolete ones."""
        key = key_of(names)
        aside = [name for name in (*names, *obsolete) if has_name(root / name)]
        parents = {str(parent) for name in names for parent in PurePosixPath(name).parents if parent.name}
        made = sorted((name for name in parents if not (root / name).is_dir()), key=len)
        return cls(
            root,
            tuple(sorted(aside, key=lambda name: name != key)),
            tuple(sorted(names, key=lambda name: name == key)),
            tuple(made),
        )

    def write(self, staging: Staging) -> None:
        """Have the journal on the disk: from now on the work can be finished by anybody."""
        inside = self.root == staging.path.parent
        document = {
            "root": _INSIDE if inside else self.root.name,
            "aside": self.aside,
            "new": self.new,
            "made": self.made,
        }
        write_document(staging, document)

    def carry_out(self, staging: Staging) -> None:
        """Do what is not done yet. An `OSError` may leave it in the middle."""
        waiting = {name for name in self.new if has_name(staging.new / name)}
        if waiting:
            for name in self.aside:
                gone = has_name(staging.old / name) or (name in self.new and name not in waiting)
                if not gone and has_name(self.root / name):
                    (staging.old / name).parent.mkdir(parents=True, exist_ok=True)
                    (self.root / name).replace(staging.old / name)
            for name in self.new:
                if name in waiting:
                    (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                    (staging.new / name).replace(self.root / name)
        for folder in {(self.root / name).parent for name in (*self.new, *self.aside)}:
            if folder.is_dir():
                system.sync_folder(folder)

    def undo(self, staging: Staging) -> None:
        """Have everything as it was before. An `OSError` may leave it in the middle."""
        for name in reversed(self.new):
            if not has_name(staging.new / name) and has_name(self.root / name):
                (self.root / name).replace(staging.new / name)
        for name in reversed(self.aside):
            if has_name(staging.old / name):
                (staging.old / name).replace(self.root / name)
        for name in reversed(self.made):
            with suppress(OSError):
                (self.root / name).rmdir()
        for folder in {(self.root / name).parent for name in self.aside}:
            system.sync_folder(folder)
        staging.journal.unlink(missing_ok=True)

    def is_untouched(self, staging: Staging) -> bool:
        """Whether nothing of it was done."""
        aside = any(has_name(staging.old / name) for name in self.aside)
        return not aside and all(has_name(staging.new / name) for name in self.new)

    def settle(self, staging: Staging) -> None:
        """Carry it out, or else undo it; the `OSError` that made it impossible is raised then.

        Raises `PlanError` if neither is possible: the journal stays, for the next one who comes.
        """
        try:
            self.carry_out(staging)
        except OSError as error:
            try:
                self.undo(staging)
            except OSError as other:
                raise PlanError(
                    f"{other.filename or self.root}: {other.strerror}; {self.root} may hold only a part of the old "
                    "model or of the new one",
                    hint=f"both are safe, in {staging.path}: the next requant that reads or writes there goes on, such "
                    f"as `requant inspect {self.root}`",
                ) from error
            raise


def key_of(names: Sequence[str]) -> str:
    """The file without which readers find no model: config.json, an index, or the first of several parts."""
    if "config.json" in names:
        return "config.json"
    return next((name for name in names if name.endswith(".index.json")), names[0])


def finish_around(path: Path) -> None:
    """Go on with what a killed process began at `path`, a model's file or folder, if there is such a thing.

    Raises `PlanError` if that cannot be done, or if another process does not come to an end with it, and `FormatError`
    for a journal that is none.
    """
    folder = _folder_of(path)
    if folder is None:
        return
    with os.scandir(folder) as entries:
        inside = [Path(entry.path) for entry in entries if entry.name.endswith(SUFFIX) and entry.is_dir()]
    for place in (*inside, partial_of(folder)):
        if (place / "journal").is_file():
            _finish(place)


def _folder_of(path: Path) -> Path | None:
    try:
        real = path.resolve()
        return next((place for place in (real, real.parent) if place.is_dir()), None)
    except (OSError, RuntimeError, ValueError):
        return None


def _finish(place: Path) -> None:
    staging = _held(place)
    if staging is None:
        return
    try:
        if not staging.journal.is_file():
            return
        journal = _read(staging)
        try:
            journal.settle(staging)
        except PlanError:
            if not journal.is_untouched(staging):
                raise
            return  # nothing can be changed here, and nothing was: the old model is whole
        except OSError:
            return  # undone: the old model is whole
        with suppress(OSError):  # what is left over has no name that a reader takes for a model
            staging.remove()
    finally:
        staging.release()


def _held(place: Path) -> Staging | None:
    """The staging folder, when its owner is dead; waits for one that is alive."""
    limit = time.monotonic() + _PATIENCE
    while True:
        try:
            return Staging.held(place)
        except Busy:
            if not (place / "journal").is_file():
                return None  # the files have their names, or not yet
            if time.monotonic() > limit:
                raise
        time.sleep(0.02)


def _read(staging: Staging) -> Journal | HeadJournal:
    """The journal of a staging folder; `FormatError` unless it was written there and keeps within its folder."""
    import json

    try:
        with staging.journal.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        here = document["folder"] == staging.path.stat().st_ino
        if here and "heads" in document:
            from requant.head_journal import HeadJournal  # which needs numpy

            return HeadJournal.read(staging, document)
        names = {field: tuple(map(inner, document[field])) for field in ("aside", "new", "made")}
        root = staging.path.parent / ("" if document["root"] == _INSIDE else inner(document["root"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FormatError(staging.journal, "this is no journal of requant's", hint="remove it") from None
    expected = root == staging.path.parent or partial_of(root) == staging.path
    if not here or not expected or any(_is_led_out(root, staging, name) for field in names.values() for name in field):
        raise FormatError(
            staging.journal,
            "this journal was written in another folder",
            hint=f"a copy of a model that was just being replaced? {staging.path} holds what is missing",
        )
    return Journal(root, **names)


def _is_led_out(root: Path, staging: Staging, name: str) -> bool:
    """Whether a link among its folders would lead a name out of where it belongs."""
    parents = [parent for parent in PurePosixPath(name).parents if parent.name]
    places = [staging.new, staging.old, *(base / p for base in (root, staging.new, staging.old) for p in parents)]
    return any(place.is_symlink() for place in places)
