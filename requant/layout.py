"""What a format is, and what it decides before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from requant.encodings import Encoding
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec
from requant.sources import Source


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file, decided to the byte before the first tensor is read.

    name: path relative to the destination's folder, with "/".
    head: everything before the first tensor; gaps between slots are zeros.
    slots: (tensor name, part name) -> absolute offset in the file.
    nbytes: final length; a file without tensors or body is as long as its head.
    body: what follows the head, copied untouched: a tokenizer file carried along. Such a file has no slots.
    """

    name: str
    head: bytes
    nbytes: int
    slots: Mapping[tuple[str, str], int] = field(default_factory=dict)
    body: Source | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Every file of a checkpoint; `root` is the folder they lie in."""

    root: Path
    files: tuple[OutputFile, ...]

    @property
    def nbytes(self) -> int:
        """All bytes that will be written."""
        return sum(file.nbytes for file in self.files)


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """How the output is cut into files: `shard_bytes` of tensor data and `shard_tensors` tensors at most in each.

    shard_counts: the number of tensors in each file, in order; it leaves the limits without effect.
    numbered: the files of a GGUF are named and counted as those of a split model, even a single one.
    bare_first: the first file of a split GGUF has the metadata and no tensors.
    """

    shard_bytes: int | None = None
    shard_tensors: int | None = None
    shard_counts: tuple[int, ...] | None = None
    numbered: bool = False
    bare_first: bool = False


class Format(Protocol):
    """A reader and a layout; the bytes in between are written by `requant.execution`."""

    @property
    def name(self) -> str:
        """What users type after `--format`."""
        ...

    @property
    def naming(self) -> Naming:
        """Whose tensor names this format carries."""
        ...

    def recognizes(self, path: Path) -> bool:
        """Whether `path` holds this format, judged by content; never raises for strange bytes."""
        ...

    def read(self, path: Path) -> Checkpoint[Tensor]:
        """Describe `path`; the whole header has been checked, no tensor byte is read."""
        ...

    def accepts(self, encoding: Encoding) -> bool:
        """Whether a tensor in this encoding can be stored in this format."""
        ...

    def layout(self, checkpoint: Checkpoint[TensorSpec], destination: Path, options: LayoutOptions) -> Layout:
        """Decide every byte that is not tensor data. Pure: nothing is read or written."""
        ...
