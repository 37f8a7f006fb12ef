"""Moving what lies in a file without copying it, where the file system can: by its table of extents.

fallocate(2) of Linux puts blocks of zeros before what a file holds (ext4, XFS, f2fs); FICLONERANGE of
ioctl_ficlonerange(2) has two files share what they hold (XFS, btrfs, bcachefs, OCFS2). Both go by whole blocks.
Everywhere else: False.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from requant import system

#: Bytes of a block of most file systems; larger blocks are refused by the system, and nothing is done.
BLOCK: Final = 4096
_COLLAPSE_RANGE: Final = 0x08
_INSERT_RANGE: Final = 0x20
_FICLONERANGE: Final = 0x4020940D
_F_SETSIG: Final = 10
_F_SETLEASE: Final = 1024


def insert(descriptor: int, nbytes: int) -> bool:
    """Have a file begin with `nbytes` zeros, whole blocks, and then with what it began with; False if it cannot be.

    The call is not interrupted. How it survives a power cut is the file system's matter.
    """
    return _fallocate(descriptor, _INSERT_RANGE, nbytes)


def remove(descriptor: int, nbytes: int) -> bool:
    """Take the first `nbytes`, whole blocks, out of a file: what undoes `insert`."""
    return _fallocate(descriptor, _COLLAPSE_RANGE, nbytes)


def _fallocate(descriptor: int, mode: int, nbytes: int) -> bool:
    function = system.c_function("fallocate")
    if function is None:
        return False
    import ctypes

    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    ctypes.set_errno(0)
    if function(descriptor, mode, 0, nbytes) == 0:
        return True
    number = ctypes.get_errno()
    if number in system.CANNOT:
        return False
    raise OSError(number, os.strerror(number))


def clone(source: int, start: int, target: int, offset: int) -> bool:
    """Have `target` share, from `offset` on, what `source` holds from `start` to its end; both are whole blocks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, start, 0, offset))
    except OSError as error:
        if error.errno in system.CANNOT:
            return False
        raise
    return True


def can_insert(folder: Path) -> bool:
    """Whether files in a folder can be begun anew; tried on a file that never has a name."""
    with _nameless(folder) as trial:
        return trial is not None and insert(trial, BLOCK)


def can_clone(source: int, folder: Path) -> bool:
    """Whether files in a folder can share what an open file holds."""
    with _nameless(folder) as trial:
        return trial is not None and clone(source, 0, trial, 0)


@contextmanager
def _nameless(folder: Path) -> Iterator[int | None]:
    """A file of two blocks without a name; None where there are none."""
    flag = getattr(os, "O_TMPFILE", 0)
    try:
        descriptor = os.open(folder, flag | os.O_RDWR | system.BINARY, 0o600) if flag else -1
    except OSError:
        descriptor = -1
    try:
        if descriptor != -1:
            os.write(descriptor, bytes(2 * BLOCK))
        yield descriptor if descriptor != -1 else None
    finally:
        if descriptor != -1:
            os.close(descriptor)


@contextmanager
def alone(descriptor: int) -> Iterator[bool]:
    """Whether nobody else has the file open or mapped; whoever opens it within waits until the end.

    A lease of fcntl(2): what is open for writing here must be open nowhere else. False where nobody can know.
    """
    try:
        import fcntl

        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)  # which is ignored, where SIGIO would end the process
        fcntl.fcntl(descriptor, _F_SETLEASE, fcntl.F_WRLCK)
    except (ImportError, OSError, AttributeError):
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):
            fcntl.fcntl(descriptor, _F_SETLEASE, fcntl.F_UNLCK)
