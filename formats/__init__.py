"""The formats, in the order in which a path is offered to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from requant.errors import FormatError, UnsupportedError
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.formats.torch_zip import TorchZip
from requant.ir import Checkpoint, Tensor
from requant.journal import finish_around
from requant.layout import Format

#: Every format by the name users type, the specific ones first.
FORMATS: Final[Mapping[str, Format]] = {
    "gguf": Gguf(),
    "safetensors": Safetensors(),
    "torch": TorchZip(),
}

#: Files that no format recognizes are read by the one their name promises, which says what is wrong with them.
_BY_SUFFIX: Final = {
    ".gguf": "gguf",
    ".safetensors": "safetensors",
    ".bin": "torch",
    ".pt": "torch",
    ".pth": "torch",
}


def detect(path: Path) -> Format:
    """The format of what lies at `path`, by its content, then by its name."""
    if not path.exists():
        raise FormatError(path, "there is no such file or folder")
    for candidate in FORMATS.values():
        if candidate.recognizes(path):
            return candidate
    if path.suffix in _BY_SUFFIX:
        return FORMATS[_BY_SUFFIX[path.suffix]]
    inside = sorted(child.name for child in path.glob("*.gguf")) if path.is_dir() else []
    raise UnsupportedError(
        f"{path}: no format that is known ({', '.join(FORMATS)})",
        hint=f"there is {inside[0]} inside: name the file" if inside else "",
    )


def open(path: Path | str) -> Checkpoint[Tensor]:
    """Describe the model at `path`, whatever its format; no tensor byte is read. Raises `Error`.

    If it was just being replaced when a process was killed, that is finished first.
    """
    path = Path(path)
    finish_around(path)
    return detect(path).read(path)
