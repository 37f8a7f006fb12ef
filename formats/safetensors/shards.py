"""Which files of a folder hold its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.formats.safetensors.header import Header
from requant.formats.safetensors.index import MAX_FILES, read_index
from requant.formats.safetensors.stream import shorten
from requant.ir import Tensor

_SHARD: Final = re.compile(r"(.*?)-?(\d{5})-of-(\d{5})(\.\w+)")
#: Not the model itself: a second copy of it in another naming, or something to be put on top of it.
_BESIDE: Final = ("consolidated", "adapter_")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """How the weights of a folder are called in one format, and how one file of them is read."""

    pattern: str
    index: str
    read: Callable[[Path], Header]

    @property
    def index_suffix(self) -> str:
        """What the names of all such indexes end with."""
        return "." + self.index.partition(".")[2]

    def found(self, folder: Path) -> list[Path]:
        """All files that belong to the model, by name."""
        matching = folder.glob(self.pattern)
        files = sorted(path for path in matching if not path.is_dir() and not path.name.startswith("."))
        return [file for file in files if not file.name.startswith(_BESIDE)] or files

    def indexes(self, folder: Path) -> list[Path]:
        """All indexes, by name."""
        return sorted(folder.glob(f"*{self.index_suffix}"))


def read_folder(folder: Path, weights: WeightFiles, index: Path | None = None) -> Header:
    """The tensors of all weight files of `folder`, and their metadata.

    `index`: the index to go by; else the usual one or the only one there is. An index counts when every file it names
    is there and holds what it says. One that does not fit is stale (EXL2 folders carry that of the unquantized model)
    and all weight files are taken, unless one shard of a set is missing: that is an error.
    """
    index = index or _find_index(folder, weights)
    if index is not None:
        headers = _indexed(index, weights)
        if headers is not None:
            return _joined(headers)
    files = weights.found(folder)
    if not files:
        raise FormatError(folder, f"no {weights.pattern}", hint="if there is an index, its shards are missing")
    _check_complete(folder, [file.name for file in files])
    return _joined({file: weights.read(file) for file in files})


def _find_index(folder: Path, weights: WeightFiles) -> Path | None:
    usual = folder / weights.index
    found = [usual] if usual.exists() else weights.indexes(folder)
    return found[0] if len(found) == 1 else None


def _indexed(index: Path, weights: WeightFiles) -> dict[Path, Header] | None:
    """The files an index names; None when it is stale."""
    weight_map = read_index(index)
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if len(missing) == len(names):
        return None
    if missing:
        raise FormatError(
            index,
            f"{len(missing)} of {len(names)} shards are missing: {', '.join(missing[:5])}",
            hint="the folder is incomplete: fetch these files",
        )
    headers = {index.parent / name: weights.read(index.parent / name) for name in names}
    held = {(tensor.name, path.name) for path, header in headers.items() for tensor in header.tensors}
    return headers if weight_map.items() <= held else None


def _check_complete(folder: Path, names: Iterable[str]) -> None:
    sets: dict[tuple[str, int, str], set[int]] = {}
    for name in names:
        if match := _SHARD.fullmatch(name):
            sets.setdefault((match[1], int(match[3]), match[4]), set()).add(int(match[2]))
    for (stem, count, suffix), numbers in sets.items():
        missing = [number for number in range(1, min(count, MAX_FILES) + 1) if number not in numbers]
        if missing:
            example = f"{stem}-{missing[0]:05d}-of-{count:05d}{suffix}"
            raise FormatError(
                folder,
                f"{len(missing)} of {count} shards are missing, {example} among them",
                hint="the folder is incomplete: fetch these files",
            )


def _joined(headers: dict[Path, Header]) -> Header:
    """All tensors in file order. Of metadata that differs between shards the first file's counts."""
    metadata: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    owner: dict[str, Path] = {}
    for path, header in headers.items():
        metadata = {**header.metadata, **metadata}
        for tensor in header.tensors:
            if tensor.name in tensors:
                raise FormatError(
                    path,
                    f"tensor {shorten(tensor.name)} is also in {owner[tensor.name].name}",
                    hint="open one of the files by itself, or move the copy out of the folder",
                )
            tensors[tensor.name], owner[tensor.name] = tensor, path
    return Header(metadata, tuple(tensors.values()))
