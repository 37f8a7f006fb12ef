"""GPT-NeoX (Pythia, Dolly) and BLOOM: queries, keys and values of each head side by side in HF.

Facts: llama.cpp's conversion/gptneox.py, bloom.py and src/models/gptneox.cpp, bloom.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.changes import Grid
from requant.architectures.numbers import number, positive
from requant.architectures.rope import parameters, rotary
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    four_times,
    module,
    same_as,
)
from requant.encodings import F16
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed

_BY_PART: Final = Grid(("heads", 3, "head"), (1, 0, 2))
_THETA: Final = "rope.freq_base"


def _layer(layer: str, attention: str) -> tuple[Rule, ...]:
    """The same in both. layer: its name; attention: of its attention."""
    return (
        *module(f"{layer}input_layernorm", "blk.{n}.attn_norm", ("hidden",)),
        *module(f"{attention}query_key_value", "blk.{n}.attn_qkv", ("qkv", "hidden"), changes=(_BY_PART,)),
        *module(f"{attention}dense", "blk.{n}.attn_output", ("hidden", "hidden")),
        *module(f"{layer}post_attention_layernorm", "blk.{n}.ffn_norm", ("hidden",)),
        *module(f"{layer}mlp.dense_h_to_4h", "blk.{n}.ffn_up", ("ffn", "hidden")),
        *module(f"{layer}mlp.dense_4h_to_h", "blk.{n}.ffn_down", ("hidden", "ffn")),
    )


def _older(config: Config) -> dict[str, Json]:
    """The rope parameters, which the first releases say under names of their own."""
    found = parameters(config, number(config, "rotary_emb_base", 10000.0))
    part = config.get("rotary_pct", 0.25)
    return {**found, "partial_rotary_factor": found.get("partial_rotary_factor", part)}


def _rotary(config: Config) -> Json:
    return rotary(0.25)({**config, "rope_parameters": _older(config), "rope_scaling": None})


def _rope(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    found = _older(config)
    if found["rope_type"] != "default":
        raise PlanError(f"config.json: rope type {found['rope_type']!r}; llama.cpp has no scaling for this model")
    theta = positive(found, "rope_theta")
    return ToGgml({} if theta == 10000 else {_THETA: Typed("f32", theta)})


def _rope_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    theta, part = positive(values, _THETA, 10000.0), sizes["rotary"] / sizes["head"]
    rope: Json = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": part}
    config: dict[str, Json] = {"rope_parameters": rope, "rotary_pct": part, "rotary_emb_base": theta}
    return ToHf(config, keys=frozenset({_THETA}))


GPT_NEOX: Final = Family(
    model_type="gpt_neox",
    ggml="gptneox",
    classes=("GPTNeoXForCausalLM",),
    headless=frozenset(),
    bases=("gpt_neox.",),
    rules=(
        Rule("{base}embed_in.weight", "token_embd.weight", ("vocab", "hidden")),
        *_layer("{base}layers.{n}.", "{base}layers.{n}.attention."),
        *module("{base}final_layer_norm", "output_norm", ("hidden",)),
        Rule("embed_out.weight", "output.weight", ("vocab", "hidden"), when="untied"),
    ),
    keys=(
        Key(("num_hidden_layers",), "block_count", "u32", always(44)),
        Key(("max_position_embeddings",), "context_length", "u32", always(2048)),
        Key(("hidden_size",), "embedding_length", "u32", always(6144)),
        Key(("intermediate_size",), "feed_forward_length", "u32", always(24576)),
        Key(("num_attention_heads",), "attention.head_count", "u32", always(64)),
        Key((), "rope.dimension_count", "u32", default=_rotary),
        Key(("use_parallel_residual",), "use_parallel_residual", "bool", always(True)),
        Key(("layer_norm_eps",), "attention.layer_norm_epsilon", "f32", always(1e-5)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("hidden_act", ("gelu",), "gelu"),
        Assumption("attention_bias", (True,), True),
    ),
    ignored=(
        Ignored(r".*\.attention\.(bias|masked_bias)", "the causal mask, which is the same for every model"),
        Ignored(r".*\.rotary_emb\.inv_freq", "computed from the rope parameters"),
    ),
    irregular=(Irregular(_rope, _rope_back),),
    half=F16,
)


BLOOM: Final = Family(
    model_type="bloom",
    ggml="bloom",
    classes=("BloomForCausalLM", "BloomModel"),
    headless=frozenset({"BloomModel"}),
    bases=("transformer.", ""),
    rules=(
        Rule("{base}word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        *module("{base}word_embeddings_layernorm", "token_embd_norm", ("hidden",)),
        *_layer("{base}h.{n}.", "{base}h.{n}.self_attention."),
        *module("{base}ln_f", "output_norm", ("hidden",)),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
    ),
    keys=(
        Key(("n_layer", "num_hidden_layers"), "block_count", "u32", always(2)),
        Key(("hidden_size", "n_embed"), "embedding_length", "u32", always(64)),
        # no position is too far for its biases; as llama.cpp's converter guesses where config.json is silent
        Key(("seq_length",), "context_length", "u32", default=same_as("hidden_size")),
        Key(
            (),
            "feed_forward_length",
            "u32",
            default=four_times("hidden_size"),
            implied=four_times("embedding_length"),
        ),
        Key(("n_head", "num_attention_heads"), "attention.head_count", "u32", always(8)),
        Key((), "attention.head_count_kv", "u32", same_as("n_head"), same_as("attention.head_count")),
        Key(("layer_norm_epsilon",), "attention.layer_norm_epsilon", "f32", always(1e-5)),
    ),
    embedding="token_embd.weight",
    assumptions=(Assumption("apply_residual_connection_post_layernorm", (False,), False),),
    tied=True,
)
