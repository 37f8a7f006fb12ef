"""The memory that llama.cpp takes for what it has read: keys and values of each layer, or the state of a recurrent one.

A layer with a window keeps only so many tokens as the window and one micro-batch have; encoders keep nothing. This is
one sequence, with the options of llama-server.

Facts: llama.cpp b11549, src/llama-kv-cache-iswa.cpp, llama-kv-cache.cpp, llama-hparams.cpp (`n_embd_r`, `n_embd_s`)
and `create_memory` in llama-model.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Final

from requant.errors import Error
from requant.ir import Checkpoint, Json, Naming, Tensor, Typed, flat_config
from requant.layered import (
    MOST_LAYERS,
    number,
    per_layer,
    recurrent_layers,
    window_of,
    windowed_layers,
)
from requant.metadata import first_count, largest_count

#: Tokens that llama.cpp evaluates at once by default (`n_ubatch`).
MICRO_BATCH: Final = 512
#: Caches come in so many tokens.
_CELLS: Final = 256
#: Architectures that keep nothing: encoders, and what fills in a whole text at once.
WITHOUT: Final = frozenset(
    (
        *("bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert"),
        *("modern-bert", "gemma-embedding", "gemma-embedding2", "dream", "llada", "llada-moe", "rnd1", "clef"),
    )
)


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer: `width` numbers for each token it keeps, at most `window` tokens (0: all); and `state` bytes.

    head: what the widths of a key and of a value are multiples of.
    """

    width: int
    window: int = 0
    state: int = 0
    head: int = 1

    def cells(self, context: int, micro_batch: int = MICRO_BATCH) -> int:
        """Tokens that are kept in a context of so many, evaluated so many at once."""
        cells = _padded(context)
        return _padded(min(cells, self.window + micro_batch)) if self.window else cells

    def nbytes(self, context: int, block: tuple[int, int] = (1, 2)) -> int:
        """Bytes for a context of so many tokens; of F16, or of blocks of so many numbers in so many bytes."""
        values, size = block
        return self.cells(context) * self.width * size // values + self.state


def _padded(tokens: int) -> int:
    return -(-tokens // _CELLS) * _CELLS


def caches_of(metadata: Mapping[str, Typed], architecture: str) -> list[LayerCache] | None:
    """The cache of each layer; None where the file does not say enough."""

    def named(key: str, absent: int = 0) -> int:
        return number(metadata, f"{architecture}.{key}", absent)

    def length(key: str, absent: int) -> int:
        return largest_count(metadata, f"{architecture}.{key}") or absent

    layers = named("block_count") - named("nextn_predict_layers")
    embedding = named("embedding_length")
    if not 0 < layers <= MOST_LAYERS or embedding <= 0:
        return None
    heads = per_layer(metadata, f"{architecture}.attention.head_count", layers, 0)
    if architecture in WITHOUT:
        return [LayerCache(0)] * layers
    usual = embedding // max(1, max(heads))
    window = window_of(metadata, architecture)
    shared = layers - named("attention.shared_kv_layers")
    kv_heads = per_layer(metadata, f"{architecture}.attention.head_count_kv", layers, -1)
    has_values = not named("attention.key_length_mla")  # they are computed from the keys
    found = []
    windows, recurrent = (kind(metadata, architecture, layers) for kind in (windowed_layers, recurrent_layers))
    if not 0 < max(heads) <= embedding and not all(recurrent):
        return None
    for n, windowed in enumerate(windows):
        if recurrent[n]:
            found.append(LayerCache(0, state=_state(metadata, architecture)))
            continue
        key, value = length("attention.key_length", usual), length("attention.value_length", usual)
        if windowed:
            key, value = length("attention.key_length_swa", key), length("attention.value_length_swa", value)
        count = kv_heads[n] if kv_heads[n] >= 0 else heads[n]
        width = count * (key + value * has_values) if n < shared else 0
        found.append(LayerCache(width, window if windowed else 0, head=gcd(key, value * has_values) or 1))
    return found


def _state(metadata: Mapping[str, Typed], architecture: str) -> int:
    """Bytes of a state-space layer's states, in F32."""

    def named(key: str) -> int:
        return number(metadata, f"{architecture}.{key}")

    if named("wkv.head_size"):
        shifts = number(metadata, f"{architecture}.token_shift_count", 2)
        return 4 * named("embedding_length") * (shifts + named("wkv.head_size"))
    if named("shortconv.l_cache"):
        return 4 * named("embedding_length") * (named("shortconv.l_cache") - 1)
    state, inner = named("ssm.state_size"), named("ssm.inner_size")
    convolution = max(0, named("ssm.conv_kernel") - 1) * (inner + 2 * named("ssm.group_count") * state)
    return 4 * (convolution + state * inner)


#: Types of a cache that llama.cpp takes, by its names: numbers in a block, and bytes of one.
CACHE_TYPES: Final[Mapping[str, tuple[int, int]]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q5_1": (32, 24),
    "q5_0": (32, 22),
    "q4_1": (32, 20),
    "q4_0": (32, 18),
    "iq4_nl": (32, 18),
}


def cache_bytes(caches: Sequence[LayerCache], context: int) -> dict[str, int]:
    """Bytes of all layers by the type of keys and values; types whose blocks are no part of a head are left out.

    Source: `llama_init_from_model` of llama-context.cpp, which refuses these.
    """
    heads = {cache.head for cache in caches if cache.width}
    return {
        name: sum(cache.nbytes(context, block) for cache in caches)
        for name, block in CACHE_TYPES.items()
        if all(head % block[0] == 0 for head in heads)
    }


#: Keys of a GGUF, and what config.json calls them.
_SPELLED: Final[Mapping[str, tuple[str, ...]]] = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
}
_UNKNOWN: Final = "?"
#: Kinds of layers that keep all keys and values.
_ATTENTION: Final = frozenset(("full_attention", "attention", "global_attention"))


def metadata_of(checkpoint: Checkpoint[Tensor]) -> tuple[Mapping[str, Typed], str]:
    """The keys of a GGUF that say what a model has of layers and heads, and its architecture.

    A folder's are those that its family's table gives it. Of a family that is not known, or whose table a model
    contradicts, every layer is taken for plain attention; empty where config.json says that it is not.
    """
    if checkpoint.naming is Naming.GGML:
        return checkpoint.metadata, checkpoint.architecture
    from requant.architectures import translated  # what it costs is a third of what `inspect` takes
    from requant.plan import unchanged

    said = unchanged(checkpoint)
    try:
        for part in ("family", "hyperparameters", "besides"):  # windows and the like are besides
            said = translated(said, Naming.GGML, part)
    except Error:
        return _plain_attention(flat_config(checkpoint.config)), _UNKNOWN
    return said.metadata, said.architecture


def _plain_attention(config: Mapping[str, Json]) -> dict[str, Typed]:
    types = config.get("layer_types")
    if isinstance(types, list) and not _ATTENTION.issuperset(str(one) for one in types):
        return {}
    counts = {key: first_count(config, *names) for key, names in _SPELLED.items()}
    if counts["attention.head_count"] is None:
        return {}
    counts["attention.value_length"] = counts["attention.key_length"]
    return {f"{_UNKNOWN}.{key}": Typed("u32", value) for key, value in counts.items() if value is not None}
