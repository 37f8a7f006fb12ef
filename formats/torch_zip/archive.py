"""The zip archive that `torch.save` writes: members that are stored, never compressed.

Only the directory is read. Member data are found through their local headers, whose extra fields (torch pads there, to
align storages) differ from the directory's. Format: APPNOTE.TXT of PKWARE, with its 64-bit fields.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.errors import FormatError, UnsupportedError
from requant.sources import Identity
from requant.system import read_at

#: Bounds that keep a hostile archive cheap.
MAX_MEMBERS: Final = 100_000
MAX_DIRECTORY: Final = 1 << 24

_END: Final = struct.Struct("<4s4H2IH")
_END64_LOCATOR: Final = struct.Struct("<4sIQI")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_ENTRY: Final = struct.Struct("<4s6H3I5H2I")
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_SMALL: Final = 0xFFFFFFFF  # a field that is in the 64-bit extra field instead


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive: where its local header is, how long its data are, and their checksum."""

    header: int
    nbytes: int
    crc: int


class Archive:
    """An open archive."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.identity = Identity.of(os.fstat(descriptor))
        self.size = self.identity.nbytes
        self.members = self._directory()

    def offset(self, member: Member) -> int:
        """Where the data of a member begin; checked to lie in the file."""
        local = read_at(self._descriptor, _LOCAL.size, member.header)
        if len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04"):
            raise self.error("no local header where the directory says", member.header)
        *_, name, extra = _LOCAL.unpack(local)
        start = member.header + _LOCAL.size + int(name) + int(extra)
        if start + member.nbytes > self.size:
            raise self.error(f"a member of {member.nbytes} bytes reaches past the end of the file", start)
        return start

    def read(self, name: str, limit: int) -> bytes:
        """The data of a small member, checked."""
        member = self.members.get(name)
        if member is None:
            raise self.error(f"no member {name!r}")
        if member.nbytes > limit:
            raise self.error(f"the member {name!r} has {member.nbytes} bytes; at most {limit} are read")
        start = self.offset(member)
        data = read_at(self._descriptor, member.nbytes, start)
        if zlib.crc32(data) != member.crc:
            raise self.error(f"the member {name!r} is damaged: its checksum differs", start)
        return data

    def error(self, message: str, offset: int | None = None) -> FormatError:
        """An error in this file."""
        return FormatError(self.path, message, offset=offset, hint="the file is damaged or truncated: fetch it again")

    def _directory(self) -> dict[str, Member]:
        start, length, count = self._place()
        if length > MAX_DIRECTORY or count > MAX_MEMBERS:
            raise self.error(f"a directory of {count} members in {length} bytes; at most {MAX_MEMBERS} are read", start)
        if start + length > self.size:
            raise self.error("the directory reaches past the end of the file", start)
        data = read_at(self._descriptor, length, start)
        members: dict[str, Member] = {}
        at = 0
        for _ in range(count):
            if at + _ENTRY.size > len(data) or data[at : at + 4] != b"PK\x01\x02":
                raise self.error("the directory ends early", start + at)
            name, member, at = self._entry(data, at, start)
            if name in members:
                raise self.error(f"two members are named {name!r}", start + at)
            members[name] = member
        return members

    def _entry(self, data: bytes, at: int, start: int) -> tuple[str, Member, int]:
        (_, _, _, flags, method, _, _, crc, packed, nbytes, name, extra, comment, _, _, _, header) = _ENTRY.unpack_from(
            data, at
        )
        end_of_name = at + _ENTRY.size + name
        end_of_extra = end_of_name + extra
        if end_of_extra + comment > len(data):
            raise self.error("the directory ends early", start + at)
        text = data[at + _ENTRY.size : end_of_name].decode("utf-8", "surrogateescape")
        wide = _wide_fields(data[end_of_name:end_of_extra])
        try:
            nbytes, packed, header = [next(wide) if n == _SMALL else n for n in (nbytes, packed, header)]
        except StopIteration:
            raise self.error(f"the member {text!r} lacks its 64-bit sizes", start + at) from None
        if method or flags & 1 or packed != nbytes:
            raise UnsupportedError(
                f"{self.path}: the member {text!r} is compressed or encrypted",
                hint="torch stores members as they are: unpack the archive and pack it with `zip -0`",
            )
        return text, Member(header, nbytes, crc), end_of_extra + comment

    def _place(self) -> tuple[int, int, int]:
        """Offset, length and number of entries of the directory."""
        tail_start = max(0, self.size - _END.size - 0xFFFF)
        tail = read_at(self._descriptor, self.size - tail_start, tail_start)
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or at + _END.size > len(tail):
            raise self.error("no directory at the end of the archive", self.size)
        *_, count, length, start, _ = _END.unpack_from(tail, at)
        locator = at - _END64_LOCATOR.size
        if locator < 0 or tail[locator : locator + 4] != b"PK\x06\x07":
            return start, length, count
        _, _, end64, _ = _END64_LOCATOR.unpack_from(tail, locator)
        wide = read_at(self._descriptor, _END64.size, min(end64, self.size))
        if len(wide) < _END64.size or not wide.startswith(b"PK\x06\x06"):
            raise self.error("no 64-bit directory record where the archive says", end64)
        *_, count, length, start = _END64.unpack(wide)
        return start, length, count


def _wide_fields(extra: bytes) -> Iterator[int]:
    """The numbers of the 64-bit extra field, in the order of the fields they stand for."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            for field in range(at + 4, min(at + 4 + length, len(extra)) - 7, 8):
                yield int.from_bytes(extra[field : field + 8], "little")
            return
        at += 4 + length
