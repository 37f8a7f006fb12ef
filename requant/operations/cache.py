"""The memory that llama.cpp takes for what it has read: keys and values of each layer, or the state of a recurrent one.

A layer with a window keeps only so many tokens as the window and one micro-batch have; encoders keep nothing. This is
one sequence, with the options of llama-server.

Facts: llama.cpp b11549, src/llama-kv-cache-iswa.cpp, llama-kv-cache.cpp, llama-hparams.cpp (`n_embd_r`, `n_embd_s`)
and `create_memory` in llama-model.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from requant.ir import Json, Typed
from requant.layered import (
    MOST_LAYERS,
    PATTERN,
    WINDOW,
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
_WITHOUT: Final = frozenset(
    (
        *("bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert"),
        *("modern-bert", "gemma-embedding", "gemma-embedding2", "dream", "llada", "llada-moe", "rnd1", "clef"),
    )
)


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer: `width` numbers of F16 for each token it keeps, at most `window` tokens (0: all); `state` bytes."""

    width: int
    window: int = 0
    state: int = 0

    def cells(self, context: int, micro_batch: int = MICRO_BATCH) -> int:
        """Tokens that are kept in a context of so many, evaluated so many at once."""
        cells = _padded(context)
        return _padded(min(cells, self.window + micro_batch)) if self.window else cells

    def nbytes(self, context: int) -> int:
        """Bytes for a context of so many tokens."""
        return 2 * self.cells(context) * self.width + self.state


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
    if architecture in _WITHOUT:
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
        found.append(LayerCache(width, window if windowed else 0))
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


#: model types of config.json whose windows llama.cpp heeds: its architecture, the width where config.json has none.
_WINDOWS: Final[Mapping[str, tuple[str, int]]] = {
    "gemma2": ("gemma2", 4096),
    "gemma3": ("gemma3", 4096),
    "gemma3_text": ("gemma3", 4096),
    "gpt_oss": ("gpt-oss", 128),
    "cohere2": ("cohere2", 4096),
    "olmo3": ("olmo2", 4096),
    "modernbert": ("modern-bert", 128),
}
_ENCODERS: Final = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "nomic_bert")

#: Keys of a GGUF, and what config.json calls them.
_SPELLED: Final[Mapping[str, tuple[str, ...]]] = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
}


def metadata_like(config: Mapping[str, Json]) -> tuple[dict[str, Typed], str]:
    """The keys of a GGUF that say what a config.json says of layers and heads, and the architecture."""
    model_type = str(config.get("model_type"))
    architecture, width = _WINDOWS.get(model_type, ("bert" if model_type in _ENCODERS else "?", 0))
    found: dict[str, Typed] = {}
    for key, names in _SPELLED.items():
        value = first_count(config, *names)
        if value is not None:
            found[f"{architecture}.{key}"] = Typed("u32", value)
    if "head_dim" in config and f"{architecture}.attention.key_length" in found:
        found[f"{architecture}.attention.value_length"] = found[f"{architecture}.attention.key_length"]
    window, types = first_count({"sliding_window": width, **config}, "sliding_window"), config.get("layer_types")
    if width and window is not None:
        found[f"{architecture}.{WINDOW}"] = Typed("u32", window)
        if isinstance(types, list):
            found[f"{architecture}.{PATTERN}"] = Typed("[bool]", [item == "sliding_attention" for item in types])
    return found, architecture
