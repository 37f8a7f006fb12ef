"""The sizes that a family's shapes are made of, from its GGUF keys: the same for both directions."""

from __future__ import annotations

from typing import Final

from requant.architectures.numbers import shown
from requant.architectures.rules import Config
from requant.errors import PlanError
from requant.ir import Json

#: Above this, a count of experts or the width of a head is an accident, and a list as long would be another.
_MOST: Final = 1 << 14


def sizes_of(values: Config, vocabulary: int) -> dict[str, int]:
    """Sizes by the names that rules use; contradictions between head counts and widths are errors.

    values: GGUF keys without the architecture's prefix. vocabulary: rows of the token embedding.
    """
    hidden, layers = (_count(values, key) for key in ("embedding_length", "block_count"))
    state_alone = bool(values.get("ssm.inner_size")) and values.get("attention.head_count") == 0
    if state_alone:
        values = {key: value for key, value in values.items() if key != "feed_forward_length" or value != 0}
    heads, kv_heads, head = (0, 0, 0) if state_alone else _attention(values, hidden)
    compressed = _compressed(values, heads)
    if not compressed and _count(values, "attention.value_length", head) != head:
        raise PlanError(f"keys of {head} and values of {values['attention.value_length']} numbers per head")
    experts = 0 if values.get("expert_count") == 0 else _count(values, "expert_count", 0)
    absent = _count(values, "expert_feed_forward_length", 0) if experts else 0 if state_alone else None
    ffn = _count(values, "feed_forward_length", absent)
    for what, count in (("experts", experts), ("numbers per head", head)):
        if count > _MOST:
            raise PlanError(f"{count} {what}, where no model has more than {_MOST}")
    if experts and not 0 < _count(values, "expert_used_count") <= experts:
        raise PlanError(f"{values['expert_used_count']} experts used out of {experts}")
    expert_ffn, shared = _count(values, "expert_feed_forward_length", ffn), _count(values, "expert_shared_count", 0)
    shared_ffn = _count(values, "expert_shared_feed_forward_length", shared * expert_ffn if shared else ffn)
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
        "ffn": ffn,
        "ffn_pair": 2 * ffn,
        "ffn_half": ffn // 2,
        "expert_ffn": expert_ffn,
        "expert_pair": 2 * expert_ffn,
        "shared_ffn": shared_ffn,
        "shared_ffn_pair": 2 * shared_ffn,
        "experts": experts,
        "chunk_experts": experts // _count(values, "experts_per_group", 1),
        "chunk_ffn": _count(values, "expert_chunk_feed_forward_length", 0),
        "buckets": _count(values, "attention.relative_buckets_count", 0),
        "one": 1,
        "rotary": _count(values, "rope.dimension_count", head),
        "positions": _count(values, "context_length"),
        "query_and_gate": 2 * heads * head,
        "query_group": heads // max(1, kv_heads) * head,
        "expert_rows": experts * expert_ffn,
        **_recurrent(values),
        **compressed,
        "types": _count(values, "tokenizer.ggml.token_type_count", 0),
    }


def _attention(values: Config, hidden: int) -> tuple[int, int, int]:
    """Heads, key/value heads, and numbers per head."""
    heads = _count(values, "attention.head_count")
    kv_heads = _count({**values, **_of_attending_layers(values)}, "attention.head_count_kv", heads)
    if heads % kv_heads:
        raise PlanError(f"{heads} attention heads do not divide into {kv_heads} key/value heads")
    if "attention.key_length" not in values and hidden % heads:
        raise PlanError(f"an embedding of {hidden} does not divide into {heads} attention heads")
    return heads, kv_heads, _count(values, "attention.key_length", hidden // heads)


def _of_attending_layers(values: Config) -> dict[str, Json]:
    """Key/value heads of the layers that have any, where they are listed: the same in all of them."""
    listed = values.get("attention.head_count_kv")
    if not isinstance(listed, list):
        return {}
    found = {shown(item): item for item in listed if item != 0}
    if len(found) > 1:
        raise PlanError(f"layers of {' and '.join(list(found)[:3])} key/value heads in one model")
    return {"attention.head_count_kv": next(iter(found.values()), None)}


def _compressed(values: Config, heads: int) -> dict[str, int]:
    """Of latent attention: numbers of what keys and values (and queries) are compressed to, and per head what is not
    rotated of keys, and what values have; nothing for other models."""
    rank = _count(values, "attention.kv_lora_rank", 0)
    if not rank:
        return {}
    key, value, rotary = (
        _count(values, name)
        for name in ("attention.key_length_mla", "attention.value_length_mla", "rope.dimension_count")
    )
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
    }


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
