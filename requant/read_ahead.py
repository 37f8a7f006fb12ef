"""Blocks of remote files on their way before they are asked for, and no more of them in memory than a few.

A conversion reads what it needs in the order in which it lies in the files, as far as may be. Each file is fetched in
blocks of one size, some ahead of the last that was read; the oldest are let go of. Blocks of a file that come one after
the other also go through SHA-256, for which the Hub says what should come out; see `checked`.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from requant.errors import FormatError
from requant.ranges import RemoteFile

BLOCK: Final = 4 << 20
#: Blocks that are fetched ahead of a reader, and that are kept at most.
AHEAD: Final = 6
KEPT: Final = 16
_FETCHERS: Final = 6
#: What is fetched at the end only to complete a checksum, at most.
_REST: Final = 64 << 20
#: Bytes that all of this takes: what is kept, and what is being fetched.
READ_AHEAD_BYTES: Final = (KEPT + 2 * _FETCHERS) * BLOCK


@dataclass(slots=True)
class _Hashed:
    """The beginning of a file that went through SHA-256."""

    end: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class ReadAhead:
    """All remote files of a conversion; safe to use from many threads."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[int, int], Future[bytes]] = OrderedDict()
        self._hashed: dict[int, _Hashed] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_FETCHERS, "requant-fetch")

    def read_into(self, file: RemoteFile, start: int, out: memoryview) -> None:
        """Fill `out` with a file's bytes from `start` on."""
        while out:
            index = start // BLOCK
            data = self._block(file, index)
            piece = memoryview(data)[start - index * BLOCK :][: len(out)]
            if not piece:
                raise FormatError(file.name, f"the file ends {len(out)} bytes early", offset=start)
            out[: len(piece)] = piece
            out, start = out[len(piece) :], start + len(piece)

    def close(self) -> None:
        """Fetch no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._blocks.clear()

    def checked(self, files: Iterable[RemoteFile]) -> int:
        """How many files were compared with the checksum that is known of them; one that differs is a `FormatError`.

        What of a file nobody has asked for is fetched for that, if it is little. A file that was read in another order
        than the one in which it lies is not compared.
        """
        count = 0
        for file in files:
            hashed = self._hashed.get(id(file))
            if file.sha256 is None or hashed is None or file.nbytes - hashed.end > _REST:
                continue
            while hashed.end < file.nbytes:
                self._block(file, hashed.end // BLOCK, ahead=False)
            if hashed.digest.hexdigest() != file.sha256:
                raise FormatError(
                    file.name, "its bytes are not those that the Hub says: their SHA-256 differs", hint="try again"
                )
            count += 1
        return count

    def told(self, files: Sequence[RemoteFile]) -> dict[str, int]:
        """Figures of a conversion for its receipt, after `checked`."""
        return {
            "bytes": sum(file.fetched for file in files),
            "files": len(files),
            "files_checked": self.checked(files),
            "repeated_requests": sum(file.retried for file in files),
        }

    def _block(self, file: RemoteFile, index: int, ahead: bool = True) -> bytes:
        with self._lock:
            wanted = self._begun(file, index)
            for next_ in range(index + 1, index + 1 + AHEAD) if ahead else ():
                if next_ * BLOCK < file.nbytes:
                    self._begun(file, next_)
            while len(self._blocks) > KEPT:
                self._blocks.popitem(last=False)
        data = wanted.result()
        self._hash(file, index)
        return data

    def _begun(self, file: RemoteFile, index: int) -> Future[bytes]:
        """A block that is here or on its way."""
        key = (id(file), index)
        found = self._blocks.get(key)
        if found is None or (found.done() and found.exception() is not None):
            start = index * BLOCK
            found = self._blocks[key] = self._pool.submit(file.read, start, min(file.nbytes, start + BLOCK))
        self._blocks.move_to_end(key)
        return found

    def _hash(self, file: RemoteFile, index: int) -> None:
        """Put the blocks that follow what went through SHA-256 already, as far as they are here, through it."""
        if file.sha256 is None:
            return
        with self._lock:
            hashed = self._hashed.setdefault(id(file), _Hashed())
            if index * BLOCK < hashed.end:
                return
            while (block := self._blocks.get((id(file), hashed.end // BLOCK))) is not None:
                if not block.done() or block.exception() is not None or hashed.end >= file.nbytes:
                    break
                hashed.digest.update(block.result())
                hashed.end += len(block.result())
