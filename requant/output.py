"""Files that appear under their names only when all of them are whole, and all of them at once.

* One file is made beside its place and renamed.
* A folder that is new is made beside its place and renamed.
* A folder that exists is replaced by exchanging it with the new one, at one instant, where the system can do that; what
  lies in it besides the model goes along.
* Where it cannot, and for several files in a folder that holds other things, a journal sees to it (`requant.journal`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from requant import system
from requant.begun import Begun
from requant.errors import PlanError
from requant.foreign import carry_along, rescue
from requant.journal import Journal, finish_around
from requant.layout import Layout, OutputFile
from requant.run_journal import RunJournal
from requant.sink import Sink, disk_error
from requant.staging import Busy, Staging, has_name, partial_of, remove_left_over, staged_name

#: Called when a model has its name, before anything can interrupt.
on_published: Final[list[Callable[[], None]]] = []


class OutputSet:
    """All files of a layout; on leaving, whatever was not published is removed.

    obsolete: files of the model that is replaced, which nothing replaces; they go when the new ones have their names.
    begun: a journal of finished runs is kept with them, and perhaps those of an earlier process are gone on with; then
    they stay on leaving, for the next one.
    """

    def __init__(self, layout: Layout, obsolete: Iterable[Path] = (), begun: Begun | None = None) -> None:
        self._layout = layout
        self._begun = begun
        self._names = [file.name for file in layout.files]
        self._obsolete = [path.relative_to(layout.root).as_posix() for path in obsolete]
        self._root = system.reachable(layout.root.resolve())
        self._sinks: dict[str, Sink] = {}
        self._alone: Path | None = None
        self._staging: Staging | None = None
        self._folders: list[Path] = []
        self._there: set[str] = set()

    def __enter__(self) -> OutputSet:
        """Make the folders and the files, under names that no reader takes for a model."""
        try:
            finish_around(self._root)
            for name in self._names:
                _need_name(self._layout.root / name)
            self._there = {name for name in self._names if has_name(self._root / name)}
            if len(self._names) == 1 and not self._obsolete:
                self._open_alone(self._layout.files[0])
            else:
                self._open_staged()
        except OSError as error:
            self._discard()
            raise disk_error(error, Path(error.filename or self._layout.root)) from error
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is unfinished."""
        self._discard()

    def sink(self, name: str) -> Sink:
        """The file of this name."""
        return self._sinks[name]

    @property
    def name(self) -> str:
        """Of the model, or its first file."""
        return self._names[0] if len(self._names) == 1 else self._root.name

    @property
    def journal(self) -> RunJournal | None:
        """Of finished runs, if one is kept."""
        return None if self._begun is None else self._begun.journal

    def publish(self, check: Callable[[], None] = lambda: None) -> None:
        """Have every file on the disk, `check` that it should be so, and give all of them their names.

        Nothing interrupts the last part. An error says whether the new model is complete or nothing was changed.
        """
        for sink in self._sinks.values():
            sink.sync()
        check()
        with system.interrupts_held():
            try:
                if self._begun is not None:
                    self._begun.end()
                exchanged = self._give_names()
            except OSError as error:
                raise disk_error(error, Path(error.filename or self._layout.root)) from error
            for tell in on_published:
                tell()
            self._tidy(exchanged)

    def _open_alone(self, file: OutputFile) -> None:
        path = self._root / file.name
        begun = self._begun or Begun()
        descriptor = begun.left_alone(path, file.nbytes)
        goes_on = descriptor is not None
        if descriptor is None:
            _need_room(self._layout)
            self._make_folder(path.parent)
            descriptor = begun.alone(path)
        self._alone = partial_of(path)
        self._sinks[file.name] = Sink(self._layout.root / file.name, descriptor, file, goes_on, self._alone)
        begun.begin_alone(descriptor, file.nbytes)

    def _open_staged(self) -> None:
        begun = self._begun or Begun()
        staging = self._staging = begun.left_staged((partial_of(self._root), self._inner_staging), self._layout.files)
        if staging is None:
            _need_room(self._layout)
            staging = self._staging = self._stage()
            self._remove_left_overs(staging)
            staging.new.mkdir()
        for file in self._layout.files:
            made = staging.new / file.name
            descriptor, goes_on = begun.staged(made, self._root / file.name, file.nbytes)
            sink = self._sinks[file.name] = Sink(self._layout.root / file.name, descriptor, file, goes_on, made)
            if not file.slots:  # it is whole: a thousand open files would be too many
                sink.sync()
                sink.close()
        begun.begin_staged(staging)

    @property
    def _inner_staging(self) -> Path:
        return self._root / staged_name(self._names[0])

    def _stage(self) -> Staging:
        """A staging folder beside the model's own folder; inside it where it could not be exchanged from there."""
        root = self._root
        if not root.is_dir():
            self._make_folder(root.parent)
            return Staging.claim(partial_of(root))
        if "config.json" in self._names and _is_movable(root):
            with suppress(PermissionError):
                staging = Staging.claim(partial_of(root))
                if _reaches(staging, root / staged_name(self._names[0])):
                    return staging
        return Staging.claim(root / staged_name(self._names[0]))

    def _remove_left_overs(self, staging: Staging) -> None:
        """What a killed process left of the same model, wherever it staged it."""
        staging.clear()
        for place in {partial_of(self._root), self._inner_staging} - {staging.path}:
            with suppress(OSError, Busy):
                remove_left_over(place)

    def _give_names(self) -> bool:
        """The step after which the model is complete; whether the staging folder has the old one now."""
        for name in self._names:
            if name not in self._there and has_name(self._root / name):
                path = self._layout.root / name
                raise PlanError(f"{path} appeared meanwhile; nothing was changed", hint="see what it is")
        if self._alone is not None:
            if not system.FREES_NAMES:
                self._close()
            self._alone.replace(self._root / self._names[0])
            self._alone = None
            self._close()
            return False
        assert self._staging is not None
        self._close()
        if not self._root.exists():
            _sync_tree(self._staging.new)
            self._staging.new.rename(self._root)
            return False
        if self._staging.path.parent != self._root and self._exchanged(self._staging):
            return True
        self._replace_one_by_one(self._staging)
        return False

    def _exchanged(self, staging: Staging) -> bool:
        """Exchange the old folder and the new at one instant; False where that cannot be, and nothing is done."""
        if not carry_along(self._root, staging.new, self._replaced):
            return False
        _sync_tree(staging.new)
        return system.exchange(staging.new, self._root)

    def _replace_one_by_one(self, staging: Staging) -> None:
        journal = Journal.of(self._root, self._names, self._obsolete)
        try:
            _sync_tree(staging.new)
            journal.write(staging)
        except OSError:
            staging.journal.unlink(missing_ok=True)
            raise
        try:
            journal.settle(staging)
        except PlanError:  # both models are in there
            staging.release()
            self._staging = None
            raise

    @property
    def _replaced(self) -> set[str]:
        return {*self._names, *self._obsolete}

    def _tidy(self, exchanged: bool) -> None:
        """After the names are given: have that on the disk, and remove the old model."""
        changed = {folder.parent for folder in self._folders} | {self._root, self._root.parent}
        self._folders.clear()
        staging, self._staging = self._staging, None
        try:
            for folder in sorted(changed):
                system.sync_folder(folder)
            if staging is not None:
                if exchanged:
                    rescue(staging.new, self._root, self._replaced)
                staging.remove()
        except OSError as error:
            raise PlanError(
                f"{error.filename or self._root}: {error.strerror}; the new model is complete",
                hint="see to the disk" if staging is None else f"see to the disk; then {staging.path} can be removed",
            ) from error
        finally:
            if staging is not None:
                staging.release()

    def _make_folder(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir()
            self._folders.append(path)

    def _close(self) -> None:
        for sink in self._sinks.values():
            sink.close()

    def _discard(self) -> None:
        """Remove everything that was made, as far as that is possible; or leave it to who goes on with it."""
        if self._begun is not None:
            if self._begun.stays:
                self._leave()
            self._begun.close()
        if self._alone is not None:
            with suppress(OSError):  # while it is locked, so that it is not another process's file
                self._alone.unlink(missing_ok=True)
            self._alone = None
        self._close()
        if self._staging is not None:
            with suppress(OSError):
                self._staging.remove()
            self._staging = None
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()
        self._folders.clear()

    def _leave(self) -> None:
        """Let go of what is made, with its journal."""
        if self.journal is not None:
            with suppress(OSError):
                self.journal.flush()
        self._close()
        self._alone = None
        if self._staging is not None:
            self._staging.release()
            self._staging = None
        self._folders.clear()


def _is_movable(folder: Path) -> bool:
    """Whether a folder may give its place to another: nobody's shell stands in it, and it is no mount point."""
    try:
        here = Path.cwd().resolve()
    except OSError:
        here = Path()
    same_disk = folder.stat().st_dev == folder.parent.stat().st_dev
    return same_disk and not folder.is_mount() and folder not in (here, *here.parents)


def _reaches(staging: Staging, place: Path) -> bool:
    """Whether a file can be given a name there from the staging folder; if not, that is removed.

    A folder of the same disk that is mounted there (`mount --bind`, a container's volume) differs in nothing else.
    """
    staging.clear()
    probe = staging.path / "probe"
    try:
        probe.touch()
        probe.replace(place)
        place.unlink()
    except OSError:
        staging.remove()
        return False
    return True


def _sync_tree(folder: Path) -> None:
    """Have the names in a folder and its subfolders on the disk."""
    for place, _, _ in os.walk(folder, topdown=False):
        system.sync_folder(Path(place))


def _need_room(layout: Layout) -> None:
    root = layout.root
    while not root.exists() and root != root.parent:
        root = root.parent
    free = shutil.disk_usage(root).free
    if free < layout.nbytes:
        raise PlanError(
            f"{layout.root}: the output takes {layout.nbytes} bytes, the disk has {free} free",
            hint="free some space, or choose another destination",
        )


def _need_name(path: Path) -> None:
    """A name can be given to a file if it is free or a file's: replacing a device or a pipe would harm the system."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise PlanError(f"{path} is {what} and cannot be replaced", hint="choose another destination")
