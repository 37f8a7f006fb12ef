"""What quantization changes in a GGUF's metadata.

Source: `llama_model_quantize_impl` and llama-quantize's main. llama.cpp sets a key by removing it and appending it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from requant.importance import Importance
from requant.ir import Typed
from requant.recipes.choose import Wanted
from requant.recipes.key_kinds import fitted
from requant.recipes.names import file_order
from requant.recipes.options import overridden
from requant.recipes.table import Recipe, guessed_file_type

#: GGML_QNT_VERSION: the generation of ggml's block types; the second changed the scales of all of them.
QUANTIZATION_VERSION: Final = 2


def quantized_metadata(
    metadata: Mapping[str, Typed],
    recipe: Recipe,
    tensors: Sequence[Wanted],
    overrides: Iterable[tuple[str, Typed]] = (),
    importance: Importance | None = None,
) -> dict[str, Typed]:
    """The metadata llama-quantize writes with a model, keys in its order.

    tensors: as they were before. overrides: of `--override-kv`, put into the types that llama.cpp reads. Layers that
    were pruned are `pruned_metadata`'s, afterwards.
    """
    changes = [
        ("general.quantization_version", Typed("u32", QUANTIZATION_VERSION)),
        ("general.file_type", Typed("u32", file_type(recipe, metadata, tensors))),
    ]
    return overridden(metadata, (*changes, *fitted(metadata, overrides), *importance_metadata(importance)))


def file_type(recipe: Recipe, metadata: Mapping[str, Typed], tensors: Sequence[Wanted]) -> int:
    """`general.file_type`: the recipe's, and for COPY the file's own or llama.cpp's guess."""
    if recipe.file_type is not None:
        return recipe.file_type
    own = metadata.get("general.file_type")
    if own is not None and isinstance(own.value, int):
        return own.value
    encodings = {tensor.name: tensor.encoding for tensor in tensors}
    return guessed_file_type(encodings[name] for name in file_order(encodings))


def importance_metadata(importance: Importance | None) -> tuple[tuple[str, Typed], ...]:
    """The keys that tell of an importance matrix; strings are cut at 127 bytes, as llama.cpp does."""
    if importance is None:
        return ()
    keys = [("quantize.imatrix.file", Typed("str", _cut(importance.source)))]
    if importance.datasets:
        keys.append(("quantize.imatrix.dataset", Typed("str", _cut(importance.datasets[0]))))
    keys.append(("quantize.imatrix.entries_count", Typed("u32", len(importance.entries))))
    if importance.chunks > 0:
        keys.append(("quantize.imatrix.chunks_count", Typed("u32", importance.chunks)))
    return tuple(keys)


def _cut(text: str) -> str:
    return text.encode("utf-8", "surrogateescape")[:127].decode("utf-8", "surrogateescape")
