"""What the first bytes of GGUF files say: version, how many tensors and keys there are, where the tensors begin."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.formats.gguf.header import alignment_of
from requant.ir import Checkpoint, Json, Tensor
from requant.sources import FileSlice

_PREAMBLE: Final = struct.Struct("<4sIQQ")


@dataclass(frozen=True, slots=True)
class Outline:
    """One file. data: of the first tensor in it, from the beginning of the file; None where it has none."""

    name: str
    version: int
    tensors: int
    keys: int
    alignment: int
    data: int | None

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "file": self.name,
            "version": self.version,
            "tensors": self.tensors,
            "keys": self.keys,
            "alignment": self.alignment,
            "data_offset": self.data,
        }


def outlines(checkpoint: Checkpoint[Tensor]) -> Iterator[Outline]:
    """Of every file of a GGUF whose headers have been read, and checked."""
    first: dict[Path, int | None] = {one.path: None for one in checkpoint.opened if isinstance(one, FileSlice)}
    for tensor in checkpoint.tensors:
        for part in tensor.sources.values():
            if isinstance(part, FileSlice):
                before = first.get(part.path)
                first[part.path] = part.offset if before is None else min(before, part.offset)
    alignment = alignment_of(checkpoint.path, dict(checkpoint.metadata))
    for path, data in first.items():
        start = bytearray(_PREAMBLE.size)
        FileSlice(path, 0, len(start)).fill(0, memoryview(start))
        _, version, tensors, keys = _PREAMBLE.unpack(start)
        yield Outline(path.name, version, tensors, keys, alignment, data)
