"""Falcon: each key/value head in one matrix with the queries that share it, attention and network side by side.

Facts: llama.cpp's conversion/falcon.py and src/models/falcon.cpp; transformers' modeling_falcon.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.changes import Parted
from requant.architectures.decoders import norm
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToHf,
    always,
    four_times,
    unsaid,
)
from requant.ir import Json, Tensor

_LAYER: Final = "{base}h.{n}."
_SECOND: Final = "blk.0.attn_norm_2.weight"


def _key_heads(config: Config) -> Json:
    """As transformers takes it: `num_kv_heads` counts in the newer architecture, or without `multi_query`."""
    if config.get("multi_query", True) and not config.get("new_decoder_architecture", False):
        return 1
    said = (config.get(name) for name in ("num_kv_heads", "n_head_kv", "num_attention_heads"))
    return next((heads for heads in said if heads is not None), None)


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    two, heads = _SECOND in tensors, sizes["kv_heads"]
    newer = two or heads > 1
    config: dict[str, Json] = {
        "num_kv_heads": heads,
        "multi_query": True,
        "new_decoder_architecture": newer,
        "num_ln_in_parallel_attn": (2 if two else 1) if newer else None,
    }
    return ToHf(config)


FALCON: Final = Family(
    model_type="falcon",
    ggml="falcon",
    classes=("FalconForCausalLM", "FalconModel", "RWForCausalLM"),
    headless=frozenset({"FalconModel"}),
    bases=("transformer.", ""),
    rules=(
        Rule("{base}word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        *norm(_LAYER + "input_layernorm", "blk.{n}.attn_norm", bias=True, when="!two_norms"),
        *norm(_LAYER + "ln_mlp", "blk.{n}.attn_norm", bias=True, when="two_norms"),
        *norm(_LAYER + "ln_attn", "blk.{n}.attn_norm_2", bias=True, when="two_norms"),
        Rule(
            _LAYER + "self_attention.query_key_value.weight",
            "blk.{n}.attn_qkv.weight",
            ("qkv", "hidden"),
            changes=(Parted("kv_heads", ("query_group", "head", "head")),),
        ),
        Rule(_LAYER + "self_attention.dense.weight", "blk.{n}.attn_output.weight", ("hidden", "hidden")),
        Rule(_LAYER + "mlp.dense_h_to_4h.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden")),
        Rule(_LAYER + "mlp.dense_4h_to_h.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
        *norm("{base}ln_f", "output_norm", bias=True),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
    ),
    keys=(
        Key(("num_hidden_layers", "n_layer"), "block_count", "u32", always(32)),
        Key(("max_position_embeddings",), "context_length", "u32", always(2048)),
        Key(("hidden_size", "n_embed"), "embedding_length", "u32", always(4544)),
        Key(("ffn_hidden_size",), "feed_forward_length", "u32", default=four_times("hidden_size")),
        Key(("num_attention_heads", "n_head"), "attention.head_count", "u32", always(71)),
        Key((), "attention.head_count_kv", "u32", default=_key_heads),
        Key(("layer_norm_epsilon",), "attention.layer_norm_epsilon", "f32", always(1e-5)),
        # what a layout of queries, keys and values by their kind is called
        Key((), "tensor_data_layout", "str", always("jploski"), always("jploski")),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("activation", ("gelu",), "gelu"),
        Assumption("alibi", (False,), False),
        Assumption("bias", (False,), False),
        Assumption("parallel_attn", (True,), True),
    ),
    present={"two_norms": r"\.ln_attn\.weight"},
    ignored=(Ignored(r".*\.(rotary_emb|rotary)\.inv_freq", "computed from the rope parameters"),),
    irregular=(Rope(theta=10000.0).pair(), Irregular(unsaid, _to_hf)),
    tied=True,
    other_types=("RefinedWeb", "RefinedWebModel"),
)
