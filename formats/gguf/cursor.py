"""Reading a header from front to back, never past the file's end and never more of it than needed."""

from __future__ import annotations

import struct
from io import FileIO
from pathlib import Path
from typing import Final

from requant.errors import FormatError, UnsupportedError

#: Headers end before this byte: the largest known, with a vocabulary of 262,144 and its merges and an embedded
#: tokenizer.json, takes 50 MB. A limit keeps a file of zeros of any length from filling memory.
HEADER_LIMIT: Final = 64 << 20
#: Strings in all arrays together; the largest known vocabulary with merges has 800,000.
STRING_LIMIT: Final = 3 << 20

#: Bytes read at once, and ahead at most. What is read at once is copied while the processor's cache has it.
_STRIDE: Final = 1 << 18
_AHEAD: Final = 4 << 20
LENGTH: Final = struct.Struct("<Q")


class Cursor:
    """A position in the header of an open file; `buffer` holds what has been read of it so far."""

    def __init__(self, path: Path, file: FileIO, size: int) -> None:
        self.path = path
        self.size = size
        self.buffer = bytearray()
        self.position = 0
        self._file = file
        self._strings = STRING_LIMIT

    def peek(self, count: int) -> bytes:
        """The next bytes, as many of `count` as the file has; moves over none."""
        start, stop = self.position, min(self.position + count, self.size)
        self.need(stop - start, "the beginning")
        self.position = start
        return bytes(self.buffer[start:stop])

    def error(self, message: str, *, at: int | None = None, hint: str = "") -> FormatError:
        """A `FormatError` at byte `at`, or here."""
        return FormatError(self.path, message, offset=self.position if at is None else at, hint=hint)

    def need(self, count: int, what: str) -> int:
        """Move over `count` bytes, which are then in `buffer`; their position."""
        start, end = self.position, self.position + count
        if end > self.size:
            raise self.error(
                f"the file ends here: {what} needs {count} bytes, {end - self.size} of them are missing",
                hint="the file may be truncated: download or copy it again",
            )
        if end > len(self.buffer):
            self._load(end)
        self.position = end
        return start

    def unpack(self, code: str, what: str) -> tuple[int, ...]:
        """Little-endian numbers by `struct` code."""
        layout = struct.Struct("<" + code)
        return layout.unpack_from(self.buffer, self.need(layout.size, what))

    def string(self, what: str, limit: int | None = None) -> str:
        """One string, of at most `limit` bytes; bytes that are not UTF-8 become surrogate escapes."""
        (length,) = self.unpack("Q", f"the length of {what}")
        if limit is not None and length > limit:
            raise self.error(f"{what} has {length} bytes; {limit} are allowed", at=self.position - 8)
        start = self.need(length, what)
        return self.buffer[start : self.position].decode("utf-8", "surrogateescape")

    def strings(self, count: int, what: str) -> None:
        """Move over `count` strings."""
        self.room(count, 8, what)
        self._strings -= count
        if self._strings < 0:
            raise UnsupportedError(f"{self.path}: {what} brings the strings in arrays to more than {STRING_LIMIT}")
        while count := count - self._whole_strings(count):
            (length,) = LENGTH.unpack_from(self.buffer, self.need(8, what))
            self.need(length, what)
            count -= 1

    def room(self, count: int, least: int, what: str) -> None:
        """Refuse a count of items of at least `least` bytes each that cannot fit into what is left of the file."""
        if count * least > self.size - self.position:
            raise self.error(
                f"{what} claims {count} items of {least} bytes or more; the file has {self.size - self.position} left",
                hint="the file is damaged or truncated: download or copy it again",
            )

    def _load(self, end: int) -> None:
        """Read on until `end`, and ahead as far again as has been read, but a stride at most."""
        if end > HEADER_LIMIT:
            raise UnsupportedError(f"{self.path}: a header of more than {HEADER_LIMIT >> 20} MiB is not read")
        target = min(max(end, len(self.buffer) + min(len(self.buffer), _AHEAD), 1 << 16), self.size, HEADER_LIMIT)
        while len(self.buffer) < target:
            data = self._file.read(min(target - len(self.buffer), _STRIDE))
            if not data:
                raise self.error("the file became shorter while it was read", at=len(self.buffer))
            self.buffer += data

    def _whole_strings(self, count: int) -> int:
        """Move over the next strings, up to `count`, that lie in the buffer whole; how many they are.

        A vocabulary is hundreds of thousands of them, which take longer than all else that a header has.
        """
        buffer, length = self.buffer, LENGTH.unpack_from
        before = here = self.position
        number = 0
        try:
            for number in range(1, count + 1):  # noqa: B007 - the last one is what is returned
                after = here + 8 + length(buffer, here)[0]
                before, here = here, after
        except (struct.error, OverflowError):  # that length lies behind the buffer, or behind any
            number -= 1
        if here > len(buffer):
            number, here = number - 1, before
        self.position = here
        return number
