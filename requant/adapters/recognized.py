"""Whether what was opened is an adapter: asked of every model, so that nothing heavy is imported here."""

from __future__ import annotations

from typing import Final

from requant.ir import Checkpoint, Naming, Tensor
from requant.sources import FileSlice

CONFIG: Final = "adapter_config.json"


def is_adapter(source: Checkpoint[Tensor]) -> bool:
    """Whether the tensors of a folder are those of an adapter; some carry the config.json of their model."""
    files = [one for tensor in source.tensors for one in tensor.sources.values() if isinstance(one, FileSlice)]
    return CONFIG in source.files and all(one.path.name.startswith("adapter_") for one in files)


def is_ggml_adapter(source: Checkpoint[Tensor]) -> bool:
    """Whether a GGUF says that it is an adapter."""
    typed = source.metadata.get("general.type")
    return source.naming is Naming.GGML and typed is not None and typed.value == "adapter"


def is_any_adapter(source: Checkpoint[Tensor]) -> bool:
    """Whether it is an adapter, and no model."""
    return is_ggml_adapter(source) or (source.naming is not Naming.GGML and is_adapter(source))
