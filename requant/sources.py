"""Bytes that can be had when they are wanted, and files that must not change meanwhile."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from requant import system
from requant.errors import FormatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Bytes: TypeAlias = "NDArray[np.uint8]"

#: Files of which only the header is here.
_remote: Final[dict[Path, Remote]] = {}

_WAIT: Final = "convert again when no other program changes it"
#: Files that were fetched whole into a folder with a name of the day: what they are called, and their content.
_called: Final[dict[Path, tuple[str, tuple[int | str, ...]]]] = {}
#: What reads of them meanwhile, instead.
_through: Final[list[Callable[[Any, int, memoryview], None]]] = []
_elsewhere: Final = threading.Event()
_noted: Final[ContextVar[dict[Path, Identity] | None]] = ContextVar("noted", default=None)


class Remote(Protocol):
    """A file that is somewhere else. name: its address. tag: what another content there would have another of."""

    name: str
    nbytes: int
    tag: str

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start` on."""
        ...


class Source(Protocol):
    """A stretch of bytes whose length is free and whose content is asked for."""

    @property
    def nbytes(self) -> int:
        """Length without reading."""
        ...

    def read_into(self, start: int, out: Bytes) -> None:
        """Fill `out` (contiguous) with the bytes from `start` on."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file it is and when it was last touched: what changes when a file is replaced, written to, or appended to.

    modified, changed: nanoseconds, of the content and of whatever else the system keeps.
    """

    device: int
    inode: int
    nbytes: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """Of the file that `os.stat` or `os.fstat` told of."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def departure(self, now: Identity) -> str:
        """What has happened to the file since; empty if nothing has."""
        if self == now:
            return ""
        if (self.device, self.inode) != (now.device, now.inode):
            return "another file has taken its place"
        if self.nbytes != now.nbytes:
            return f"it had {self.nbytes} bytes and has {now.nbytes}"
        if self.modified != now.modified:
            return "it has been written to"
        return "its name, its links or its permissions have changed"


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A stretch of a file.

    It is read with `pread`, never mapped: a file that shrinks while it is read is an error here and a
    crash there, and buffers that are reused keep memory bounded where mapped pages would pile up.
    identity: of the file when it was first looked into; whatever is read must come from that one.
    """

    path: Path
    offset: int
    nbytes: int
    identity: Identity | None = field(default=None, compare=False)

    def read_into(self, start: int, out: Bytes) -> None:
        """Read; a file that ends early, or is not the one it was, is a `FormatError`."""
        self.fill(start, memoryview(out.data).cast("B"))

    def fill(self, start: int, view: memoryview) -> None:
        """The same into any memory, without arrays."""
        position = self.offset + start
        if self.path in _remote:
            file = _remote[self.path]
            return _through[-1](file, position, view) if _through else file.read_into(position, view)
        descriptor = open_regular(self.path)
        try:
            if self.identity is not None:
                _check(self.path, self.identity, os.fstat(descriptor))
            while view:
                count = system.read_into(descriptor, view, position)
                if count == 0:
                    raise FormatError(
                        self.path,
                        f"the file ends {len(view)} bytes early: it has changed since it was opened",
                        offset=position,
                        hint=_WAIT,
                    )
                view, position = view[count:], position + count
        finally:
            os.close(descriptor)

    def check_unchanged(self) -> None:
        """Raises `FormatError` if the file is not the one that it was."""
        if self.identity is not None:
            try:
                now = self.path.stat()
            except OSError as error:
                raise FormatError(
                    self.path, f"it has changed since it was opened: {error.strerror}", hint=_WAIT
                ) from None
            _check(self.path, self.identity, now)


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Bytes made by the plan itself, such as the frequency factors of a scaled rope."""

    data: bytes = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Length."""
        return len(self.data)

    def read_into(self, start: int, out: Bytes) -> None:
        """Copy."""
        import numpy as np

        out[...] = np.frombuffer(self.data, np.uint8, out.size, start)


def remotely(path: Path, file: Remote) -> None:
    """From now on, what a `FileSlice` of `path` reads comes from `file`: only the header is here."""
    _remote[path] = file


def called(path: Path, name: str, content: str) -> None:
    """A file that was fetched whole is called so by who goes on with a conversion, and told by its content."""
    _called[path] = (name, (content,))


def remotes(sources: Iterable[Source]) -> list[Remote]:
    """The files that are somewhere else, each once."""
    found = (getattr(source, "file", source) for source in sources)
    paths = dict.fromkeys(one.path for one in found if isinstance(one, FileSlice) and one.path in _remote)
    return [_remote[path] for path in paths]


@contextmanager
def reading_through(read_into: Callable[[Any, int, memoryview], None]) -> Iterator[None]:
    """Within, what is read of files that are somewhere else is asked of `read_into`."""
    _through.append(read_into)
    try:
        yield
    finally:
        _through.remove(read_into)


def read(source: Source, start: int = 0, stop: int | None = None) -> Bytes:
    """The bytes `[start, stop)` of `source` in a new array."""
    import numpy as np

    out = np.empty((source.nbytes if stop is None else stop) - start, np.uint8)
    source.read_into(start, out)
    return out


def open_regular(path: Path) -> int:
    """A descriptor for reading; `FormatError` for what is missing, unreadable, or no regular file.

    A pipe or a device is not opened at all, which could wait, or set something going.
    """
    try:
        descriptor = os.open(system.reachable(path), system.READING) if stat.S_ISREG(path.stat().st_mode) else -1
        if descriptor != -1 and stat.S_ISREG((status := os.fstat(descriptor)).st_mode):
            if (noted := _noted.get()) is not None:
                noted.setdefault(path, Identity.of(status))
            return descriptor
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FormatError(path, f"cannot be opened: {reason}") from None
    if descriptor != -1:
        os.close(descriptor)
    raise FormatError(path, "not a regular file")


@contextmanager
def noting() -> Iterator[dict[Path, Identity]]:
    """Within, every file that is opened for reading is noted, as it is then."""
    noted: dict[Path, Identity] = {}
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def described(file: FileSlice) -> tuple[str, tuple[int | str, ...]] | None:
    """A file's name, and what tells whether it is the one that it was, also to another process: all but its device,
    which may have another number after a restart. None where nobody looked."""
    if file.path in _called:
        return _called[file.path]
    if (remote := _remote.get(file.path)) is not None:
        return remote.name, (remote.nbytes, remote.tag)
    if file.identity is None:
        return None
    one = file.identity
    return str(file.path.resolve()), (one.inode, one.nbytes, one.modified, one.changed)


def slices(noted: Mapping[Path, Identity]) -> tuple[FileSlice, ...]:
    """Files that were noted, to be given to `check_unchanged`."""
    return tuple(FileSlice(path, 0, 0, identity) for path, identity in noted.items())


def check_unchanged(sources: Iterable[Source]) -> None:
    """Raises `FormatError`, naming the file, if one of the files behind `sources` is not what it was."""
    seen: set[tuple[Path, Identity]] = set()
    for source in sources:
        found = getattr(source, "file", source)  # a view of a file has its file
        if isinstance(found, FileSlice) and found.identity and (found.path, found.identity) not in seen:
            seen.add((found.path, found.identity))
            found.check_unchanged()


def on_another_machine() -> None:
    """From now on, files that were first looked at elsewhere are told without the number of their device."""
    _elsewhere.set()


def _check(path: Path, then: Identity, status: os.stat_result) -> None:
    now = Identity.of(status)
    what = then.departure(replace(now, device=then.device) if _elsewhere.is_set() else now)
    if what:
        raise FormatError(path, f"it has changed since it was opened: {what}", hint=_WAIT)
