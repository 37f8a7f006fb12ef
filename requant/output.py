"""Files that appear under their names only when all of them are whole."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from numpy.typing import NDArray

from requant.errors import PlanError
from requant.layout import Layout, OutputFile
from requant.sources import Source, read

SUFFIX: Final = ".partial"
#: Bytes of a carried file read at a time.
COPY_BYTES: Final = 1 << 20
#: Bytes that wait in memory before the disk is told to begin with them, instead of with everything at the end.
_WAITING: Final = 32 << 20
_BEGIN: Final = 2  # SYNC_FILE_RANGE_WRITE


@cache
def _begin_writing() -> Callable[[int, int, int, int], int] | None:
    """Linux's sync_file_range, which Python does not have; it starts writing back and does not wait."""
    function: Any = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function  # type: ignore[no-any-return]


class Sink:
    """One file under construction; writes at given offsets, from any thread."""

    def __init__(self, path: Path, file: OutputFile) -> None:
        self.path, self.partial = path, path.with_name(path.name + SUFFIX)
        self._descriptor = self._claim()
        self._waiting = 0
        try:
            os.ftruncate(self._descriptor, 0)
            if file.nbytes:
                self._reserve(file.nbytes)
            self.write(0, memoryview(file.head))
            if file.body is not None:
                self._copy(file.body, len(file.head))
        except BaseException:
            self.discard()
            raise

    def write(self, offset: int, data: NDArray[Any] | memoryview) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data.reshape(-1).view("u1").data) if not isinstance(data, memoryview) else data
        while view:
            try:
                count = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                raise _disk_error(error, self.path) from error
            view, offset = view[count:], offset + count
            self._waiting += count  # two threads may lose a few bytes here: it is only a hint to the disk
        begin = _begin_writing()
        if begin is not None and self._waiting > _WAITING:
            self._waiting = 0
            begin(self._descriptor, 0, 0, _BEGIN)

    def _copy(self, source: Source, offset: int) -> None:
        for start in range(0, source.nbytes, COPY_BYTES):
            self.write(offset + start, read(source, start, min(source.nbytes, start + COPY_BYTES)))

    def sync(self) -> None:
        """Have every byte on the disk."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _disk_error(error, self.path) from error

    def publish(self) -> None:
        """Give the file its name."""
        self.partial.replace(self.path)
        os.close(self._descriptor)

    def discard(self) -> None:
        """Remove what was written; while it is locked, so that it is not another process's file."""
        self.partial.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _claim(self) -> int:
        """Open the partial file for this process alone: a second requant would destroy the first one's work.

        What a killed process left is taken over. A link is not followed: it would lead out of the folder.
        """
        while True:
            descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise PlanError(
                    f"{self.path}: another process is writing this file",
                    hint="wait for it, or choose another destination",
                ) from error
            except OSError:
                return descriptor  # file systems without locks
            if self._is_partial(descriptor):
                return descriptor
            os.close(descriptor)  # its owner gave it its name, or removed it, before we had the lock

    def _is_partial(self, descriptor: int) -> bool:
        """Whether the open file is the one that has the partial name now."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.partial.lstat())
        except FileNotFoundError:
            return False

    def _reserve(self, nbytes: int) -> None:
        """Full length at once: a full disk is found now, not after an hour."""
        try:
            os.posix_fallocate(self._descriptor, 0, nbytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise _disk_error(error, self.path) from error
            os.ftruncate(self._descriptor, nbytes)


class OutputSet:
    """All files of a layout; on leaving, whatever was not published is removed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sinks: dict[str, Sink] = {}
        self._folders: list[Path] = []

    def __enter__(self) -> OutputSet:
        """Make the folders and the partial files."""
        try:
            self._need_room()
            for file in self._layout.files:
                path = self._layout.root / file.name
                _need_name(path)
                self._make_folder(path.parent)
                self._sinks[file.name] = Sink(path, file)
        except OSError as error:
            self._discard()
            raise _disk_error(error, Path(error.filename or self._layout.root)) from error
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

    def publish(self, obsolete: Iterable[Path] = ()) -> None:
        """Sync every file, give each its name, and remove what they replace."""
        for sink in self._sinks.values():
            sink.sync()
        self._folders.clear()
        try:
            for name, sink in list(self._sinks.items()):
                sink.publish()
                del self._sinks[name]
            for path in obsolete:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise PlanError(
                f"{error.filename}: {error.strerror}", hint="the files before it have their names"
            ) from error

    def _need_room(self) -> None:
        folder = self._layout.root
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < self._layout.nbytes:
            raise PlanError(
                f"{self._layout.root}: the output takes {self._layout.nbytes} bytes, the disk has {free} free",
                hint="free some space, or choose another destination",
            )

    def _make_folder(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir()
            self._folders.append(path)

    def _discard(self) -> None:
        for sink in self._sinks.values():
            sink.discard()
        self._sinks.clear()
        for folder in reversed(self._folders):
            with suppress(OSError):
                folder.rmdir()
        self._folders.clear()


def _need_name(path: Path) -> None:
    """A name can be given to a file if it is free or a file's: replacing a device or a pipe would harm the system."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise PlanError(f"{path} is {what} and cannot be replaced", hint="choose another destination")


def _disk_error(error: OSError, path: Path) -> PlanError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "nothing was changed; free some space, or choose another destination" if full else "nothing was changed"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "nothing was changed; fewer and larger files, or a higher `ulimit -n`, would do"
    return PlanError(f"{path}: {'the disk is full' if full else error.strerror}", hint=hint)
