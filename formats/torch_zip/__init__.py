"""PyTorch files, `pytorch_model.bin` and its kind: read, never run, and never written.

A zip archive of raw storages and a pickle that says which tensors they make (torch 1.6 and later).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from requant.encodings import Encoding
from requant.errors import Error, PlanError
from requant.formats.folding import folded
from requant.formats.safetensors.checkpoint import read_checkpoint, recognizes_folder
from requant.formats.safetensors.header import Header
from requant.formats.safetensors.shards import WeightFiles
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec
from requant.layout import Layout, LayoutOptions


def _read(path: Path) -> Header:
    from requant.formats.torch_zip.tensors import read_torch  # when there is such a file: it is imported by few runs

    return read_torch(path)


_WEIGHTS: Final = WeightFiles("pytorch_model*.bin", "pytorch_model.bin.index.json", _read)


class TorchZip:
    """A file, an index, or a folder with either: see `read_checkpoint` for what a path stands for."""

    name = "torch"
    naming = Naming.HF

    def recognizes(self, path: Path) -> bool:
        """A zip archive with `data.pkl`, or the beginning of an older torch file, which is refused by name."""
        try:
            if path.is_dir():
                return recognizes_folder(path, _WEIGHTS)
            from requant.formats.torch_zip.tensors import is_torch

            return path.name.endswith(_WEIGHTS.index_suffix) or is_torch(path)
        except (OSError, Error):
            return False

    def read(self, path: Path) -> Checkpoint[Tensor]:
        """Every tensor, views of a shared storage too, folded. Raises `FormatError` or `UnsupportedError`."""
        return folded(self.stored(path))

    def stored(self, path: Path) -> Checkpoint[Tensor]:
        """The arrays as the files have them, nothing put together; raises as `read` does."""
        return read_checkpoint(path, _WEIGHTS)

    def accepts(self, encoding: Encoding) -> bool:
        """Nothing: this format is not written."""
        return False

    def layout(self, checkpoint: Checkpoint[TensorSpec], destination: Path, options: LayoutOptions) -> Layout:
        """Always a `PlanError`."""
        raise PlanError(
            f"{destination}: PyTorch files are read, but not written",
            hint="write safetensors, which every program that reads these files reads too",
        )
