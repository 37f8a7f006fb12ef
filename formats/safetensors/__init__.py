"""safetensors: a JSON header and one flat buffer; alone, in shards, or as a Hugging Face folder.

https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from requant.encodings import Encoding
from requant.errors import FormatError
from requant.formats.folding import folded
from requant.formats.safetensors.folder import carried_files, read_config
from requant.formats.safetensors.header import MAX_HEADER, read_header
from requant.formats.safetensors.index import SUFFIX
from requant.formats.safetensors.layout import layout_file, layout_folder
from requant.formats.safetensors.parts import storable
from requant.formats.safetensors.shards import read_folder, weight_files
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec, Typed
from requant.layout import Layout, LayoutOptions

_EXTENSION: Final = ".safetensors"


class Safetensors:
    """What a path stands for.

    A folder is the whole model, with its config.json and the files beside it; so is an index
    (`model.safetensors.index.json`), whose shards are then taken whatever else lies in the folder. A `.safetensors`
    file is just that file, without configuration, even if it is one shard of several.
    """

    name = "safetensors"
    naming = Naming.HF

    def recognizes(self, path: Path) -> bool:
        """A file with a plausible header; an index; a folder with either."""
        try:
            if path.is_dir():
                return bool(weight_files(path)) or any(path.glob(f"*{SUFFIX}"))
            if not path.is_file():
                return False
            if path.name.endswith(SUFFIX):
                return True
            with path.open("rb") as file:
                start = file.read(9)
        except (OSError, ValueError):
            return False
        return int.from_bytes(start[:8], "little") <= MAX_HEADER and start[8:] in (b"{", b" ", b"\n", b"\r", b"\t")

    def read(self, path: Path) -> Checkpoint[Tensor]:
        """Every tensor in the order of the bytes; arrays that make one logical tensor together are put together.

        Raises `FormatError`; all headers have been checked, and no tensor byte was read.
        """
        try:
            return folded(self._read(path))
        except OSError as error:
            raise FormatError(path, f"cannot be read: {error.strerror}") from None

    def accepts(self, encoding: Encoding) -> bool:
        """Dense tensors, and encodings that name the arrays they are stored as."""
        return storable(encoding)

    def layout(self, checkpoint: Checkpoint[TensorSpec], destination: Path, options: LayoutOptions) -> Layout:
        """One file if `destination` is named like one, else a folder. Raises `PlanError`."""
        if destination.suffix == _EXTENSION:
            return layout_file(checkpoint, destination, options)
        return layout_folder(checkpoint, destination, options)

    def _read(self, path: Path) -> Checkpoint[Tensor]:
        index = path if path.name.endswith(SUFFIX) and path.is_file() else None
        folder = path if path.is_dir() else path.parent
        if index is None and not path.is_dir():
            header = read_header(path)
            return Checkpoint(Naming.HF, "", header.tensors, metadata=_typed(header.metadata), path=path)
        header = read_folder(folder, index)
        config = read_config(folder)
        model_type = config.get("model_type")
        return Checkpoint(
            Naming.HF,
            model_type if isinstance(model_type, str) else "",
            header.tensors,
            config,
            _typed(header.metadata),
            carried_files(folder),
            path,
        )


def _typed(metadata: Mapping[str, str]) -> dict[str, Typed]:
    return {key: Typed("str", value) for key, value in metadata.items()}
