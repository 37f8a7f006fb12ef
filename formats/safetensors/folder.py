"""A Hugging Face folder: weights, config.json, and what lies beside them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from requant.errors import FormatError
from requant.formats.safetensors.links import is_prose, refuse_to_leave, way_out
from requant.formats.safetensors.params import PARAMS, from_params
from requant.ir import Json
from requant.json_values import CONFIG as CONFIG_LIMITS
from requant.json_values import Item, parse_json
from requant.sources import FileSlice, Identity, Source, open_regular
from requant.system import read_at

CONFIG: Final = "config.json"
#: What the keys must be that say how the rest is to be read.
_KINDS: Final[Mapping[str, Callable[[Item], object]]] = {
    **dict.fromkeys(("model_type", "hidden_act", "hidden_activation", "torch_dtype", "dtype"), Item.string),
    **dict.fromkeys(("architectures", "layer_types"), Item.array),
    **dict.fromkeys(("text_config", "rope_scaling", "rope_parameters", "auto_map"), Item.object),
}
#: Weights, in whatever format: what is carried along is everything else.
WEIGHTS: Final = (
    *(
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".pkl",
        ".pickle",
        ".nemo",
        ".h5",
        ".msgpack",
        ".ot",
        ".npz",
        ".npy",
    ),
    *(".gguf", ".ggml", ".llamafile", ".onnx", ".onnx_data", ".tflite", ".mlmodel", ".tar", ".zip", ".partial"),
)
#: Subfolders that belong to a model: modules of sentence-transformers, named in its modules.json (`1_Pooling`), and
#: chat templates for other uses than the usual one, where transformers writes them.
SUBFOLDER: Final = re.compile(r"\d+_[A-Za-z]\w*|additional_chat_templates")
#: The weights of such a module (`2_Dense`), which are no part of the model that transformers loads.
MODULE: Final = re.compile(r"(?P<folder>\d+_[A-Za-z]\w*)/model\.safetensors")


def read_config(folder: Path) -> dict[str, Json]:
    """config.json of `folder`, empty if there is none.

    NaN and Infinity are read as numbers, as transformers does: `"time_step_limit": [0.0, Infinity]` is common.
    """
    said = _parsed(folder / CONFIG)
    return {} if said is None else checked_config(said)


def read_params(folder: Path) -> tuple[dict[str, Json], list[str]] | None:
    """params.json of `folder` as config.json would say it, and what is to be told; None if there is none."""
    said = _parsed(folder / PARAMS)
    return None if said is None else from_params(said)


def _parsed(path: Path) -> Item | None:
    if not path.exists() and not path.is_symlink():
        return None
    descriptor = open_regular(path)
    try:
        refuse_to_leave(path, path.parent)
        data = read_at(descriptor, CONFIG_LIMITS.nbytes + 1, 0)
    finally:
        os.close(descriptor)
    return parse_json(data, path)


def checked_config(config: Item) -> dict[str, Json]:
    """A config.json whose keys of structure are of their kinds, so that nobody else need ask; `FormatError` if not."""
    for key, kind in _KINDS.items():
        value = config.get(key)
        if value.value is not None:
            kind(value)
    architectures = config.get("architectures")
    for name in architectures.items():
        name.string()
    text = config.get("text_config")
    if text.value is not None:
        checked_config(text)
    return config.object()


def write_config(config: Mapping[str, Json]) -> bytes:
    """config.json as transformers writes it, but in the order given: the order of some quantization rules matters."""
    return (json.dumps(config, indent=2) + "\n").encode()


def carried_files(folder: Path) -> tuple[dict[str, Source], list[str]]:
    """What goes along untouched, by relative name: tokenizer, generation_config.json, chat templates, README, licence.

    Not: config.json, weights of any format and their indexes but those of a `MODULE`, hidden files, and subfolders but
    those that `SUBFOLDER` matches. Links are followed into the cache of the Hugging Face Hub and within the folder; of
    others, those to what is for people only are left out, which is told (the second value), the rest is refused.
    """
    found: dict[str, Source] = {}
    told: list[str] = []
    subfolders = [entry for entry in _listed(folder) if SUBFOLDER.fullmatch(entry.name) and entry.is_dir()]
    for prefix, place in (("", folder), *((f"{entry.name}/", Path(entry.path)) for entry in subfolders)):
        for entry in _regular_files(place):
            path, name = Path(entry.path), prefix + entry.name
            if name == CONFIG or (_is_weights(entry.name) and not MODULE.fullmatch(name)):
                continue
            real = way_out(path, folder)
            if real is not None and is_prose(entry.name):
                told.append(f"{name} is a link out of the folder, to {real}: not followed, left out")
                continue
            refuse_to_leave(path, folder)
            status = entry.stat()
            found[name] = FileSlice(path, 0, status.st_size, Identity.of(status))
    return found, told


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _regular_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    for entry in _listed(folder):
        if entry.is_symlink() and not os.path.exists(entry):  # noqa: PTH110 - an entry is no Path
            raise FormatError(Path(entry.path), "this link leads nowhere", hint="fetch the file, or remove the link")
        if entry.name.startswith(".") or not entry.is_file():
            continue
        yield entry


def _is_weights(name: str) -> bool:
    return Path(name).suffix.lower() in WEIGHTS or name.endswith(".index.json")
