"""What a path stands for: a file, or a folder with everything in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from requant.errors import FormatError
from requant.formats.safetensors.folder import carried_files, read_config, read_params
from requant.formats.safetensors.params import EMBEDDING, PARAMS
from requant.formats.safetensors.shards import WeightFiles, read_folder
from requant.ir import CONSOLIDATED, Checkpoint, Naming, Tensor, Typed


def recognizes_folder(path: Path, weights: WeightFiles) -> bool:
    """Whether a folder holds such weights, or the index of such."""
    return bool(weights.found(path) or weights.indexes(path))


def read_checkpoint(path: Path, weights: WeightFiles) -> Checkpoint[Tensor]:
    """Every stored array as a dense tensor, file after file. Raises `FormatError`.

    A folder is the whole model, with its config.json and the files beside it; so is an index, whose shards are then
    taken whatever else lies in the folder. A weight file is just that file, even if it is one shard of several.
    """
    try:
        if path.is_dir():
            return _whole(path, path, weights, None)
        if path.name.endswith(weights.index_suffix) and path.exists():
            return _whole(path, path.parent, weights, path)
        header = weights.read(path)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from None
    metadata = _typed(header.metadata)
    return Checkpoint(Naming.HF, "", header.tensors, metadata=metadata, path=path, notices=header.notices)


def _whole(path: Path, folder: Path, weights: WeightFiles, index: Path | None) -> Checkpoint[Tensor]:
    header = read_folder(folder, weights, index)
    config = read_config(folder)
    model_type = config.get("model_type")
    files, left_out = carried_files(folder)
    params = None if config or not _is_consolidated(header.tensors) else read_params(folder)
    if params is not None:
        config, model_type = params[0], CONSOLIDATED
        left_out += params[1]
        files.pop(PARAMS, None)
    adapters = [f"{name} is an adapter: it is not put on the model" for name in weights.adapters(folder)]
    return Checkpoint(
        Naming.HF,
        model_type if isinstance(model_type, str) else "",
        header.tensors,
        config,
        _typed(header.metadata),
        files,
        path,
        (*header.notices, *adapters, *left_out),
    )


def _is_consolidated(tensors: Sequence[Tensor]) -> bool:
    return any(tensor.name == EMBEDDING for tensor in tensors)


def _typed(metadata: Mapping[str, str]) -> dict[str, Typed]:
    return {key: Typed("str", value) for key, value in metadata.items()}
