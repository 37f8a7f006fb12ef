"""The head of a GGUF file with other key-values and names, before the same tensor data.

Tensor data begins at the first multiple of the alignment behind the tensor infos (`gguf_init_from_reader` of llama.cpp,
`GGUFReader` of gguf-py), so that room for later changes cannot be mere padding: it is a string of blanks under a key of
its own, the last one, which every reader passes over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from requant.formats.gguf.header import Header, read_header
from requant.formats.gguf.shards import COUNT_KEY, ROOM_KEY, SPLIT_KEYS, prefix_of, read_shards, shard_name
from requant.formats.gguf.values import pack_pair
from requant.formats.gguf.writing import packed_head
from requant.heads import Head
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.sources import FileSlice

#: With an empty value the room takes 32 bytes: what the usual alignment cannot pad.
_LEAST_ROOM: Final = len(pack_pair(ROOM_KEY, Typed("str", "")))


@dataclass(frozen=True)
class GgufHead:
    """One file as it is, to be asked for its head as it shall be."""

    path: Path
    header: Header

    @classmethod
    def of(cls, path: Path) -> GgufHead:
        """Read and check the header of one file, be it one of several."""
        return cls(path, read_header(path))

    @property
    def alignment(self) -> int:
        """Of tensor data, in bytes; it stays as it is, since the data does."""
        return self.header.alignment

    @property
    def start(self) -> int:
        """Where data begins; a file without tensors ends there, unpadded."""
        return self.header.data if self.header.tensors else self.header.identity.nbytes

    @cached_property
    def metadata(self) -> dict[str, Typed]:
        """Key-values without the room that was left."""
        return {key: typed for key, typed in self.header.metadata.items() if key != ROOM_KEY}

    @cached_property
    def free(self) -> int:
        """Bytes by which the head can grow in place."""
        return self.start - len(self._packed(self.metadata, {}))

    def changed(self, metadata: Mapping[str, Typed], names: Mapping[str, str], reserve: int) -> Head:
        """The head with these key-values, tensors under new names, and room for `reserve` bytes more."""
        least = len(self._packed(metadata, names))

        def filled(nbytes: int) -> bytes | None:
            left = nbytes - least
            if left < _LEAST_ROOM:
                pads = 0 <= left < self.alignment if self.header.tensors else left == 0
                return self._packed(metadata, names) + bytes(left) if pads else None
            room = Typed("str", " " * (left - _LEAST_ROOM))
            return self._packed({**metadata, ROOM_KEY: room}, names)

        aligned = least + -least % self.alignment if self.header.tensors else least
        if reserve:
            aligned = least + max(reserve, _LEAST_ROOM)
            aligned += -aligned % self.alignment if self.header.tensors else 0
        return Head(self.path, self.header.identity, self.start, least, aligned, self.alignment, filled)

    def _packed(self, metadata: Mapping[str, Typed], names: Mapping[str, str]) -> bytes:
        return packed_head(
            self.header.version,
            metadata,
            ((_renamed(tensor, names), _offset(tensor) - self.header.data) for tensor in self.header.tensors),
        )


@dataclass(frozen=True)
class GgufModel:
    """A GGUF in one file, or the files of one that is split: key-values are in the first, tensors in theirs."""

    heads: tuple[GgufHead, ...]

    @classmethod
    def of(cls, path: Path) -> GgufModel:
        """Read every header, and check that files of a split model are of one model."""
        first = GgufHead.of(path)
        count = first.header.metadata.get(COUNT_KEY, Typed("u16", 0)).value
        if not isinstance(count, int) or count <= 1:
            return cls((first,))
        read_shards(path)
        prefix = prefix_of(path.name)
        return cls(tuple(GgufHead.of(path.with_name(shard_name(prefix or "", n, count))) for n in range(count)))

    @cached_property
    def metadata(self) -> dict[str, Typed]:
        """Of the first file, without what tells of files and room."""
        return {key: typed for key, typed in self.heads[0].metadata.items() if key not in SPLIT_KEYS}

    def described(self, metadata: Mapping[str, Typed], names: Mapping[str, str]) -> Checkpoint[Tensor]:
        """The model with these key-values, and tensors under new names."""
        tensors = [_renamed(tensor, names) for head in self.heads for tensor in head.header.tensors]
        architecture = metadata.get("general.architecture")
        name = architecture.value if architecture is not None and isinstance(architecture.value, str) else ""
        return Checkpoint(Naming.GGML, name, tuple(tensors), metadata=metadata, path=self.heads[0].path)

    def changed(self, metadata: Mapping[str, Typed], names: Mapping[str, str], reserve: int) -> tuple[Head, ...]:
        """The heads of all files; room is in the first."""
        first = self.heads[0]
        split = {key: typed for key, typed in first.metadata.items() if key in SPLIT_KEYS}
        whole = dict(metadata)
        if split:  # what tells of files stays in its place
            whole = {
                key: metadata.get(key, typed) for key, typed in first.metadata.items() if key in {*metadata, *split}
            }
            whole |= {key: typed for key, typed in metadata.items() if key not in whole}
        return (
            first.changed(whole, names, reserve),
            *(head.changed(head.metadata, names, 0) for head in self.heads[1:]),
        )

    def has_changed(self, index: int, metadata: Mapping[str, Typed], names: Mapping[str, str]) -> bool:
        """Whether a file needs another head."""
        named = any(tensor.name in names for tensor in self.heads[index].header.tensors)
        return named or (index == 0 and list(metadata.items()) != list(self.metadata.items()))


def _renamed(tensor: Tensor, names: Mapping[str, str]) -> Tensor:
    return Tensor(names.get(tensor.name, tensor.name), tensor.shape, tensor.encoding, tensor.sources)


def _offset(tensor: Tensor) -> int:
    source = tensor.sources["data"]
    assert isinstance(source, FileSlice)
    return source.offset
