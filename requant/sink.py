"""One file under construction: written at given offsets, from any thread."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from requant import system
from requant.errors import PlanError
from requant.extents import BLOCK, clone
from requant.layout import OutputFile
from requant.sources import FileSlice, Source, open_regular, read

#: Bytes of a carried file read at a time.
COPY_BYTES: Final = 1 << 20
#: Bytes that wait in memory before the disk is told to begin with them, instead of with everything at the end.
_WAITING: Final = 32 << 20


class Sink:
    """One file under construction; writes at given offsets, from any thread.

    path: the name that it will have. descriptor: the file as it is called now, which the sink closes. begun: an earlier
    process has given it its length, and written some of it. made: what it is called now.
    """

    def __init__(
        self, path: Path, descriptor: int, file: OutputFile, begun: bool = False, made: Path | None = None
    ) -> None:
        self.path, self.made = path, path if made is None else made
        self._descriptor = descriptor
        self._waiting = 0
        try:
            if file.nbytes and not begun:
                system.reserve(descriptor, file.nbytes)
            self.write(0, memoryview(file.head))
            if file.body is not None:
                self._copy(file.body, len(file.head))
        except OSError as error:
            self.close()
            raise disk_error(error, path) from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, path: Path, descriptor: int) -> Sink:
        """A file that another process is making."""
        sink = cls.__new__(cls)
        sink.path = sink.made = path
        sink._descriptor, sink._waiting = descriptor, 0
        return sink

    def write(self, offset: int, data: NDArray[Any] | memoryview) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data.reshape(-1).view("u1").data) if not isinstance(data, memoryview) else data
        while view:
            try:
                count = system.write_at(self._descriptor, view, offset)
            except OSError as error:
                raise disk_error(error, self.path) from error
            view, offset = view[count:], offset + count
            self._waiting += count  # two threads may lose a few bytes here: it is only a hint to the disk
        if self._waiting > _WAITING:
            self._waiting = 0
            system.begin_writing(self._descriptor)

    def read_into(self, offset: int, view: memoryview) -> bool:
        """Fill `view` with what the file has at `offset`; False where it ends before, or cannot be read."""
        try:
            while view:
                count = system.read_into(self._descriptor, view, offset)
                if count == 0:
                    return False
                view, offset = view[count:], offset + count
        except OSError:
            return False
        return True

    def share(self, source: FileSlice, offset: int) -> bool:
        """Have the file hold, from `offset` on, what `source` holds to its end, by the same blocks of the disk.

        Both begin at the same place of a block. False where the file system cannot.
        """
        lead = min(-offset % BLOCK, source.nbytes)
        self.write(offset, read(source, 0, lead))
        descriptor = open_regular(source.path)
        try:
            return clone(descriptor, source.offset + lead, self._descriptor, offset + lead)
        except OSError as error:
            raise disk_error(error, self.path) from error
        finally:
            os.close(descriptor)

    def _copy(self, source: Source, offset: int) -> None:
        for start in range(0, source.nbytes, COPY_BYTES):
            self.write(offset + start, read(source, start, min(source.nbytes, start + COPY_BYTES)))

    def sync(self) -> None:
        """Have every byte on the disk; a closed file has been synced."""
        try:
            if self._descriptor != -1:
                system.sync(self._descriptor)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def close(self) -> None:
        """Let go of the file. What `sync` promised is on the disk, whatever closing says; it is never tried twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor != -1:
            with suppress(OSError):
                os.close(descriptor)


def disk_error(error: OSError, path: Path) -> PlanError:
    """What is said of a disk that does not take what it is given."""
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    hint = "nothing was changed; free some space, or choose another destination" if full else "nothing was changed"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "nothing was changed; fewer and larger files, or a higher `ulimit -n`, would do"
    return PlanError(f"{path}: {'the disk is full' if full else error.strerror}", hint=hint)
