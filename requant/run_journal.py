"""What is finished of files that are being made, so that another process can go on after a kill.

The journal lies behind the end of a file that is made by itself, and is cut off before the file gets its name; of
several files it is `runs` in their staging folder. It begins with what the files are made of and by which plan. Then
comes a record for each run and each place that the run is stored at: which it is, a checksum of its bytes, and what was
found out on the way. A record is written after the bytes that it speaks of, and carries a checksum of its own.

Whoever goes on reads every recorded run again: one that is not as its record says is done again. So nothing depends on
the order in which a disk gets what it was given, and nothing has to wait for the disk.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant import system

_MAGIC: Final = b"requant\n"
_HEAD: Final = struct.Struct("<8sII")  # magic, length of the beginning, its CRC-32
#: job, place, number of the run, values replaced, checksum, squared error, squares; and the CRC-32 of all this.
_SAID: Final = struct.Struct("<IIIIQdd")
_RECORD: Final = struct.Struct(f"<{_SAID.size}sI")
#: Bytes of the longest beginning: a million files that are read.
_LONGEST: Final = 1 << 28
#: Records read at a time.
_SOME: Final = 1 << 16
#: Seconds for which a record may wait to be written.
_MOMENT: Final = 0.05
_GOLDEN: Final = 0x9E3779B97F4A7C15


def checksum(data: NDArray[Any] | memoryview, before: int = 0) -> int:
    """64 bits by which bytes are told from others, as `checks.summed` has them: before, of what came ahead of them.

    >>> checksum(np.arange(10_000, dtype=np.uint8)) == checksum(np.zeros(10_000, np.uint8))
    False
    """
    from requant.kernels_cpu.checks import summed  # llvmlite, which only the doing of a plan may import

    flat = np.frombuffer(data, np.uint8) if isinstance(data, memoryview) else data.reshape(-1).view(np.uint8)
    return (before * _GOLDEN + summed(flat)[0]) % (1 << 64)


@dataclass(slots=True)
class Outcome:
    """What storing a run at one place came to. replaced: values that were not finite. squared_error, squares: of what
    was measured, against the values that were to be stored; NaN where nothing was."""

    checksum: int = 0
    replaced: int = 0
    squared_error: float = float("nan")
    squares: float = float("nan")

    def plus(self, other: Outcome) -> Outcome:
        """Of two runs together, without a checksum."""
        error, squares = self.squared_error + other.squared_error, self.squares + other.squares
        return Outcome(0, self.replaced + other.replaced, error, squares)


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a conversion is, for whoever goes on with it.

    plan: a digest of the plan and of how it is carried out. inputs: by their names, what tells whether files that are
    read are the ones that they were.
    """

    plan: str
    inputs: Mapping[str, tuple[int | str, ...]]

    def to_bytes(self) -> bytes:
        """As it stands in a journal."""
        text = json.dumps({"plan": self.plan, "inputs": {name: list(said) for name, said in self.inputs.items()}})
        data = text.encode()
        return _HEAD.pack(_MAGIC, len(data), zlib.crc32(data)) + data

    @classmethod
    def from_bytes(cls, data: bytes) -> Beginning:
        """Raises `ValueError` and its like for what is none."""
        document = json.loads(data)
        return cls(str(document["plan"]), {str(name): tuple(said) for name, said in document["inputs"].items()})


@dataclass(slots=True)
class RunJournal:
    """A journal in an open file. base: where it begins there. known: records of an earlier process, by job and number
    of the run, then by place; records are added from any thread."""

    descriptor: int
    base: int
    known: dict[tuple[int, int], dict[int, Outcome]] = field(default_factory=dict)
    _end: int = 0
    _waiting: deque[tuple[Any, ...]] = field(default_factory=deque)
    _flushed: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def begin(cls, descriptor: int, base: int, beginning: Beginning) -> RunJournal:
        """A new one; an `OSError` if it cannot be written."""
        journal = cls(descriptor, base)
        journal._append(beginning.to_bytes())
        return journal

    @classmethod
    def found(cls, descriptor: int, base: int) -> tuple[RunJournal, Beginning] | None:
        """The one that is there, and what it begins with; None if there is none at this place."""
        head = system.read_at(descriptor, _HEAD.size, base)
        if len(head) < _HEAD.size:
            return None
        magic, length, check = _HEAD.unpack(head)
        if magic != _MAGIC or length > _LONGEST:
            return None
        data = _read(descriptor, length, base + _HEAD.size)
        try:
            beginning = Beginning.from_bytes(data) if zlib.crc32(data) == check else None
        except (ValueError, TypeError, KeyError, AttributeError):
            beginning = None
        if beginning is None:
            return None
        journal = cls(descriptor, base)
        journal._end = _HEAD.size + length
        journal._read_records()
        return journal, beginning

    def add(self, job: int, number: int, outcomes: list[Outcome]) -> None:
        """A run is finished, with what it came to at each of its places; an `OSError` if that cannot be written.

        Records of a moment are written together: what a kill loses of them is done again.
        """
        for place, one in enumerate(outcomes):
            said = (job, place, number, one.replaced, one.checksum, one.squared_error, one.squares)
            self._waiting.append(said)
        if time.monotonic() - self._flushed >= _MOMENT:
            self.flush()

    def flush(self) -> None:
        """Write the records that wait."""
        self._flushed = time.monotonic()
        records = b""
        with suppress(IndexError):  # none waits any more
            while True:
                said = _SAID.pack(*self._waiting.popleft())
                records += _RECORD.pack(said, zlib.crc32(said))
        self._append(records)

    def _append(self, data: bytes) -> None:
        with self._lock:
            at, self._end = self.base + self._end, self._end + len(data)
        view = memoryview(data)
        while view:
            count = system.write_at(self.descriptor, view, at)
            view, at = view[count:], at + count

    def _read_records(self) -> None:
        """Those that are whole; one that was being written when its process ended is passed over."""
        while data := _read(self.descriptor, _SOME * _RECORD.size, self.base + self._end):
            whole = len(data) - len(data) % _RECORD.size
            for record, check in _RECORD.iter_unpack(data[:whole]):
                if zlib.crc32(record) == check:
                    job, place, number, replaced, said, error, squares = _SAID.unpack(record)
                    self.known.setdefault((job, number), {})[place] = Outcome(said, replaced, error, squares)
            self._end += whole
            if not whole:
                break


def _read(descriptor: int, count: int, at: int) -> bytes:
    data = b""
    while len(data) < count and (more := system.read_at(descriptor, count - len(data), at + len(data))):
        data += more
    return data


def size_of(descriptor: int) -> int:
    """Bytes of an open file."""
    return os.fstat(descriptor).st_size
