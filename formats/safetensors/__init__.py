"""safetensors: a JSON header and one flat buffer; alone, in shards, or as a Hugging Face folder.

https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from requant.encodings import Encoding
from requant.formats.folding import folded
from requant.formats.safetensors.checkpoint import read_checkpoint, recognizes_folder
from requant.formats.safetensors.header import MAX_HEADER, read_header
from requant.formats.safetensors.layout import layout_file, layout_folder
from requant.formats.safetensors.shards import WeightFiles
from requant.formats.stored import storable
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec
from requant.layout import Layout, LayoutOptions

_EXTENSION: Final = ".safetensors"
_WEIGHTS: Final = WeightFiles(f"*{_EXTENSION}", f"model{_EXTENSION}.index.json", read_header)


class Safetensors:
    """Single files, shards with their index, and folders: see `read_checkpoint` for what a path stands for."""

    name = "safetensors"
    naming = Naming.HF

    def recognizes(self, path: Path) -> bool:
        """A file with a plausible header; an index; a folder with either."""
        try:
            if path.is_dir():
                return recognizes_folder(path, _WEIGHTS)
            if not path.is_file():
                return False
            if path.name.endswith(_WEIGHTS.index_suffix):
                return True
            with path.open("rb") as file:
                start = file.read(9)
        except (OSError, ValueError):
            return False
        return int.from_bytes(start[:8], "little") <= MAX_HEADER and start[8:] in (b"{", b" ", b"\n", b"\r", b"\t")

    def read(self, path: Path) -> Checkpoint[Tensor]:
        """Every tensor, in the order of the bytes; arrays that make one logical tensor together are put together.

        Raises `FormatError`; all headers have been checked, and no tensor byte was read.
        """
        return folded(self.stored(path))

    def stored(self, path: Path) -> Checkpoint[Tensor]:
        """The arrays as the files have them, nothing put together; raises as `read` does."""
        return read_checkpoint(path, _WEIGHTS)

    def accepts(self, encoding: Encoding) -> bool:
        """Dense tensors, and encodings that name the arrays they are stored as."""
        return storable(encoding)

    def layout(self, checkpoint: Checkpoint[TensorSpec], destination: Path, options: LayoutOptions) -> Layout:
        """One file if `destination` is named like one, else a folder. Raises `PlanError`."""
        if destination.suffix == _EXTENSION:
            return layout_file(checkpoint, destination, options)
        return layout_folder(checkpoint, destination, options)
