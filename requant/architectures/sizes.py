"""The sizes that a family's shapes are made of, from its GGUF keys: the same for both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Config, Sizes
from requant.errors import PlanError
from requant.ir import Json

#: Above this, a count of experts or the width of a head is an accident, and a list as long would be another.
_MOST: Final = 1 << 14
#: Keys that a GGUF may list, a number for each layer, 0 in one without.
_LISTED: Final = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
#: What layers with a window have in place of a key, where a GGUF says it; and which layers those are.
_WINDOWED: Final = {
    "attention.key_length": "attention.key_length_swa",
    "attention.value_length": "attention.value_length_swa",
    "rope.dimension_count": "rope.dimension_count_swa",
}
_PER_LAYER: Final = "embedding_length_per_layer_input"
_PATTERN: Final = "attention.sliding_window_pattern"


def sizes_of(values: Config, vocabulary: int) -> dict[str, int]:
    """Sizes by the names that rules use; contradictions between head counts and widths are errors.

    values: GGUF keys without the architecture's prefix. vocabulary: rows of the token embedding. Of what differs by
    layer, the first: see `sizes_of_layers`.
    """
    values = {**values, **{key: _first(values[key]) for key in _LISTED if isinstance(values.get(key), list)}}
    hidden, layers = (_count(values, key) for key in ("embedding_length", "block_count"))
    keeps_state = bool(values.get("ssm.inner_size") or values.get("wkv.head_size"))
    state_alone = keeps_state and values.get("attention.head_count") == 0
    if state_alone:
        values = {key: value for key, value in values.items() if key != "feed_forward_length" or value != 0}
    heads, kv_heads, head = (0, 0, 0) if state_alone else _attention(values, hidden)
    compressed = _compressed(values, heads)
    if not compressed and _count(values, "attention.value_length", head) != head:
        raise PlanError(f"keys of {head} and values of {values['attention.value_length']} numbers per head")
    if head > _MOST:
        raise PlanError(f"{head} numbers per head, where no model has more than {_MOST}")
    return {
        "layers": max(layers, _count(values, "decoder_block_count", 0)),
        "hidden": hidden,
        "hidden_pair": 2 * hidden,
        "hidden_triple": 3 * hidden,
        "vocab": vocabulary,
        "heads": heads,
        "kv_heads": kv_heads,
        "head": head,
        "q": heads * head,
        "kv": kv_heads * head,
        "kv_pair": 2 * kv_heads * head,
        "qkv": (heads + 2 * kv_heads) * head,
        "query_and_gate": 2 * heads * head,
        "query_group": heads // max(1, kv_heads) * head,
        "rotary": _count(values, "rope.dimension_count", head),
        "positions": _count(values, "context_length"),
        "buckets": _count(values, "attention.relative_buckets_count", 0),
        "types": _count(values, "tokenizer.ggml.token_type_count", 0),
        "one": 1,
        **_forward(values, state_alone=state_alone),
        **_streams(values, layers, hidden),
        **_recurrent(values),
        "latent": _count(values, "moe_latent_size", hidden),
        **_receptive(values, hidden),
        "delta_head": _count(values, "kda.head_dim", 0),
        "delta": heads * _count(values, "kda.head_dim", 0),
        **compressed,
        **_compressing(values, heads, head),
    }


def _forward(values: Config, *, state_alone: bool) -> dict[str, int]:
    """Widths of feed-forward networks, and of experts how many and how wide. state_alone: there may be neither."""
    experts = 0 if values.get("expert_count") == 0 else _count(values, "expert_count", 0)
    absent = _count(values, "expert_feed_forward_length", 0) if experts else 0 if state_alone else None
    ffn = _count(values, "feed_forward_length", absent)
    if experts > _MOST:
        raise PlanError(f"{experts} experts, where no model has more than {_MOST}")
    if experts and not 0 < _count(values, "expert_used_count") <= experts:
        raise PlanError(f"{values['expert_used_count']} experts used out of {experts}")
    expert_ffn = _count(values, "expert_feed_forward_length", ffn)
    shared = _count(values, "expert_shared_count") if values.get("expert_shared_count") else 0
    shared_ffn = _count(values, "expert_shared_feed_forward_length", shared * expert_ffn if shared else ffn)
    return {
        "ffn": ffn,
        "ffn_pair": 2 * ffn,
        "ffn_half": ffn // 2,
        "experts": experts,
        "experts_used": _count(values, "expert_used_count") if experts else 0,
        "expert_ffn": expert_ffn,
        "expert_pair": 2 * expert_ffn,
        "expert_rows": experts * expert_ffn,
        "shared_ffn": shared_ffn,
        "shared_ffn_pair": 2 * shared_ffn,
        "chunk_experts": experts // _count(values, "experts_per_group", 1),
        "chunk_ffn": _count(values, "expert_chunk_feed_forward_length", 0),
    }


def _streams(values: Config, layers: int, hidden: int) -> dict[str, int]:
    """Of Gemma 3n and 4: streams beside each other, and the embeddings that layers have of their own. Of DeepSeek V4:
    streams, too, and what weighs them: into one, out of it, and from each to each."""
    streams = _count(values, "altup.num_inputs", _count(values, "hyper_connection.count", 0))
    per_layer = _count(values, _PER_LAYER) if values.get(_PER_LAYER) else 0
    return {
        "streams": streams,
        "stream_pairs": streams * streams,
        "other_streams": max(0, streams - 1),
        "all_streams": streams * hidden,
        "stream_weights": (2 + streams) * streams,
        "stream_scales": 3,
        "laurel": 64,
        "per_layer": per_layer,
        "all_per_layer": layers * per_layer,
    }


def sizes_of_layers(values: Config, vocabulary: int, layers: int) -> Sequence[Sizes]:
    """The sizes of each layer where they differ, else nothing; raises as `sizes_of` does."""
    lists = {key: listed for key in _LISTED if isinstance(listed := values.get(key), list)}
    for key, listed in lists.items():
        if len(listed) != layers:
            raise PlanError(f"metadata: {key} lists {len(listed)} layers of {layers}")
    pattern = values.get(_PATTERN)
    windowed = {key: name for key, name in _WINDOWED.items() if values.get(name) is not None}
    if windowed and not (isinstance(pattern, list) and len(pattern) >= layers):
        raise PlanError(f"metadata: {_PATTERN} does not list the {layers} layers")
    differing = {key: listed for key, listed in lists.items() if len({repr(item) for item in listed if item != 0}) > 1}
    if not differing and not windowed:
        return ()
    kinds: dict[str, Sizes] = {}
    found = []
    for n in range(layers):
        own = {key: listed[n] or _first(listed) for key, listed in differing.items()}
        if windowed and isinstance(pattern, list) and pattern[n]:
            own |= {key: values.get(name) for key, name in windowed.items()}
        kind = repr([*own.items()])
        if kind not in kinds:
            kinds[kind] = sizes_of({**values, **own}, vocabulary)
        found.append(kinds[kind])
    return found


def _first(listed: Json) -> Json:
    """The first number of a list that is not 0; 0 if none is."""
    assert isinstance(listed, list)
    return next((item for item in listed if item != 0), 0)


def _attention(values: Config, hidden: int) -> tuple[int, int, int]:
    """Heads, key/value heads, and numbers per head."""
    heads = _count(values, "attention.head_count")
    kv_heads = _count(values, "attention.head_count_kv", heads)
    if heads % kv_heads:
        raise PlanError(f"{heads} attention heads do not divide into {kv_heads} key/value heads")
    if "attention.key_length" not in values and hidden % heads:
        raise PlanError(f"an embedding of {hidden} does not divide into {heads} attention heads")
    return heads, kv_heads, _count(values, "attention.key_length", hidden // heads)


def _compressed(values: Config, heads: int) -> dict[str, int]:
    """Of latent attention: numbers of what keys and values (and queries) are compressed to, and per head what is not
    rotated of keys, and what values have; of its indexer, heads and numbers per head; nothing for other models."""
    rank = _count(values, "attention.kv_lora_rank", 0)
    if not rank:
        return {}
    key = _count(values, "attention.key_length_mla", _count(values, "attention.key_length", 0))
    usual = _count(values, "attention.value_length", _count(values, "embedding_length") // max(1, heads))
    value, rotary = _count(values, "attention.value_length_mla", usual), _count(values, "rope.dimension_count")
    index_heads, index_head = (_count(values, f"attention.indexer.{name}", 0) for name in ("head_count", "key_length"))
    if key <= rotary:
        raise PlanError(f"keys of {key} numbers per head, of which {rotary} are rotated")
    return {
        "rank": rank,
        "rank_and_rotary": rank + rotary,
        "query_rank": _count(values, "attention.q_lora_rank", 0),
        "queries": heads * key,
        "unrotated": key - rotary,
        "value": value,
        "all_unrotated": heads * (key - rotary),
        "all_values": heads * value,
        "keys_and_values": heads * (key - rotary + value),
        "index_heads": index_heads,
        "index_head": index_head,
        "index_queries": index_heads * index_head,
    }


def _compressing(values: Config, heads: int, head: int) -> dict[str, int]:
    """Of attention to compressed tokens (DeepSeek V4): numbers of what queries are compressed to, and each group of
    heads behind attention; of its indexer, heads and numbers per head; nothing for other models."""
    groups = _count(values, "attention.output_group_count", 0)
    if not groups:
        return {}
    if heads % groups:
        raise PlanError(f"{heads} attention heads do not divide into {groups} groups")
    index_heads, index_head = (_count(values, f"attention.indexer.{name}") for name in ("head_count", "key_length"))
    return {
        "query_rank": _count(values, "attention.q_lora_rank"),
        "output_group": heads // groups * head,
        "all_output_ranks": groups * _count(values, "attention.output_lora_rank"),
        "head_pair": 2 * head,
        "sparse_ratio": 4,
        "heavy_ratio": 128,
        "index_heads": index_heads,
        "index_head": index_head,
        "index_pair": 2 * index_head,
        "index_queries": index_heads * index_head,
    }


def _receptive(values: Config, hidden: int) -> dict[str, int]:
    """Of RWKV: heads, numbers per head, and between the matrices of each mixture; nothing for other models."""
    head = _count(values, "wkv.head_size", 0)
    if not head:
        return {}
    ranks = {"decay": "decay", "iclr": "iclr", "value": "value_residual_mix", "gate": "gate"}
    found = {f"{size}_rank": _count(values, f"attention.{key}_lora_rank") for size, key in ranks.items()}
    return {"wkv_head": head, "wkv_heads": hidden // head, **found}


def _recurrent(values: Config) -> dict[str, int]:
    """Of layers that keep a state instead of looking back: heads of keys and of values (which come in groups, one for
    each key head), numbers per head, values of all heads together, and the channels and width of their convolution."""
    state, keys, heads, inner = (
        _count(values, f"ssm.{key}", 0) for key in ("state_size", "group_count", "time_step_rank", "inner_size")
    )
    if keys and heads % keys:
        raise PlanError(f"{heads} value heads do not divide into {keys} key heads of linear attention")
    return {
        "state": state,
        "linear_keys": keys,
        "linear_heads": heads,
        "linear_group": heads // keys if keys else 0,
        "inner": inner,
        # numbers of a key head in one row: queries, keys, values, and the gates of values; of the last two
        "linear_units": 2 + 2 * (heads // keys) if keys else 0,
        "inner_pair": 2 * inner,
        "group_inner": inner // keys if keys else 0,
        # Mamba: what the step of time is computed from, and the two states; Mamba 2: gates, channels, steps
        "step_and_states": heads + 2 * state,
        "scanned": 2 * inner + 2 * keys * state + heads,
        "mixed": 2 * keys * state + 2 * inner,
        "linear_heads_pair": 2 * heads,
        "channels": 2 * keys * state + inner,
        "group_states": keys * state,
        "kernel": _count(values, "ssm.conv_kernel", _count(values, "shortconv.l_cache", 0)),
    }


def _count(values: Config, key: str, absent: int | None = None) -> int:
    """A positive whole number; `absent` (which may be 0) where the key is missing."""
    value = values.get(key)
    if value is None and absent is not None:
        return absent
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        what = "is missing" if value is None else f"is {shown(value)}, a number above 0 is needed"
        raise PlanError(f"{key} {what}")
    return value
