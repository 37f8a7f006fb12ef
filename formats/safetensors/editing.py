"""The header of a safetensors file with other `__metadata__`, before the same data.

A header may end in blanks (https://huggingface.co/docs/safetensors), which is all the room that there is.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from requant.errors import PlanError
from requant.formats.safetensors.header import MAX_HEADER, MAX_METADATA, METADATA, read_header
from requant.formats.safetensors.stream import is_text
from requant.heads import Head
from requant.ir import Json
from requant.json_values import Limits, parse_json
from requant.printable import shorten
from requant.sources import Identity, open_regular
from requant.system import read_at

_LIMITS = Limits(MAX_HEADER, 12_000_000)
#: Data begins at a multiple of this, as the reference writer has it.
_UNIT = 8


@dataclass(frozen=True)
class SafetensorsHead:
    """One file as it is. entries: of its header, as they stand there."""

    path: Path
    identity: Identity
    start: int
    entries: Mapping[str, Json]

    @classmethod
    def of(cls, path: Path) -> SafetensorsHead:
        """Read and check the header of one file."""
        read_header(path)
        descriptor = open_regular(path)
        try:
            identity = Identity.of(os.fstat(descriptor))
            (length,) = struct.unpack("<Q", read_at(descriptor, 8, 0))
            entries = parse_json(read_at(descriptor, length, 8), path, _LIMITS).object()
        finally:
            os.close(descriptor)
        return cls(path, identity, 8 + length, entries)

    @property
    def metadata(self) -> dict[str, str]:
        """Texts by key."""
        found = self.entries.get(METADATA)
        return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    @property
    def free(self) -> int:
        """Bytes by which the header can grow in place."""
        return self.start - len(self._packed(self.metadata))

    def changed(self, metadata: Mapping[str, str], reserve: int) -> Head:
        """The header with this metadata, and `reserve` blanks at least behind it."""
        for key, value in metadata.items():
            if not is_text(key + value):
                raise PlanError(f"metadata {shorten(key)}: safetensors stores text only")
        packed = self._packed(metadata)
        if len(packed) + reserve > MAX_HEADER or sum(map(len, (*metadata, *metadata.values()))) > MAX_METADATA:
            raise PlanError(f"{METADATA} would be longer than readers accept")

        def filled(nbytes: int) -> bytes | None:
            if nbytes < len(packed):
                return None
            text = packed[8:] + b" " * (nbytes - len(packed))
            return struct.pack("<Q", len(text)) + text

        wanted = len(packed) + reserve
        wanted += -wanted % _UNIT
        return Head(self.path, self.identity, self.start, len(packed), wanted, _UNIT, filled)

    def _packed(self, metadata: Mapping[str, str]) -> bytes:
        rest = {name: entry for name, entry in self.entries.items() if name != METADATA}
        entries = {METADATA: dict(metadata), **rest} if metadata else rest
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        return struct.pack("<Q", len(text)) + text
