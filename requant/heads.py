"""New heads for files whose data stays: in place where they fit, else by moving the data unread, else a copy.

* `Way.IN_PLACE`: the head is written over the old one; what is left over is room for the next time.
* `Way.SHARE`: a new file shares the data with the old one (reflink), and takes its name.
* `Way.INSERT`: the file system puts blocks before the file; the head is written over them and the old head.
* `Way.COPY`: a new file, streamed, takes the old one's name.

The first and the third change the file that is there: a journal (`requant.head_journal`) is on the disk before. The
second and the fourth are as crash-safe as any output (`requant.output`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from requant import extents, system
from requant.errors import FormatError, PlanError
from requant.extents import BLOCK
from requant.head_journal import HeadJournal, Rewrite
from requant.journal import finish_around
from requant.layout import Layout, OutputFile
from requant.output import OutputSet, on_published
from requant.sink import COPY_BYTES
from requant.sources import FileSlice, Identity, open_regular, read
from requant.staging import Staging, staged_name

#: Files whose data is shorter are copied before anything is tried.
_SMALL: Final = 1 << 20


class Way(Enum):
    """How a file gets its new head; the value is what people are told."""

    IN_PLACE = "in place"
    SHARE = "a copy that shares its data"
    INSERT = "the head moves, the data is not touched"
    COPY = "a copy"


@dataclass(frozen=True, slots=True)
class Head:
    """What is to stand before the data of a file.

    start: where its data begins now. least: bytes that are needed. wanted: those and the room asked for, a length that
    `filled` can make. unit: what the beginning of the data is a multiple of. filled: the head of so many bytes; None if
    that cannot be.
    """

    path: Path
    identity: Identity
    start: int
    least: int
    wanted: int
    unit: int
    filled: Callable[[int], bytes | None]

    @property
    def fits(self) -> bool:
        """Whether the data can stay where it is."""
        return self.wanted <= self.start and self.filled(self.start) is not None

    @property
    def moved(self) -> int:
        """Where data begins that is moved by whole blocks."""
        block = max(BLOCK, self.unit)
        start = self.start
        while start < self.wanted or self.filled(start) is None:
            start += max(block, (self.wanted - start) // block * block)
        return start

    @property
    def data(self) -> FileSlice:
        """What follows."""
        return FileSlice(self.path, self.start, self.identity.nbytes - self.start, self.identity)


@dataclass(frozen=True, slots=True)
class Rewriting:
    """Files of one folder, and how they get their heads."""

    heads: tuple[Head, ...]
    way: Way

    @property
    def length(self) -> int:
        """Bytes of the first file's head."""
        head = self.heads[0]
        return {Way.IN_PLACE: head.start, Way.COPY: head.wanted}.get(self.way, head.moved if self.is_moved else 0)

    @property
    def is_moved(self) -> bool:
        """Whether data moves by blocks."""
        return self.way in (Way.SHARE, Way.INSERT)

    @property
    def copied(self) -> int:
        """Bytes that are read and written besides heads."""
        return sum(head.data.nbytes for head in self.heads) if self.way is Way.COPY else 0


def planned(heads: Sequence[Head]) -> Rewriting:
    """How it will be done; nothing is, but what file systems can is tried on files without names."""
    heads = tuple(heads)
    if all(head.fits for head in heads):
        return Rewriting(heads, Way.IN_PLACE)
    return Rewriting(heads, _moving(heads[0]) if len(heads) == 1 else Way.COPY)


def _moving(head: Head) -> Way:
    if head.data.nbytes < _SMALL:
        return Way.COPY
    if _can_share(head, head.path.parent):
        return Way.SHARE
    if not extents.can_insert(head.path.parent):
        return Way.COPY
    try:
        writing = _open_to_write(head)
    except PlanError:
        return Way.COPY
    try:
        with extents.alone(writing) as nobody_else:
            return Way.INSERT if nobody_else else Way.COPY
    finally:
        os.close(writing)


def rewrite(plan: Rewriting, told: Callable[[int], None] = lambda count: None) -> Way:
    """Carry it out; how it was done in the end, if the file system refused what it had promised.

    told: bytes that were copied. Raises `PlanError` for what cannot be written, `FormatError` for a file that is not
    what it was when it was read, and leaves everything as it was then.
    """
    folder, names = plan.heads[0].path.parent, [head.path.name for head in plan.heads]
    if plan.way in (Way.IN_PLACE, Way.INSERT) and _in_place(plan):
        return plan.way
    if plan.way is Way.SHARE and _publish(plan.heads, folder, names, Way.SHARE, told):
        return plan.way
    _publish(plan.heads, folder, names, Way.COPY, told)
    return Way.COPY


def planned_copy(heads: Sequence[Head], folder: Path) -> Rewriting:
    """How files of that folder will be made of these; nothing is."""
    shared = all(_can_share(head, folder) for head in heads)
    return Rewriting(tuple(heads), Way.SHARE if shared else Way.COPY)


def copy(plan: Rewriting, destinations: Sequence[Path], told: Callable[[int], None] = lambda count: None) -> Way:
    """The files with their new heads under other names, all in one folder; the old ones stay as they are."""
    folder, names = destinations[0].parent, [path.name for path in destinations]
    if plan.way is Way.SHARE and _publish(plan.heads, folder, names, Way.SHARE, told):
        return Way.SHARE
    _publish(plan.heads, folder, names, Way.COPY, told)
    return Way.COPY


def _can_share(head: Head, folder: Path) -> bool:
    if head.data.nbytes < _SMALL:
        return False
    descriptor = open_regular(head.path)
    try:
        return extents.can_clone(descriptor, folder)
    finally:
        os.close(descriptor)


def _publish(heads: Sequence[Head], folder: Path, names: Sequence[str], way: Way, told: Callable[[int], None]) -> bool:
    """New files, each as long as it needs to be, under these names at one time; False if data cannot be shared."""
    files = []
    for head, name in zip(heads, names, strict=True):
        start = head.moved if way is Way.SHARE else head.wanted
        filled = head.filled(start)
        assert filled is not None
        length = start if way is Way.SHARE else start + head.data.nbytes
        files.append(OutputFile(name, filled, length, {("data", "data"): start}))
    with OutputSet(Layout(folder, tuple(files))) as output:
        for head, file in zip(heads, files, strict=True):
            sink, data, start = output.sink(file.name), head.data, len(file.head)
            if way is Way.SHARE:
                if not sink.share(data, start):
                    return False
                continue
            for offset in range(0, data.nbytes, COPY_BYTES):
                piece = read(data, offset, min(data.nbytes, offset + COPY_BYTES))
                sink.write(start + offset, piece)
                told(piece.size)

        def unchanged() -> None:
            for head in heads:
                head.data.check_unchanged()

        output.publish(unchanged)
    return True


def _in_place(plan: Rewriting) -> bool:
    """Write heads over the old ones; False if room could not be made before one, and nothing was done."""
    folder = plan.heads[0].path.parent
    finish_around(plan.heads[0].path)
    with ExitStack() as files:  # closed before the journal opens them: an open file has no lease
        descriptors = []
        for head in plan.heads:
            descriptors.append(_open_to_write(head))
            files.callback(_close, descriptors[-1])
        try:
            staging = Staging.claim(folder / staged_name(plan.heads[0].path.name))
        except OSError as error:
            raise PlanError(
                f"{folder}: the journal cannot be written: {error.strerror}", hint="-o OUT writes a copy elsewhere"
            ) from error
        if staging.journal.is_file():  # another process was killed meanwhile
            staging.release()
            raise FormatError(plan.heads[0].path, "it has changed since it was opened", hint="try again")
        try:
            staging.clear()
            journal = _journal(plan, staging, descriptors)
        except BaseException as error:
            _drop(staging)
            if isinstance(error, OSError):
                raise PlanError(f"{staging.path}: {error.strerror}; nothing was changed") from error
            raise
    try:
        with system.interrupts_held():
            done = journal.begin(staging)
            for tell in on_published if done else ():
                tell()
            return done
    finally:
        staging.release()


def _journal(plan: Rewriting, staging: Staging, files: Sequence[int]) -> HeadJournal:
    """The journal of what will be done, on the disk."""
    rewrites = []
    for head, descriptor in zip(plan.heads, files, strict=True):
        length = head.moved if plan.way is Way.INSERT else head.start
        after = head.filled(length)
        assert after is not None
        before = system.read_at(descriptor, head.start, 0)
        _check(head, descriptor)
        first = system.read_at(descriptor, BLOCK, head.start)
        name = head.path.name
        rewrites.append(Rewrite(name, head.identity.inode, head.identity.nbytes, length - head.start, first.hex()))
        rewrites[-1].keep(staging, before, after)
    journal = HeadJournal(plan.heads[0].path.parent, tuple(rewrites))
    journal.write(staging)
    return journal


def _open_to_write(head: Head) -> int:
    """A descriptor of the file that was read; raises `PlanError` where it may not be written."""
    try:
        found = head.path.stat()
        if not stat.S_IMODE(found.st_mode) & 0o222:  # the administrator's rights go beyond what the owner meant
            raise PermissionError(13, "it is read-only")
        descriptor = os.open(head.path, os.O_RDWR | system.NO_FOLLOW | system.BINARY)
    except OSError as error:
        raise PlanError(
            f"{head.path}: {error.strerror}", hint="make it writable (chmod u+w), or write a copy: -o OUT"
        ) from None
    try:
        _check(head, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(head: Head, descriptor: int) -> None:
    what = head.identity.departure(Identity.of(os.fstat(descriptor)))
    if what:
        raise FormatError(
            head.path, f"it has changed since it was opened: {what}", hint="nothing was changed; try again"
        )


def _close(descriptor: int) -> None:
    with suppress(OSError):  # what was synced is on the disk
        os.close(descriptor)


def remove_left_over(path: Path) -> None:
    """Remove what a killed edit of `path` has left when it was done, or had not begun; what is somebody's is left."""
    place = path.with_name(staged_name(path.name))
    with suppress(OSError, PlanError):
        if place.is_dir() and not place.is_symlink():
            staging = Staging.claim(place)
            if staging.journal.is_file():
                staging.release()
            else:
                staging.remove()


def _drop(staging: Staging) -> None:
    try:
        staging.remove()
    except OSError as error:
        raise PlanError(f"{staging.path}: {error.strerror}; nothing was changed, it can be removed") from error
