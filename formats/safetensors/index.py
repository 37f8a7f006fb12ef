"""`model.safetensors.index.json`: which shard holds which tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from requant.formats.safetensors.header import MAX_NAME, MAX_TENSORS
from requant.formats.safetensors.stream import JsonStream
from requant.printable import shorten
from requant.sources import open_regular

SUFFIX: Final = ".safetensors.index.json"
MAX_FILES: Final = 10_000
_MAX_VALUE: Final = 1 << 17


def read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name; raises `FormatError`, also for a file name that leads out of the folder."""
    descriptor = open_regular(path)
    try:
        stream = JsonStream(path, descriptor, 0, os.fstat(descriptor).st_size)
        weight_map: dict[str, str] | None = None
        for key in stream.keys(MAX_NAME):
            if key != "weight_map":
                stream.value(_MAX_VALUE)  # `metadata.total_size` is often wrong: nothing relies on it
            elif weight_map is not None:
                raise stream.error("weight_map is there twice")
            else:
                weight_map = _weight_map(stream)
        stream.end()
        if weight_map is None:
            raise stream.error("no weight_map", hint='an index has the form {"weight_map": {"tensor": "file"}}')
    finally:
        os.close(descriptor)
    return weight_map


def write_index(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """The index as transformers writes it; `total_size` counts the bytes of all tensors."""
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()


def _weight_map(stream: JsonStream) -> dict[str, str]:
    weight_map: dict[str, str] = {}
    files: dict[str, str] = {}
    for tensor in stream.keys(MAX_NAME):
        file = stream.string(MAX_NAME)
        if not is_plain(file):
            raise stream.error(
                f"tensor {shorten(tensor)} is said to be in {shorten(file)}, which is no plain file name",
                hint="shards lie beside their index; a path that leads elsewhere is not followed",
            )
        if tensor in weight_map:
            raise stream.error(f"weight_map names {shorten(tensor)} twice")
        weight_map[tensor] = files.setdefault(file, file)
        if len(files) > MAX_FILES or len(weight_map) > 5 * MAX_TENSORS:
            raise stream.error(f"more than {MAX_FILES} files or {5 * MAX_TENSORS} tensors")
    return weight_map


def is_plain(name: str) -> bool:
    """Whether `name` names a file beside another, on every system."""
    return name not in ("", ".", "..") and not any(character in name for character in "/\\:\0")
