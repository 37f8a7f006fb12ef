"""The formats, in the order in which a path is offered to them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from requant.errors import FormatError, PlanError, UnsupportedError
from requant.ir import Checkpoint, Tensor
from requant.journal import finish_around
from requant.nearest import did_you_mean, files_like
from requant.obstacle import NotUnderstood
from requant.sources import Identity, check_unchanged, noting, slices

if TYPE_CHECKING:
    from requant.layout import Format

#: The class of each format by the name users type, the specific ones first.
_CLASSES: Final = {
    "gguf": "requant.formats.gguf.Gguf",
    "safetensors": "requant.formats.safetensors.Safetensors",
    "torch": "requant.formats.torch_zip.TorchZip",
}


class _Formats(Mapping[str, "Format"]):
    """Each is imported when a path is offered to it: whoever looks at a GGUF waits for no other."""

    def __init__(self) -> None:
        self._known: dict[str, Format] = {}

    def __getitem__(self, name: str) -> Format:
        if name not in self._known:
            module, _, kind = _CLASSES[name].rpartition(".")
            self._known[name] = getattr(importlib.import_module(module), kind)()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


#: Every format by the name users type.
FORMATS: Final[Mapping[str, Format]] = _Formats()

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
        raise FormatError(path, "there is no such file or folder", hint=files_like(path))
    for candidate in FORMATS.values():
        if candidate.recognizes(path):
            return candidate
    if path.suffix in _BY_SUFFIX:
        return FORMATS[_BY_SUFFIX[path.suffix]]
    if path.suffix == ".dat" and path.is_file():
        raise UnsupportedError(
            f"{path}: no model; by its name an importance matrix of the old form",
            hint="requant inspect shows it, requant extract writes it to a .safetensors file, --imatrix takes it",
        )
    inside = sorted(child.name for child in path.glob("*.gguf")) if path.is_dir() else []
    raise UnsupportedError(
        f"{path}: no format that is known ({', '.join(FORMATS)})",
        hint=f"there is {inside[0]} inside: name the file" if inside else "",
    )


def format_named(target: Format | str) -> Format:
    """A format by its name; raises `PlanError` for one that there is not."""
    if not isinstance(target, str):
        return target
    if target not in FORMATS:
        hint = did_you_mean(target, FORMATS, f"one of {', '.join(FORMATS)}")
        raise PlanError(f"no format is called {target!r}", hint=hint)
    return FORMATS[target]


def open(path: Path | str) -> Checkpoint[Tensor]:
    """Describe the model at `path`, whatever its format; no tensor byte is read. Raises `Error`.

    If it was just being replaced when a process was killed, that is finished first.
    """
    return opened(Path(path))[1]


def opened(path: Path, *, as_stored: bool = False) -> tuple[Format, Checkpoint[Tensor]]:
    """The format of the model at `path`, and the model, all of it as it was at one time (see `open`).

    A model that is replaced while it is read is read again: what was of the old one does not fit the new. as_stored:
    one whose arrays are not understood is described as it lies there, with its `obstacle`, and not refused.
    """
    for again in (True, True, False):
        finish_around(path)
        with noting() as noted:
            try:
                found = detect(path)
                checkpoint = _read(found, path, as_stored)
            except FormatError:
                if again and _is_changed(noted):
                    continue
                raise
        if again and _is_changed(noted):
            continue
        check_unchanged(slices(noted))
        return found, replace(checkpoint, opened=slices(noted))
    raise AssertionError


def _read(found: Format, path: Path, as_stored: bool) -> Checkpoint[Tensor]:
    try:
        return found.read(path)
    except NotUnderstood as error:
        if not as_stored or error.stored is None:
            raise
        return error.stored


def _is_changed(noted: Mapping[Path, Identity]) -> bool:
    try:
        check_unchanged(slices(noted))
    except FormatError:
        return True
    return False
