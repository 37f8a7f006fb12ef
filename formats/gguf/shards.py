"""Models cut into several files, `NAME-00001-of-00003.gguf`.

Source: `llama_split_path`, `llama_model_loader` and tools/gguf-split of llama.cpp. The first file has the metadata;
every file says which it is (`split.no`, from 0), how many there are, and how many tensors all of them have.
What a file says about its own splitting is no part of the checkpoint: reading drops it, writing makes it anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.formats.gguf.header import Header, read_header
from requant.ir import Tensor, Typed
from requant.objections import Objection, refuse

NUMBER_KEY: Final = "split.no"
COUNT_KEY: Final = "split.count"
TENSORS_KEY: Final = "split.tensors.count"
SPLIT_KEYS: Final = (NUMBER_KEY, COUNT_KEY, TENSORS_KEY)
#: Whose value is nothing but room, left for later changes of the head (see `editing`).
ROOM_KEY: Final = "requant.room"
#: What describes one file, and is no part of the model.
FILE_KEYS: Final = (*SPLIT_KEYS, ROOM_KEY)
#: `split.count` is stored in sixteen bits.
MAX_SHARDS: Final = 65535

_NAME: Final = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def shard_name(prefix: str, index: int, count: int) -> str:
    """The name of shard `index`, counted from 0.

    >>> shard_name("model", 0, 3)
    'model-00001-of-00003.gguf'
    """
    return f"{prefix}-{index + 1:05d}-of-{count:05d}.gguf"


def series_of(name: str) -> tuple[str, str] | None:
    """What all shards of a model have in their names, prefix and count; None when `name` is no such name.

    >>> series_of("model-00002-of-00003.gguf")
    ('model', '00003')
    """
    match = _NAME.fullmatch(name)
    return (match["prefix"], match["count"]) if match else None


def prefix_of(name: str) -> str | None:
    """What stands before the numbers in the name of a shard; None when `name` is no such name."""
    series = series_of(name)
    return series[0] if series else None


def read_shards(path: Path) -> tuple[dict[str, Typed], tuple[Tensor, ...]]:
    """Metadata and tensors of the file at `path`, and of its siblings when it is one of several."""
    return joined(read_files(path))


def read_files(path: Path, objection: Objection = refuse) -> dict[Path, Header]:
    """The file at `path`, or it and its siblings when it is one of several; without those that are objected to."""
    opened = read_header(path, objection)
    count = _integer(path, opened, COUNT_KEY, 0)
    if count <= 1:
        return {path: opened}
    number = _integer(path, opened, NUMBER_KEY)
    prefix = prefix_of(path.name)
    if prefix is None or path.name != shard_name(prefix, number, count):
        hint = f"name it {shard_name(prefix or 'NAME', number, count)}, and its siblings likewise"
        message = f"the file says it is number {number + 1} of {count}, its name does not"
        objection("split-name", FormatError(path, message, hint=hint))
        return {path: opened}
    siblings = [path.with_name(shard_name(prefix, index, count)) for index in range(min(count, MAX_SHARDS))]
    for sibling in siblings:
        if not sibling.is_file():
            message = f"this file is missing: the model is in {count} files"
            objection("split-missing", FormatError(sibling, message, hint="get this one too"))
    found = {}
    for index, sibling in enumerate(siblings):
        if sibling == path:
            found[sibling] = opened
        elif sibling.is_file():
            header = read_header(sibling, objection)
            if (_integer(sibling, header, NUMBER_KEY), _integer(sibling, header, COUNT_KEY)) == (index, count):
                found[sibling] = header
            else:
                message = f"the file does not say that it is number {index + 1} of {count}"
                objection("split-number", FormatError(sibling, message))
    return found


def joined(files: Mapping[Path, Header], objection: Objection = refuse) -> tuple[dict[str, Typed], tuple[Tensor, ...]]:
    """Metadata and tensors of the files of a model together."""
    if len(files) == 1:
        (header,) = files.values()
        return _of_the_model(header.metadata), header.tensors
    return _metadata(files, objection), _tensors(files, objection)


def _integer(path: Path, header: Header, key: str, default: int | None = None) -> int:
    """The integer under `key`."""
    typed = header.metadata.get(key)
    value = default if typed is None else typed.value
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError(path, f"{key} must be an integer; it is {'missing' if typed is None else typed.kind}")
    return value


def _of_the_model(metadata: dict[str, Typed]) -> dict[str, Typed]:
    return {key: typed for key, typed in metadata.items() if key not in FILE_KEYS}


def _metadata(files: Mapping[Path, Header], objection: Objection) -> dict[str, Typed]:
    """The first file's key-values, then what others add; they must not contradict each other."""
    merged: dict[str, Typed] = {}
    for path, header in files.items():
        for key, typed in _of_the_model(header.metadata).items():
            if merged.setdefault(key, typed) != typed:
                hint = f"see {next(iter(files))}"
                message = f"metadata {key!r} differs from that of an earlier file"
                objection("split-metadata", FormatError(path, message, hint=hint))
    return merged


def _tensors(files: Mapping[Path, Header], objection: Objection) -> tuple[Tensor, ...]:
    """All tensors, as many as every file says, none twice."""
    tensors = [tensor for header in files.values() for tensor in header.tensors]
    home: dict[str, Path] = {}
    for path, header in files.items():
        total = _integer(path, header, TENSORS_KEY)
        if total != len(tensors):
            message = f"{TENSORS_KEY} is {total}, and the {len(files)} files have {len(tensors)} tensors"
            objection("split-tensors", FormatError(path, message))
        for tensor in header.tensors:
            if home.setdefault(tensor.name, path) != path:
                message = f"tensor {tensor.name!r} is also in {home[tensor.name]}"
                objection("split-duplicate", FormatError(path, message))
    return tuple({tensor.name: tensor for tensor in reversed(tensors)}.values())[::-1]
