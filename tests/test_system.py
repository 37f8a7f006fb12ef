"""Systems that lack what Linux has: every command works with those calls taken away, and so does every twin of one."""

import ast
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from requant import system
from requant.hub import HubModel
from tests.tiny_folder import write_tiny_folder

ROOT = Path(__file__).parents[1]
#: What some system lacks, or Python there: Windows most of it, macOS and the BSDs the rest.
LACKING = {
    "os": (
        "pread pwrite preadv pwritev readv writev preadv2 sched_getaffinity sched_setaffinity posix_fallocate "
        "posix_fadvise fchmod fchown chown lchown getuid geteuid getgid getegid getxattr setxattr sysconf "
        "sendfile copy_file_range fdatasync memfd_create O_DIRECTORY O_NONBLOCK O_NOFOLLOW O_CLOEXEC O_SYNC"
    ),
    "signal": "SIGHUP SIGALRM SIGUSR1 SIGPIPE pthread_sigmask sigwait setitimer alarm",
    "errno": "EDQUOT ENOTSUP EOPNOTSUPP",
}
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "posix1e")
#: Before anything of requant is imported; what Python's own library needs of it is imported first.
TAKE_AWAY = f"""
import sys
import asyncio, ctypes, logging, multiprocessing.util, platform, random, select, shutil, socket, ssl, subprocess
import tempfile
import numpy, llvmlite.binding, numba, tqdm
import concurrent.futures, errno, os, signal
for module, names in {LACKING!r}.items():
    for name in names.split():
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
for module in {MODULES!r}:
    sys.modules[module] = None
del select.poll
class NoLibrary(ctypes.CDLL):
    def __init__(self, name, *arguments, **named):
        if name is None:
            raise TypeError("there is no library of the process itself")
        super().__init__(name, *arguments, **named)
ctypes.CDLL = NoLibrary
if "held" in sys.argv[1]:
    import requant.system
    requant.system.FREES_NAMES = False
sys.argv[:2] = ["requant"]
from requant.cli.start import main
main()
"""


def without(home, *words, how="plain"):
    """A command where those calls are missing."""
    command = [sys.executable, "-c", TAKE_AWAY, how, *map(str, words)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=home, timeout=240, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("without")
    write_tiny_folder(folder / "hf")
    return folder


def test_a_model_goes_there_and_back(home):
    assert "convert" in without(home, "--help")
    without(home, "convert", "hf", "out.gguf", "--to", "Q8_0")
    assert "Q8_0" in without(home, "inspect", "out.gguf")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "held"])
def test_every_way_to_publish(home, how):
    """held: files that are open keep their names, as on Windows."""
    split = ("--max-shard-tensors", "5", "--threads", "2")
    without(home, "convert", "hf", f"{how}.gguf", "--to", "F16", how=how)
    for more in ((), ("--force",)):
        without(home, "convert", f"{how}.gguf", f"{how}-folder", *split, *more, how=how)
        if how == "held":
            without(home, "convert", "hf", f"{how}-s.gguf", "--to", "F16", *split, *more, how=how)
    without(home, "requantize", f"{how}.gguf", f"{how}-q.gguf", "Q8_0", how=how)
    ours = subprocess.run(
        [sys.executable, "-m", "requant", "convert", "hf", "ours.gguf", "--to", "F16", "--force"], cwd=home, check=True
    )
    assert not ours.returncode and (home / "ours.gguf").read_bytes() == (home / f"{how}.gguf").read_bytes()
    assert not list(home.rglob("*.partial"))


@pytest.mark.slow
def test_check(home):
    pytest.importorskip("xllamacpp")
    without(home, "convert", "hf", "check.gguf", "--to", "F16", "--force")
    assert "passed" in without(home, "check", "check.gguf", "--chunks", "1", "--ctx", "64", "--predict", "2", "-q")
    assert "Usage" in without(home, "check", "--help")


def test_only_one_module_asks_for_them():
    """Calls that some system lacks are made in `requant.system`, and by nobody else."""
    names = {name for group in LACKING.values() for name in group.split()} - {"EDQUOT", "ENOTSUP", "EOPNOTSUPP"}
    found = []
    for folder in ("requant", "formats", "cli", "kernels_cpu"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name == "system.py" or any(parent.is_symlink() for parent in path.parents):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in names:
                    owner = node.value.id if isinstance(node.value, ast.Name) else ""
                    found += [f"{path.relative_to(ROOT)}: {owner}.{node.attr}"] if owner in LACKING else []
                if isinstance(node, ast.Import):
                    found += [f"{path.relative_to(ROOT)}: {name.name}" for name in node.names if name.name in MODULES]
    # which ask whether there is such a thing
    asking = {"kernels_cpu/cache.py: os.getuid", "requant/extents.py: fcntl", "requant/ollama/sandbox.py: resource"}
    assert set(found) <= asking


# --- the twins


@pytest.fixture
def bare(monkeypatch):
    for name in LACKING["os"].split():
        monkeypatch.delattr(os, name, raising=False)
    for name in ("fcntl", "msvcrt"):
        monkeypatch.setitem(sys.modules, name, None)


def test_reading_and_writing_at_a_place(tmp_path, bare):
    with (tmp_path / "file").open("w+b") as file:
        descriptor = file.fileno()
        system.reserve(descriptor, 4096 * 8)
        assert os.fstat(descriptor).st_size == 4096 * 8
        wanted = [bytes([n]) * 4096 for n in range(8)]

        def write(n):
            for _ in range(50):
                view = memoryview(wanted[n])
                assert system.write_at(descriptor, view, 4096 * n) == 4096
                got = bytearray(4096)
                assert system.read_into(descriptor, memoryview(got), 4096 * n) == 4096 and got == wanted[n]

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert b"".join(system.read_at(descriptor, 4096, 4096 * n) for n in range(8)) == b"".join(wanted)
        assert system.read_into(descriptor, memoryview(bytearray(9)), 4096 * 8) == 0
        assert system.lock(descriptor)
        system.sync(descriptor)


def test_what_cannot_be_had_is_done_without(tmp_path, bare, monkeypatch):
    monkeypatch.setattr(system, "c_function", lambda name: None)
    assert system.processors() == (os.cpu_count() or 1)
    assert not system.exchange(tmp_path / "a", tmp_path / "b")
    system.sync_folder(tmp_path)
    system.begin_writing(0)
    with (tmp_path / "file").open("wb") as file:
        system.keep_access(file.fileno(), tmp_path / "file")


def test_a_lock_is_held_where_there_is_msvcrt_only(tmp_path, monkeypatch):
    """The calls are those of Windows; the semantics are simulated by a table."""
    held = {}

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(descriptor, mode, count):
            assert (mode, count, os.lseek(descriptor, 0, os.SEEK_CUR) > 1 << 30) == (2, 1, True)
            inode = os.fstat(descriptor).st_ino
            if held.setdefault(inode, descriptor) != descriptor:
                raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt)
    with (tmp_path / "file").open("wb") as one, (tmp_path / "file").open("wb") as other:
        assert system.lock(one.fileno()) and not system.lock(other.fileno()) and system.lock(one.fileno())
        assert os.lseek(one.fileno(), 0, os.SEEK_CUR) == 0


def test_macos_exchanges_and_syncs_in_its_own_way(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")

    def renamex_np(one, other, flags):
        assert flags == 2
        text = Path(os.fsdecode(one)).read_bytes()
        Path(os.fsdecode(one)).write_bytes(Path(os.fsdecode(other)).read_bytes())
        Path(os.fsdecode(other)).write_bytes(text)
        return 0

    monkeypatch.setattr(system, "c_function", lambda name: renamex_np if name == "renamex_np" else None)
    assert system.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_text() + (tmp_path / "b").read_text() == "ba"
    fcntl = pytest.importorskip("fcntl")
    asked = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append("fsync"))
    system.sync(7)
    assert asked == [(7, 51)]


@pytest.mark.parametrize("polls", [True, False])
def test_a_pipe_is_waited_for(monkeypatch, polls):
    import select

    if not polls:
        monkeypatch.delattr(select, "poll", raising=False)
    silent, pipe = os.pipe(), os.pipe()
    try:
        assert system.read_pipe(silent[0], 10, 0.05) is None
        os.write(pipe[1], b"word")
        assert system.read_pipe(pipe[0], 10, 20.0) == b"word"
        os.close(pipe[1])
        assert system.read_pipe(pipe[0], 10, 20.0) == b""
    finally:
        os.close(silent[1])
        os.close(pipe[0])


@pytest.mark.parametrize(
    "name", ["C:/models/tiny", r"C:\models\tiny", "C:tiny", r"\\server\share\tiny", r".\hf", "d:/a/b.gguf"]
)
def test_a_drive_is_no_owner_on_the_hub(name):
    assert HubModel.named(name) is None


def test_signals_that_there_are(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    assert system.interrupts() == (signal.SIGINT, signal.SIGTERM)
