"""Where files lie while they are made: under names that no reader takes for a model, locked by who makes them.

A file by itself is made in `NAME.partial` beside it. Several files that make one model are made in a *staging folder*,
`NAME.partial/`, beside the folder they will be or inside the one they will lie in:

    lock     held by the process that works here; what it begins with says that the folder is requant's
    new/     the files, under the names that they will have
    old/     those that they replace, for as long as a journal gives names (see `requant.journal`)
    journal
    runs     what of them is finished (see `requant.run_journal`)

What a killed process left is taken over by the next one that makes the same model; nobody else touches it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from requant import system
from requant.errors import PlanError

SUFFIX: Final = ".partial"
_SHARD: Final = re.compile(r"(.*)-\d{5}-of-\d{5}(\.\w+)", re.DOTALL)
_MAGIC: Final = b"requant is making a model here\n"
_LOCK: Final = "lock"
#: What of the files in a staging folder is finished.
RUNS: Final = "runs"
#: What to do about a partial file with which nobody can go on.
BEGIN_ANEW: Final = "without --resume the conversion begins anew, and that is removed"
_IN_THE_WAY: Final = "move it away, or choose another destination"


def partial_of(path: Path) -> Path:
    """Where `path` is made: beside it, and of a file system's root in it."""
    return path.parent / (path.name + SUFFIX)


def staged_name(name: str) -> str:
    """What the staging folder of several files in a shared folder is called: as one file by itself would be."""
    shard = _SHARD.fullmatch(name)
    return partial_of(Path(shard[1] + shard[2] if shard else name)).name


def has_name(path: Path) -> bool:
    """Whether there is something of this name, if only a link that leads nowhere; an `OSError` if nobody can know.

    `os.path.lexists` takes any trouble of the disk for a no, upon which files would be given names that they have.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


class Busy(PlanError):
    """Another process is at work there."""


class Staging:
    """A staging folder that this process holds."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.new, self.old, self.journal, self.runs = (path / name for name in ("new", "old", "journal", RUNS))

    @classmethod
    def claim(cls, path: Path) -> Staging:
        """Make the folder, or take over what a killed process left: empty, but for the lock and perhaps a journal.

        Raises `PlanError` if another process is at work there or the name belongs to something else, and `OSError`.
        """
        while True:
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
            if not stat.S_ISDIR(path.lstat().st_mode):
                _take_over(path, path)  # what a killed process left of a file by itself
                continue
            if not (path / _LOCK).exists() and any(path.iterdir()):
                raise PlanError(f"{path} is in the way, and no work of requant's", hint=_IN_THE_WAY)
            found = cls._locked(path, os.O_CREAT)
            if found is not None:
                return found

    @classmethod
    def held(cls, path: Path) -> Staging | None:
        """The folder that a process left; None if there is none, or not of requant's. Raises `Busy`, and `OSError`."""
        try:
            return cls._locked(path, 0)
        except Busy:
            raise
        except PlanError:
            return None

    @classmethod
    def _locked(cls, path: Path, create: int) -> Staging | None:
        """The folder with its lock held; None if it went away meanwhile."""
        name = path / _LOCK
        access = os.O_RDWR if create else os.O_RDONLY
        try:
            descriptor = os.open(name, access | create | system.NO_FOLLOW | system.BINARY, 0o600)
        except FileNotFoundError:
            return None
        try:
            if not system.lock(descriptor):
                raise _busy(path)
            if not _is_named(descriptor, name):
                os.close(descriptor)
                return None
            found = system.read_at(descriptor, len(_MAGIC), 0)
            if create and not found:
                system.write_at(descriptor, memoryview(_MAGIC), 0)
            elif found != _MAGIC:
                raise PlanError(f"{path} is in the way, and no work of requant's", hint=_IN_THE_WAY)
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise
        return cls(path, descriptor)

    def clear(self) -> None:
        """Remove what was made, and what a killed process left."""
        for entry in self.path.iterdir():
            if entry.name != _LOCK:
                _remove(entry)

    def remove(self) -> None:
        """Remove the folder and let go of it; an `OSError` tells of what could not be removed."""
        try:
            self.journal.unlink(missing_ok=True)
            self.clear()
            if not system.FREES_NAMES:
                self.release()
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()
        finally:
            self.release()

    def release(self) -> None:
        """Let go of the folder and leave it there."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor != -1:
            with suppress(OSError):
                os.close(descriptor)


def claim_file(partial: Path, replaced: Path) -> int:
    """A descriptor of `partial`, new and held by this process alone; who may read `replaced` may read it.

    What a killed process left is removed first. Raises `PlanError` if another process is writing it, and `OSError`.
    """
    while True:
        try:
            descriptor = new_file(partial, replaced)
        except FileExistsError:
            _take_over(partial, replaced)
            continue
        if system.lock(descriptor) and _is_named(descriptor, partial):
            return descriptor
        os.close(descriptor)  # another process took it for a killed one's, before we had the lock


def claim_left_over(partial: Path, replaced: Path) -> int | None:
    """A descriptor of what an earlier process left of a file by itself, held by this process; None if nothing is there.

    Raises `PlanError` if another process is writing it or if it is no file, and `OSError`.
    """
    if partial.is_dir() and not partial.is_symlink():
        raise PlanError(f"{partial} was begun by another conversion", hint=BEGIN_ANEW)
    try:
        descriptor = os.open(partial, os.O_RDWR | system.NO_FOLLOW | system.BINARY)
    except FileNotFoundError:
        return None
    if not system.lock(descriptor):
        os.close(descriptor)
        raise _busy(replaced)
    if _is_named(descriptor, partial) and stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def remove_left_over(path: Path) -> None:
    """Remove what a killed process left at `path`, if anything. Raises `Busy`, and `OSError`."""
    if path.is_dir() and not path.is_symlink():
        left = Staging.held(path)
        if left is not None:
            left.remove()
    elif has_name(path):
        _take_over(path, path)


def _take_over(partial: Path, replaced: Path) -> None:
    """Remove what a killed process left under this name."""
    if partial.is_dir() and not partial.is_symlink():
        Staging.claim(partial).remove()
        return
    try:  # a link is not followed: it would lead out of the folder
        descriptor = os.open(partial, os.O_RDWR | system.NO_FOLLOW | system.BINARY)
    except FileNotFoundError:
        return
    try:
        if not system.lock(descriptor):
            raise _busy(replaced)
        stale = _is_named(descriptor, partial)
        if stale and system.FREES_NAMES:
            partial.unlink()
    finally:
        with suppress(OSError):
            os.close(descriptor)
    if stale and not system.FREES_NAMES:
        partial.unlink()


def new_file(path: Path, replaced: Path) -> int:
    """A descriptor of a new file; who may read `replaced`, if there is such a file, may read it, and nobody else."""
    secret = replaced.is_file() and not replaced.is_symlink()
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | system.NO_FOLLOW | system.BINARY
    descriptor = os.open(path, flags, 0o600 if secret else 0o666)
    if secret:
        with suppress(OSError):  # of file systems without owners and modes
            system.keep_access(descriptor, replaced)
    return descriptor


def _busy(path: Path) -> Busy:
    return Busy(f"{path}: another process is writing this", hint="wait for it, or choose another destination")


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that has the name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        import shutil

        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def write_document(staging: Staging, document: Mapping[str, object]) -> None:
    """Have a journal on the disk, and under its name only when it is whole."""
    draft = staging.path / "draft"
    # the folder it was written in: a copy of a folder, or somebody else's, is not to be acted upon
    import json

    text = json.dumps({"folder": staging.path.stat().st_ino, **document})
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | system.BINARY, 0o600)
    try:
        view = memoryview(text.encode())
        while view:
            view = view[os.write(descriptor, view) :]
        system.sync(descriptor)
    finally:
        with suppress(OSError):
            os.close(descriptor)
    draft.replace(staging.journal)
    system.sync_folder(staging.path)


def inner(name: object) -> str:
    """The relative path of something inside a folder."""
    path = PurePosixPath(str(name))
    if not isinstance(name, str) or path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
        raise ValueError
    if "\0" in name or "\\" in name or ":" in name:
        raise ValueError
    return name
