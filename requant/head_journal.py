"""Writing over the beginning of files so that a kill at any byte leaves the old head or the new one to whoever reads.

The journal is a staging folder (`requant.staging`) beside the files, with the old bytes in old/ and the new ones in
new/, on the disk before anything is changed. Then, of each file:

1. the file system puts blocks before it, if the data moves;
2. where no more than a page differs, it is written at once, which no kill divides;
3. else the first eight bytes become zeros, with which no reader begins (GGUF's magic, the length of a safetensors
   header); the rest is written; then those eight.

After a kill between, the file is refused by every reader until requant looks there next (`finish_around`), which writes
what is left, and checks before that every byte is one of the two.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from requant import extents, system
from requant.errors import FormatError, PlanError
from requant.staging import Staging, inner, write_document

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What begins a file that no reader takes for a model.
_GUARD: Final = bytes(8)
_PAGE: Final = 4096
_AGAIN: Final = "a model that was just being edited? it and its journal may be from different times"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One file. inode, nbytes: as it was. inserted: bytes that its data moves. first: what its data begins with."""

    name: str
    inode: int
    nbytes: int
    inserted: int
    first: str

    def keep(self, staging: Staging, before: bytes, after: bytes) -> None:
        """Have both heads on the disk."""
        for folder, data in ((staging.old, before), (staging.new, after)):
            folder.mkdir(exist_ok=True)
            descriptor = os.open(folder / self.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | system.BINARY, 0o600)
            try:
                _write(descriptor, data, 0)
                system.sync(descriptor)
            finally:
                with suppress(OSError):
                    os.close(descriptor)
            system.sync_folder(folder)

    def forward(self, root: Path, staging: Staging) -> bool:
        """Have the new head in the file; False if there is no room to be made before it, and nothing was done."""
        with _opened(root / self.name) as descriptor:
            before, after = self._heads(staging)
            waits = self.inserted and os.fstat(descriptor).st_size == self.nbytes
            if waits and not _inserted(descriptor, self.inserted):
                return False
            self._put(descriptor, bytes(self.inserted) + before, after)
        return True

    def back(self, root: Path, staging: Staging) -> None:
        """Have the old head in the file."""
        with _opened(root / self.name) as descriptor:
            before, after = self._heads(staging)
            if os.fstat(descriptor).st_size != self.nbytes and not extents.remove(descriptor, self.inserted):
                raise OSError(0, "blocks cannot be taken out again", str(root / self.name))
            self._put(descriptor, after[self.inserted :], before)

    def is_untouched(self, root: Path, staging: Staging) -> bool:
        """Whether the old head is there."""
        with _opened(root / self.name, os.O_RDONLY) as descriptor:
            before, _ = self._heads(staging)
            return os.fstat(descriptor).st_size == self.nbytes and system.read_at(descriptor, len(before), 0) == before

    def is_gone(self, root: Path) -> bool:
        """Whether another file has this name by now, or none: then there is nothing to be finished."""
        try:
            return (root / self.name).lstat().st_ino != self.inode
        except FileNotFoundError:
            return True

    def check(self, root: Path, staging: Staging) -> None:
        """Raises `FormatError` unless the file is between its old head and its new one."""
        path = root / self.name
        with _opened(path, os.O_RDONLY) as descriptor:
            size, (before, after) = os.fstat(descriptor).st_size, self._heads(staging)
            grown = size == self.nbytes + self.inserted
            old = np.frombuffer(bytes(self.inserted) + before if grown else before, np.uint8)
            new = np.frombuffer(after, np.uint8)[: old.size]
            now = np.frombuffer(system.read_at(descriptor, old.size, 0), np.uint8)
            first = bytes.fromhex(self.first)
            there = system.read_at(descriptor, len(first), old.size)
        if size not in (self.nbytes, self.nbytes + self.inserted) or now.size != old.size:
            raise FormatError(path, "its size is not what the journal of a broken edit says", hint=_AGAIN)
        fits = (now == old) | (now == new) if old.size == new.size else now == old
        fits[: len(_GUARD)] |= now[: len(_GUARD)] == 0
        if not fits.all() or there != first:
            raise FormatError(path, "it is not what the journal of a broken edit says", hint=_AGAIN)

    def _heads(self, staging: Staging) -> tuple[bytes, bytes]:
        return (staging.old / self.name).read_bytes(), (staging.new / self.name).read_bytes()

    @staticmethod
    def _put(descriptor: int, before: bytes, after: bytes) -> None:
        """Write `after` over what is `before`, or partly `after` already; both have the same length."""
        differs = np.flatnonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8))
        if differs.size:
            first, last = int(differs[0]), int(differs[-1]) + 1
            if first // _PAGE == (last - 1) // _PAGE:
                _write(descriptor, after[first:last], first)
                system.sync(descriptor)
                return
            _write(descriptor, _GUARD, 0)
            system.sync(descriptor)
            first = max(first, len(_GUARD))
            _write(descriptor, after[first:last], first)
            system.sync(descriptor)
            _write(descriptor, after[: len(_GUARD)], 0)
        system.sync(descriptor)


@dataclass(frozen=True, slots=True)
class HeadJournal:
    """Files of `root` that get new heads, all of them or none."""

    root: Path
    rewrites: tuple[Rewrite, ...]

    def write(self, staging: Staging) -> None:
        """Have the journal on the disk: from now on the work can be finished by anybody."""
        fields = ("name", "inode", "nbytes", "inserted", "first")
        heads = [{field: getattr(one, field) for field in fields} for one in self.rewrites]
        write_document(staging, {"heads": heads})
        system.sync_folder(self.root)

    @classmethod
    def read(cls, staging: Staging, document: Mapping[str, Any]) -> HeadJournal:
        """As `write` wrote it; raises `ValueError` and its like for what is no journal."""
        rewrites = []
        for one in document["heads"]:
            name = inner(one["name"])
            inode, nbytes, inserted = (one[field] for field in ("inode", "nbytes", "inserted"))
            if "/" in name or not all(isinstance(n, int) and n >= 0 for n in (inode, nbytes, inserted)):
                raise ValueError
            rewrites.append(Rewrite(name, inode, nbytes, inserted, bytes.fromhex(one["first"]).hex()))
            if not all((folder / name).is_file() for folder in (staging.old, staging.new)):
                raise ValueError
        return cls(staging.path.parent, tuple(rewrites))

    def begin(self, staging: Staging) -> bool:
        """Carry it out, or undo it, and remove the journal; False if the file system cannot, and nothing was done."""
        try:
            done = self._forward(staging)
        except OSError as error:
            self._undone(staging, error)
            _removed(staging, "nothing was changed")
            raise PlanError(f"{error.filename or self.root}: {error.strerror}; nothing was changed") from error
        _removed(staging, "the new model is complete" if done else "nothing was changed")
        return done

    def settle(self, staging: Staging) -> None:
        """Finish what a killed process began; raises the `OSError` that made it impossible after all was undone."""
        if any(one.is_gone(self.root) for one in self.rewrites):
            return
        for one in self.rewrites:
            one.check(self.root, staging)
        try:
            if all(one.is_untouched(self.root, staging) for one in self.rewrites):
                return
            self._forward(staging)
        except OSError as error:
            self._undone(staging, error)
            raise

    def is_untouched(self, staging: Staging) -> bool:
        """Whether nothing of it was done."""
        return all(one.is_untouched(self.root, staging) for one in self.rewrites)

    def _forward(self, staging: Staging) -> bool:
        return all(one.forward(self.root, staging) for one in self.rewrites)

    def _undone(self, staging: Staging, error: OSError) -> None:
        try:
            for one in reversed(self.rewrites):
                one.back(self.root, staging)
        except OSError as other:
            raise PlanError(
                f"{error.filename or self.root}: {other.strerror}; a head in {self.root} may be neither old nor new",
                hint=f"both are safe, in {staging.path}: the next requant that reads or writes there goes on, such as "
                f"`requant inspect {self.root / self.rewrites[0].name}`",
            ) from error


def _inserted(descriptor: int, nbytes: int) -> bool:
    """Put blocks before a file that nobody else has open, and that nobody opens meanwhile."""
    with extents.alone(descriptor) as nobody_else:
        return nobody_else and extents.insert(descriptor, nbytes)


class _opened:
    """A file of the journal, open; links are not followed."""

    def __init__(self, path: Path, access: int = os.O_RDWR) -> None:
        self._path, self._access = path, access

    def __enter__(self) -> int:
        self._descriptor = os.open(self._path, self._access | system.NO_FOLLOW | system.BINARY)
        return self._descriptor

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # what was synced is on the disk
            os.close(self._descriptor)


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = system.write_at(descriptor, view, offset)
        view, offset = view[count:], offset + count


def _removed(staging: Staging, outcome: str) -> None:
    try:
        staging.remove()
    except OSError as error:
        raise PlanError(
            f"{staging.path}: {error.strerror}; {outcome}", hint="see to the disk; the next edit removes what is left"
        ) from error
