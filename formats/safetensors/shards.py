"""Which files of a folder hold its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.formats.safetensors.header import Header, read_header
from requant.formats.safetensors.index import MAX_FILES, SUFFIX, read_index
from requant.formats.safetensors.stream import shorten
from requant.ir import Tensor

_SHARD: Final = re.compile(r"(.*?)-?(\d{5})-of-(\d{5})\.safetensors")
#: Not the model itself: a second copy of it in another naming, or something to be put on top of it.
_BESIDE: Final = ("consolidated", "adapter_")


def read_folder(folder: Path, index: Path | None = None) -> Header:
    """The tensors of all weight files of `folder`, and their metadata.

    `index`: the index to go by; else `model.safetensors.index.json` or the only one there is. An index counts when
    every file it names is there and holds what it says. One that does not fit is stale (EXL2 folders carry that of the
    unquantized model) and all `*.safetensors` are taken, unless one shard of a set is missing: that is an error.
    """
    index = index or _find_index(folder)
    if index is not None:
        headers = _indexed(index)
        if headers is not None:
            return _joined(headers)
    files = weight_files(folder)
    if not files:
        raise FormatError(folder, "no safetensors file", hint="if it holds an index, its shards are missing")
    _check_complete(folder, [file.name for file in files])
    return _joined({file: read_header(file) for file in files})


def weight_files(folder: Path) -> list[Path]:
    """All `*.safetensors` that belong to the model, by name."""
    files = sorted(path for path in folder.glob("*.safetensors") if not path.is_dir() and not path.name.startswith("."))
    return [file for file in files if not file.name.startswith(_BESIDE)] or files


def _find_index(folder: Path) -> Path | None:
    usual = folder / f"model{SUFFIX}"
    found = [usual] if usual.exists() else sorted(folder.glob(f"*{SUFFIX}"))
    return found[0] if len(found) == 1 else None


def _indexed(index: Path) -> dict[Path, Header] | None:
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
    headers = {index.parent / name: read_header(index.parent / name) for name in names}
    held = {(tensor.name, path.name) for path, header in headers.items() for tensor in header.tensors}
    return headers if weight_map.items() <= held else None


def _check_complete(folder: Path, names: Iterable[str]) -> None:
    sets: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := _SHARD.fullmatch(name):
            sets.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, count), numbers in sets.items():
        missing = [number for number in range(1, min(count, MAX_FILES) + 1) if number not in numbers]
        if missing:
            example = f"{stem}-{missing[0]:05d}-of-{count:05d}.safetensors"
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
