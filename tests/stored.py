"""Folders of a few arrays, read as a checkpoint, and what their tensors decode to."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from requant.codecs import codec_for
from requant.encodings import columns_of, rows_of
from requant.formats import detect
from requant.sources import read


def read_folder(folder: Path, arrays, config=None, metadata=None):
    """The checkpoint of a folder that holds these numpy arrays, or these bytes of a safetensors file."""
    if isinstance(arrays, bytes):
        (folder / "model.safetensors").write_bytes(arrays)
    else:
        save_file(arrays, folder / "model.safetensors", metadata=metadata)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **(config or {})}))
    return detect(folder).read(folder)


def parts_of(tensor):
    """The stored arrays of a tensor."""
    specs = tensor.parts
    return {
        part: np.frombuffer(bytes(read(source)), np.uint8).view(specs[part].dtype.numpy).reshape(specs[part].shape)
        for part, source in tensor.sources.items()
    }


def values_of(tensor, start=0):
    """The rows from `start` on, decoded."""
    columns = columns_of(tensor.shape)
    parts = parts_of(tensor)
    if tensor.encoding.sliced:
        parts = {part: array.reshape(rows_of(tensor.shape), -1)[start:] for part, array in parts.items()}
    out = np.empty((rows_of(tensor.shape) - start, columns), np.float32)
    codec_for(tensor.encoding).decode(parts, out, 0 if tensor.encoding.sliced else start)
    return out
