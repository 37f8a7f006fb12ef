"""What differs between operating systems, in one place: every call that some system lacks, with its portable twin.

Nothing else in requant asks which system it runs on. A call is looked up when it is made, so that tests can take it
away. Sources: the manual pages named at each function; for Windows, Python's documentation of `os` and `msvcrt`.
"""

from __future__ import annotations

import errno
import ntpath
import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

#: For every descriptor: bytes as they are (Windows translates line ends otherwise), and not for child processes.
BINARY: Final = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)
#: For reading: opening a pipe does not wait for its other end.
READING: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | BINARY
#: A link of the name is not followed.
NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
#: Whether a file that is open can be renamed, replaced and removed.
FREES_NAMES: Final = os.name != "nt"
#: What a system says that has no such call, or a file system that cannot do it, or not for these two names.
CANNOT: Final = frozenset(
    getattr(errno, name)
    for name in ("ENOSYS", "EINVAL", "ENOTSUP", "EOPNOTSUPP", "EXDEV", "EPERM", "EMLINK", "EBUSY", "ENOTTY", "ENOLCK")
    if hasattr(errno, name)
)
#: Bytes a second that memory gives where nobody says: two channels of DDR5-4800, less a third that nobody sees.
USUAL_BANDWIDTH: Final = 50e9

_SYNC_FILE_RANGE_WRITE: Final = 2
#: Windows takes 260, of which a file in a folder that is being made needs some.
_LONG: Final = 200
_RENAME_EXCHANGE: Final = 2  # renameat2(2)
_RENAME_SWAP: Final = 2  # renamex_np(2) of macOS
_AT_FDCWD: Final = -100
_ACCESS_LIST: Final = "system.posix_acl_access"

#: Where there is no pwrite or pread, a descriptor's position is everybody's.
_position = threading.Lock()


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows; systems without these names
        return None


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write at a place of a file, from any thread; how many bytes were."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes from a place of a file, from any thread."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, offset)
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, count)


def read_into(descriptor: int, view: memoryview, offset: int) -> int:
    """Fill `view` from a place of a file, as far as it goes; how many bytes were read."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], offset)
    data = read_at(descriptor, min(len(view), 1 << 24), offset)
    view[: len(data)] = data
    return len(data)


def reserve(descriptor: int, nbytes: int) -> None:
    """Give a file its full length, and room on the disk where that can be promised; a full disk is an `OSError`."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(descriptor, 0, nbytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG):
                raise
    return os.ftruncate(descriptor, nbytes)


def lock(descriptor: int) -> bool:
    """Hold a file for this process until it is closed; False while another has it. True where nothing can be locked."""
    try:
        import fcntl
    except ImportError:
        return _lock_region(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # file systems without locks
    return True


def _lock_region(descriptor: int) -> bool:
    """Windows: a byte far behind the end, since what is locked there can be read by nobody else."""
    try:
        import msvcrt
    except ImportError:
        return True
    region: Any = msvcrt
    with _position:
        os.lseek(descriptor, (1 << 31) - 2, os.SEEK_SET)
        try:
            region.locking(descriptor, region.LK_NBLCK, 1)
        except OSError as error:
            return error.errno not in (errno.EACCES, errno.EDEADLK)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
    return True


@cache
def c_function(name: str) -> Any:
    """A function of the C library that Python does not have; None where the system has none."""
    try:
        import ctypes

        return getattr(ctypes.CDLL(None, use_errno=True), name, None)
    except (ImportError, OSError, TypeError):  # Windows has no library of its own process
        return None


def begin_writing(descriptor: int) -> None:
    """Have the disk begin with what was written, without waiting: sync_file_range(2) of Linux, else nothing."""
    function = c_function("sync_file_range")
    if function is not None:
        import ctypes

        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        function(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


def give_back_memory() -> None:
    """Let the system have what was freed, before as much is taken in other sizes: malloc_trim(3) of glibc."""
    function = c_function("malloc_trim")
    if function is not None:
        function(0)


def sync(descriptor: int) -> None:
    """Have every byte on the disk itself; fsync of macOS stops at the disk's own memory, fcntl(2) goes on."""
    with suppress(ImportError, AttributeError, OSError):  # other systems; disks that cannot be told so
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]
        return
    os.fsync(descriptor)


def read_pipe(descriptor: int, count: int, seconds: float) -> bytes | None:
    """Up to `count` bytes from a pipe as soon as there are some, none at its end; None if none came for so long.

    Windows can wait for sockets only; a thread waits there, and is left behind with its pipe.
    """
    import select

    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return os.read(descriptor, count) if poll.poll(1000 * seconds) else None
    arrived: list[bytes] = []
    reader = threading.Thread(target=lambda: arrived.append(os.read(descriptor, count)), daemon=True)
    reader.start()
    reader.join(seconds)
    return arrived[0] if arrived else None


def apart() -> dict[str, Any]:
    """What `subprocess.Popen` takes for a child that Ctrl-C does not reach."""
    import subprocess

    group: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    return {"creationflags": group} if group else {"start_new_session": True}


def reachable(path: Path) -> Path:
    """The same file under a name that the system takes at any length."""
    return Path(long_name(str(path))) if os.name == "nt" else path


def long_name(name: str) -> str:
    r"""An absolute name as Windows takes it beyond 260 characters; shorter and relative ones are left as they are.

    https://learn.microsoft.com/windows/win32/fileio/maximum-file-path-limitation

    >>> print(long_name("C:\\models\\" + 300 * "m")[:15], long_name("C:\\models"))
    \\?\C:\models\m C:\models
    >>> print(long_name("\\\\server\\share\\" + 300 * "m")[:22])
    \\?\UNC\server\share\m
    """
    if len(name) < _LONG or name.startswith("\\\\?\\") or not ntpath.isabs(name):
        return name
    name = ntpath.normpath(name)
    return f"\\\\?\\UNC{name[1:]}" if name.startswith("\\\\") else f"\\\\?\\{name}"


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk; nothing where folders cannot be opened, or may not be, or not synced."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | BINARY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
    finally:
        with suppress(OSError):
            os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Two names for each other's files or folders, at one instant; False where the system cannot.

    renameat2(2) of Linux, renamex_np(2) of macOS. Any other failure is an `OSError`.
    """
    if (swap := c_function("renameat2")) is not None:
        arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    elif (swap := c_function("renamex_np")) is not None:
        arguments = (os.fsencode(one), os.fsencode(other), _RENAME_SWAP)  # type: ignore[assignment]
    else:
        return False
    import ctypes

    ctypes.set_errno(0)
    if swap(*arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def keep_access(descriptor: int, old: Path) -> None:
    """Let the file that replaces `old` be read by those who may read that: its owner, group, mode and access list.

    Where owner or group cannot be given away, nobody gains a right that the old file did not give them. Other extended
    attributes speak of the old content, and are left.
    """
    found = old.lstat()
    if not stat.S_ISREG(found.st_mode) or not hasattr(os, "fchmod"):
        return
    mode = stat.S_IMODE(found.st_mode) & 0o777
    if hasattr(os, "fchown") and not _given(descriptor, found):
        mode &= 0o707 | (mode & 0o007) << 3
    try:
        entries = os.getxattr(old, _ACCESS_LIST) if hasattr(os, "getxattr") else b""
    except OSError:
        entries = b""
    os.fchmod(descriptor, mode & ~0o070 if entries else mode)  # with a list, the group's bits are its mask
    if entries:
        with suppress(OSError):
            os.setxattr(descriptor, _ACCESS_LIST, entries)


def _given(descriptor: int, old: os.stat_result) -> bool:
    """Give a file an owner and a group; whether its group is the one wanted now."""
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) == (old.st_uid, old.st_gid):
        return True
    with suppress(OSError):
        os.fchown(descriptor, old.st_uid, old.st_gid)
        return True
    with suppress(OSError):
        os.fchown(descriptor, -1, old.st_gid)
    return os.fstat(descriptor).st_gid == old.st_gid


def same_access(folder: Path, old: Path) -> bool:
    """Give a folder the owner, mode, times and attributes of another; False if it cannot be."""
    import shutil

    found, now = old.stat(), folder.stat()
    if hasattr(os, "chown") and (now.st_uid, now.st_gid) != (found.st_uid, found.st_gid):
        try:
            os.chown(folder, found.st_uid, found.st_gid)
        except OSError:
            return False
    try:
        shutil.copystat(old, folder)
    except OSError:
        return False
    return True


def interrupts() -> tuple[signal.Signals, ...]:
    """The signals by which a user or the system asks a command to end: Ctrl-C, kill, a terminal that closes."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Within, nothing of that kind interrupts; what came is delivered at the end, unless an error ends the run anyway.

    Only Python's main thread is ever interrupted, and only it may change what a signal does: elsewhere, nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[signal.Signals, Any] = {}
    try:
        for held in interrupts():
            handler = signal.getsignal(held)
            if handler not in (signal.SIG_IGN, None):
                before[held] = handler
                signal.signal(held, lambda number, frame: came.append(number))
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
    for number in came[:1]:
        signal.raise_signal(number)
