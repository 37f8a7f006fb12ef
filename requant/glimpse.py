"""A model of the Hugging Face Hub of which only headers are fetched.

Its weight files stand in a temporary folder with their names, their lengths and their headers, and nothing else: they
take no room. Small files beside them are there whole. Should planning ask for a weight (whether a tied head is a copy,
frequency factors), these bytes are fetched, too, and only these.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from requant import sources
from requant.errors import FormatError, PlanError
from requant.formats.gguf.cursor import HEADER_LIMIT
from requant.formats.gguf.header import read_header as read_gguf
from requant.formats.safetensors.header import HEAD_SIZE, header_length

#: Fetched at first of a header: those of most shards are shorter.
_FIRST: Final = 1 << 18


@dataclass(slots=True)
class Glimpse:
    """What was looked at. path: to be opened. fetched: bytes so far. nbytes: of the whole model."""

    path: Path
    nbytes: int
    files: int
    _counts: list[int] = field(default_factory=list)

    @property
    def fetched(self) -> int:
        """Bytes that came over the network."""
        return sum(self._counts)


def glimpse(repo: str, commit: str, wanted: Sequence[str], file: str | None, beside: Callable[[], Path]) -> Glimpse:
    """The model `wanted` of a repository at a commit. file: what of it is opened. beside: fetches the small files.

    Raises `FormatError` for headers that are none, `PlanError` where the Hub does not answer.
    """
    from huggingface_hub import HfFileSystem

    system: Any = HfFileSystem()
    root = f"{repo}@{quote(commit, safe='')}"
    sizes = {name.partition("/")[2].partition("/")[2]: entry["size"] for name, entry in _listed(system, root).items()}
    place = Path(tempfile.mkdtemp(prefix="requant-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    folder = place / repo.rpartition("/")[2]
    weights = [name for name in wanted if PurePosixPath(name).suffix in (".gguf", ".safetensors")]
    found = Glimpse(folder / file if file else folder, sum(sizes[name] for name in wanted), len(weights))
    small = beside() if len(weights) < len(wanted) else folder
    for name in wanted:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in weights:
            _head(path, sizes[name], _Remote(system, f"{root}/{name}", found._counts))
        else:
            shutil.copyfile(small / name, path)
    return found


def _listed(system: Any, root: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        listed: Mapping[str, Mapping[str, Any]] = system.find(root, detail=True)
    except Exception as error:
        raise PlanError(f"{root}: the Hub does not say what is in it: {error}") from None
    return listed


@dataclass(frozen=True, slots=True)
class _Remote:
    """A file of the Hub. counts: bytes that each request brought."""

    system: Any
    name: str
    counts: list[int]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes `[start, stop)`."""
        try:
            data: bytes = self.system.cat_file(self.name, start, stop, cache_type="none")
        except Exception as error:  # whatever its transport raises
            raise PlanError(f"{self.name}: the Hub cannot be read: {error}", hint="try again") from None
        if len(data) != stop - start:
            raise PlanError(f"{self.name}: the Hub gives {len(data)} bytes where {stop - start} were asked for")
        with self.lock:
            self.counts.append(len(data))
        return data

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start` on."""
        out[:] = self.read(start, start + len(out))


def _head(path: Path, nbytes: int, remote: _Remote) -> None:
    """A file of this length that has its header, and whose other bytes are fetched when they are read."""
    known = min(nbytes, _FIRST)
    with path.open("wb") as file:
        file.write(remote.read(0, known))
        file.truncate(nbytes)
    while (more := _missing(path, nbytes, known)) > known:
        with path.open("r+b") as file:
            file.seek(known)
            file.write(remote.read(known, more))
        known = more
    sources.remotely(path, remote.read_into)


def _missing(path: Path, nbytes: int, known: int) -> int:
    """How many bytes of a file must be there before its header is; `known` if it is."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            return min(nbytes, HEAD_SIZE + header_length(path, file.read(HEAD_SIZE), nbytes))
    try:
        end = read_gguf(path).data
    except FormatError:  # zeros that are none yet, or a header that is wrong
        end = nbytes
    return known if end <= known or known >= min(nbytes, HEADER_LIMIT) else min(nbytes, 4 * known, HEADER_LIMIT)
