"""GGUF: typed key-values, tensor infos, aligned data.

Source: docs/gguf.md of ggml, and ggml/src/gguf.cpp of llama.cpp where the two differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from requant.encodings import Encoding
from requant.errors import FormatError
from requant.formats.gguf.ggml_types import number_of
from requant.formats.gguf.header import MAGIC
from requant.formats.gguf.shards import read_shards
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec

if TYPE_CHECKING:  # whoever reads waits for nothing that writes
    from requant.layout import Layout, LayoutOptions


class Gguf:
    """Reads versions 2 and 3, writes version 3.

    `Checkpoint.metadata` has every key-value in file order, `general.alignment` among them, which writing obeys.
    Only `split.*` and `requant.room` are left out: they describe files, and writing makes them for those it writes.
    Shapes are row-major: ggml's dimensions reversed.
    """

    name = "gguf"
    naming = Naming.GGML

    def recognizes(self, path: Path) -> bool:
        """Whether the file begins as GGUF does, in either byte order."""
        try:
            if not path.is_file():  # opening a pipe would wait for its other end
                return False
            with path.open("rb") as file:
                return file.read(4) == MAGIC
        except OSError:
            return False

    def read(self, path: Path) -> Checkpoint[Tensor]:
        """Describe the model `path` is, or is a shard of; every header has been checked."""
        metadata, tensors = read_shards(path)
        architecture = metadata.get("general.architecture")
        if architecture is not None and not isinstance(architecture.value, str):
            raise FormatError(path, f"general.architecture must be a string; it is {architecture.kind}")
        return Checkpoint(
            naming=Naming.GGML,
            architecture=str(architecture.value) if architecture else "",
            tensors=tensors,
            metadata=metadata,
            path=path,
        )

    def accepts(self, encoding: Encoding) -> bool:
        """Whether ggml has this encoding."""
        return number_of(encoding) is not None

    def layout(self, checkpoint: Checkpoint[TensorSpec], destination: Path, options: LayoutOptions) -> Layout:
        """Decide every byte that is not tensor data; see `requant.formats.gguf.writing`."""
        from requant.formats.gguf import writing

        return writing.layout(checkpoint, destination, options)
