"""Which files of a folder hold its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from requant.errors import FormatError
from requant.formats.safetensors.header import Header
from requant.formats.safetensors.index import MAX_FILES, read_index
from requant.ir import STALE_INDEX, Tensor
from requant.printable import shorten

_SHARD: Final = re.compile(r"(.*?)-?(\d{5})-of-(\d{5})(\.\w+)")
#: Not the model itself: something to be put on top of it, or a second copy of it in another naming.
_ADAPTER: Final = "adapter_"
_BESIDE: Final = ("consolidated", _ADAPTER)
#: Where torchao lists the tensors of each file: it differs, and the files themselves say it.
_TENSOR_NAMES: Final = "tensor_names"
#: How many names, or keys, one notice tells.
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """How the weights of a folder are called in one format, and how one file of them is read."""

    pattern: str
    index: str
    read: Callable[[Path], Header]

    @property
    def whole(self) -> str:
        """The name of the one file that is the whole model."""
        return self.index.removesuffix(".index.json")

    @property
    def index_suffix(self) -> str:
        """What the names of all such indexes end with."""
        return "." + self.index.partition(".")[2]

    def found(self, folder: Path) -> list[Path]:
        """All files that belong to the model, by name."""
        alone = f"{_ADAPTER}model*{PurePath(self.pattern).suffix}"  # a folder that is an adapter has nothing else
        matching = [*folder.glob(self.pattern)] or folder.glob(alone)
        files = sorted(path for path in matching if not path.is_dir() and not path.name.startswith("."))
        return [file for file in files if not file.name.startswith(_BESIDE)] or files

    def adapters(self, folder: Path) -> list[str]:
        """Files to be put on top of the model, by name; none if there is no other."""
        names = sorted(path.name for path in folder.glob(f"{_ADAPTER}*{PurePath(self.pattern).suffix}"))
        return names if any(path.name not in names for path in self.found(folder)) else []

    def indexes(self, folder: Path) -> list[Path]:
        """All indexes, by name."""
        return sorted(folder.glob(f"*{self.index_suffix}"))


def read_folder(folder: Path, weights: WeightFiles, index: Path | None = None) -> Header:
    """The tensors of all weight files of `folder`, and their metadata.

    `index`: the index to go by; else the usual one or the only one there is. An index counts when every file it names
    is there and holds what it says. One that does not fit is stale (EXL2 folders carry that of the unquantized model)
    and all weight files are taken, unless one shard of a set is missing: that is an error. What does not fit is told in
    the header's notices. Where there is no index, the file that is the whole model by its name counts before its copies
    (`model.fp16.safetensors`, a set of shards), as it does in transformers.
    """
    given = index is not None
    notices: list[str] = []
    if index is None:
        index, notices = _find_index(folder, weights)
    if index is not None:
        weight_map = read_index(index)
        headers, why = _indexed(index, weight_map, weights)
        if not why:
            beside = [] if given else [file.name for file in weights.found(folder) if file not in headers]
            return _joined(headers, _unnamed(index, weight_map, headers, beside))
        notices = [f"{index.name} {STALE_INDEX}: {why}; all weight files of the folder are read"]
    files = weights.found(folder)
    if not files:
        raise FormatError(folder, f"no {weights.pattern}", hint="if there is an index, its shards are missing")
    headers, copies = _without_copies({file: weights.read(file) for file in files}, folder / weights.whole)
    if copies:
        notices = [*notices, f"{weights.whole} counts; {_listed(copies)} hold the same tensors: not read"]
    _check_complete(folder, [file.name for file in headers])
    return _joined(headers, notices)


def _without_copies(headers: dict[Path, Header], whole: Path) -> tuple[dict[Path, Header], list[str]]:
    """The files without those that hold tensors of the one that is the model by its name, and the names of these."""
    if whole not in headers:
        return headers, []
    named = {tensor.name for tensor in headers[whole].tensors}
    copies = [
        file for file, header in headers.items() if file != whole and any(t.name in named for t in header.tensors)
    ]
    return {file: header for file, header in headers.items() if file not in copies}, [file.name for file in copies]


def _find_index(folder: Path, weights: WeightFiles) -> tuple[Path | None, list[str]]:
    """The index of a folder, and what is to be told where there are several."""
    usual = folder / weights.index
    found = [usual] if usual.exists() else weights.indexes(folder)
    if len(found) < 2:
        return next(iter(found), None), []
    names = _listed([index.name for index in found])
    return None, [f"{len(found)} indexes, {names}, none of them the usual one: all weight files of the folder are read"]


def _indexed(index: Path, weight_map: Mapping[str, str], weights: WeightFiles) -> tuple[dict[Path, Header], str]:
    """The files an index names, and why it is stale, if it is."""
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if len(missing) == len(names):
        return {}, f"it names {_listed(names) or 'no files'}, of which none is here"
    if missing:
        raise FormatError(
            index,
            f"{len(missing)} of {len(names)} shards are missing: {', '.join(missing[:5])}",
            hint="the folder is incomplete: fetch these files",
        )
    headers = {index.parent / name: weights.read(index.parent / name) for name in names}
    held = {(tensor.name, path.name) for path, header in headers.items() for tensor in header.tensors}
    strange = [f"{shorten(tensor)} in {file}" for tensor, file in weight_map.items() if (tensor, file) not in held]
    return headers, f"there is no {_listed(strange)}" if strange else ""


def _unnamed(
    index: Path, weight_map: Mapping[str, str], headers: Mapping[Path, Header], beside: Sequence[str]
) -> list[str]:
    """What is to be told of tensors that an index does not name, and of weight files `beside` those that it names."""
    tensors = [tensor.name for header in headers.values() for tensor in header.tensors]
    found = [shorten(name) for name in tensors if name not in weight_map]
    told = [f"{index.name} does not name {_listed(found)} in its files: read all the same"] if found else []
    return told + ([f"{index.name} does not name {_listed(beside)} beside its files: not read"] if beside else [])


def _listed(names: Sequence[str]) -> str:
    """A few of them, and how many more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


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


def _joined(headers: Mapping[Path, Header], notices: Sequence[str]) -> Header:
    """All tensors in file order. Of metadata that differs between shards the first file's counts, which is told."""
    metadata: dict[str, tuple[str, Path]] = {}
    differing: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    owner: dict[str, Path] = {}
    for path, header in headers.items():
        for key, value in header.metadata.items():
            first, where = metadata.setdefault(key, (value, path))
            if first != value and key != _TENSOR_NAMES:
                found = f"{shorten(first)} in {where.name} and {shorten(value)} in {path.name}"
                differing.setdefault(key, f"__metadata__ {shorten(key)} is {found}: the first counts")
        for tensor in header.tensors:
            if tensor.name in tensors:
                raise FormatError(
                    path,
                    f"tensor {shorten(tensor.name)} is also in {owner[tensor.name].name}",
                    hint="open one of the files by itself, or move the copy out of the folder",
                )
            tensors[tensor.name], owner[tensor.name] = tensor, path
    inside = [notice for header in headers.values() for notice in header.notices]
    told = [*notices, *inside, *list(differing.values())[:_SHOWN]]
    if len(differing) > _SHOWN:
        told.append(f"{len(differing) - _SHOWN} more keys of __metadata__ differ between files")
    return Header({key: value for key, (value, _) in metadata.items()}, tuple(tensors.values()), tuple(told))
