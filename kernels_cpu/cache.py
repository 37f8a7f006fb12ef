"""Where compiled kernels are kept, and for which processor they are compiled.

Nothing here imports numba, which takes a third of a second.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import sys
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import llvmlite
import llvmlite.binding as llvm

from requant.kernels_cpu import on_notice
from requant.temporary import temporary_folder

_KEPT_DAYS: Final = 30
#: What processors of the third level of x86-64 have, and kernels that are compiled ahead take for granted.
#: Source: the System V ABI, supplement for AMD64, "micro-architecture levels".
LEVEL_3: Final = ("avx", "avx2", "bmi", "bmi2", "cx16", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse4.2", "ssse3")


@cache
def processor() -> tuple[str, str]:
    """Name and features of the processor to compile for, as LLVM calls them: this one, or what numba is told."""
    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name == "generic" else llvm.get_host_cpu_features().flatten()
    return name or llvm.get_host_cpu_name(), features


@cache
def has(*features: str) -> bool:
    """Whether that processor has all of some features of x86-64."""
    found = set(processor()[1].split(","))
    return all(f"+{feature}" in found for feature in features)


@cache
def sources_digest() -> str:
    """A hash of every kernel's source."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def ahead_folder() -> Path | None:
    """Where kernels that were compiled ahead for this processor would be; None if it takes others."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64") and not has(*LEVEL_3):
        return None
    return Path(__file__).with_name("ahead") / f"{sys.platform}-{machine}-{sources_digest()[:16]}"


def cache_folder() -> Path:
    """Where compiled kernels are kept.

    numba's own cache does not notice that a kernel's imports changed, so the folder's name is a hash of every kernel
    source, of the compiler's versions and of the processor. `REQUANT_CACHE_DIR` moves it; where the user's cache
    cannot be written, it lies in the system's temporary folder, if nobody else can write into it there.
    """
    numba = find_spec("numba")
    assert numba is not None and numba.origin is not None
    digest = hashlib.sha256(Path(numba.origin).with_name("_version.py").read_bytes())
    digest.update("\n".join([llvmlite.__version__, *processor(), sources_digest()]).encode())
    chosen = os.environ.get("REQUANT_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    fallback = Path(tempfile.gettempdir()) / f"requant-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    name = f"kernels-{digest.hexdigest()[:16]}"
    for root in (Path(chosen) / "requant", fallback):
        try:
            (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            os.utime(root / name)
        except OSError:
            continue
        if os.access(root / name, os.W_OK) and (root != fallback or _is_ours(root, root / name)):
            if root == fallback:
                _say(Path(chosen) / "requant", f"compiled kernels are kept in {fallback}")
            return root / name
    _say(Path(chosen) / "requant", "kernels are compiled for this run alone")
    return _of_this_process(name)


def _say(wanted: Path, what: str) -> None:
    for tell in on_notice:
        tell(f"{wanted} cannot be written: {what} (REQUANT_CACHE_DIR names another folder)")


def _is_ours(*folders: Path) -> bool:
    """Whether nobody else can put code there, which is run: in the system's temporary folder everybody may write."""
    if not hasattr(os, "getuid"):
        return True  # where that folder is each user's own
    found = [folder.lstat() for folder in folders]
    return all(stat.S_ISDIR(one.st_mode) and one.st_uid == os.getuid() and not one.st_mode & 0o022 for one in found)


@cache
def _of_this_process(name: str) -> Path:
    """A folder that goes with the process, where there is none to keep anything in."""
    place = temporary_folder()
    (place / name).mkdir()
    return place / name


def prune(folder: Path) -> None:
    """Delete the kernels of other versions that nobody has used for a month."""
    oldest = time.time() - _KEPT_DAYS * 86400
    for sibling in folder.parent.glob("kernels-*"):
        if sibling != folder and sibling.stat().st_mtime < oldest:
            shutil.rmtree(sibling, ignore_errors=True)


@cache
def folder() -> Path:
    """The cache folder of this process, whose neighbours have been pruned."""
    here = cache_folder()
    prune(here)
    return here
