"""A model on a server, of which only headers are fetched.

Its weight files stand in a temporary folder with their names, their lengths and their headers, and nothing else: they
take no room. Small files beside them are there whole. What else is read of a weight is fetched then, and only that.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from requant import sources
from requant.errors import FormatError, PlanError
from requant.formats.gguf.cursor import HEADER_LIMIT
from requant.formats.gguf.header import read_header as read_gguf
from requant.formats.safetensors.header import HEAD_SIZE, header_length
from requant.ranges import Http, RemoteFile
from requant.temporary import temporary_folder

#: Fetched at first of a header: those of most shards are shorter.
_FIRST: Final = 1 << 18
#: Headers fetched at once.
_AT_ONCE: Final = 8
WEIGHTS: Final = (".gguf", ".safetensors")


@dataclass(slots=True)
class Glimpse:
    """What was looked at. path: to be opened. weights: of these only headers are here. beside: bytes of others."""

    path: Path
    weights: Sequence[RemoteFile]
    beside: int = 0

    @property
    def nbytes(self) -> int:
        """Of the whole model."""
        return self.beside + sum(file.nbytes for file in self.weights)

    @property
    def files(self) -> int:
        """How many have weights."""
        return len(self.weights)

    @property
    def fetched(self) -> int:
        """Bytes of them that came over the network."""
        return sum(file.fetched for file in self.weights)


def glimpse(repo: str, commit: str, wanted: Sequence[str], file: str | None, beside: Callable[[], Path]) -> Glimpse:
    """The model `wanted` of a repository at a commit. file: what of it is opened. beside: fetches the small files.

    Raises `FormatError` for headers that are none, `PlanError` where the Hub does not answer.
    """
    from huggingface_hub import HfFileSystem, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined,unused-ignore]

    root = f"{repo}@{quote(commit, safe='')}"
    entries = {name.partition("/")[2].partition("/")[2]: entry for name, entry in _listed(HfFileSystem(), root).items()}
    headers = build_hf_headers()
    files: dict[str, RemoteFile] = {}
    for name in wanted:
        if PurePosixPath(name).suffix in WEIGHTS:
            transport = Http(hf_hub_url(repo, name, revision=commit), headers)
            files[name] = RemoteFile(f"hf://{repo}/{name}", transport, entries[name]["size"], _sha256(entries[name]))
    small = {name: (lambda to, path=name: shutil.copyfile(beside() / path, to)) for name in wanted if name not in files}
    found = look(repo.rpartition("/")[2], files, small, file)
    found.beside = sum(entries[name]["size"] for name in small)
    return found


def _sha256(entry: Mapping[str, Any]) -> str | None:
    """Of a file that the Hub keeps beside git, all of its bytes; else it knows them by git's own hash only."""
    stored = entry.get("lfs")
    said = stored.get("sha256") if isinstance(stored, Mapping) else getattr(stored, "sha256", None)
    return said if isinstance(said, str) else None


def look(
    name: str, weights: Mapping[str, RemoteFile], small: Mapping[str, Callable[[Path], object]], opened: str | None
) -> Glimpse:
    """The headers of `weights` in a folder called `name`, and `small` files, each put there by its function."""
    folder = temporary_folder() / name
    for inner, put in small.items():
        path = folder / inner
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path)
        sources.called(path, f"{name}/{inner}", hashlib.sha256(path.read_bytes()).hexdigest())
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda item: _head(folder / item[0], item[1]), weights.items()))
    return Glimpse(folder / opened if opened else folder, tuple(weights.values()))


def _listed(system: Any, root: str) -> Mapping[str, Mapping[str, Any]]:
    try:
        listed: Mapping[str, Mapping[str, Any]] = system.find(root, detail=True)
    except Exception as error:
        raise PlanError(f"{root}: the Hub does not say what is in it: {error}") from None
    return listed


def _head(path: Path, remote: RemoteFile) -> None:
    """A file of this length that has its header, and whose other bytes are fetched when they are read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = remote.read(0, _FIRST if remote.nbytes < 0 else min(remote.nbytes, _FIRST))
    known, nbytes = len(first), remote.nbytes
    with path.open("wb") as file:
        file.write(first)
        file.truncate(nbytes)
    while (more := _missing(path, nbytes, known)) > known:
        with path.open("r+b") as file:
            file.seek(known)
            file.write(remote.read(known, more))
        known = more
    sources.remotely(path, remote)


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
