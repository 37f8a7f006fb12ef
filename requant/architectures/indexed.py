"""DeepSeek V3.2 and GLM-5: latent attention to the tokens that an indexer of each layer chooses.

The indexer's heads are rotated in halves in HF as in ggml (DeepSeek), or in pairs in both (GLM). GLM-5.2 has layers
that take the choice of the last one with an indexer. Facts: llama.cpp's conversion/deepseek.py, glm.py and
src/models/deepseek32.cpp, glm-dsa.cpp; transformers' modeling_deepseek_v32.py and modeling_glm_moe_dsa.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures import ahead, mixture
from requant.architectures.decoders import ATTN, decoder, norm
from requant.architectures.deepseek import ATTENTION, CORRECTION, latent_keys
from requant.architectures.llama import NORMS, SILU, TRUNK
from requant.architectures.numbers import number, shown
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    defaulting,
    unsaid,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor

_INDEXER: Final = ATTN + "indexer."
_TYPES: Final = "attention.indexer.types"
_FULL: Final = "full"
#: As GLM-5.2 counts: one layer in so many has an indexer, behind the first ones, which all have.
_PERIOD: Final = "index_topk_freq"
_BEHIND: Final = "index_skip_topk_offset"


def _indexer(when: str) -> tuple[Rule, ...]:
    return (
        Rule(_INDEXER + "wq_b.weight", "blk.{n}.indexer.attn_q_b.weight", ("index_queries", "query_rank"), when=when),
        Rule(_INDEXER + "wk.weight", "blk.{n}.indexer.attn_k.weight", ("index_head", "hidden"), when=when),
        *norm(_INDEXER + "k_norm", "blk.{n}.indexer.k_norm", "index_head", bias=True, when=when),
        Rule(_INDEXER + "weights_proj.weight", "blk.{n}.indexer.proj.weight", ("index_heads", "hidden"), when=when),
    )


def _rules(indexer: str) -> tuple[Rule, ...]:
    """indexer: the flag of layers that have one."""
    return (
        *TRUNK,
        *NORMS,
        *(rule for rule in ATTENTION if rule.when != "!compressed_queries"),
        *_indexer(indexer),
        *mixture.DENSE_MLP,
        *mixture.SPARSE_EXPERTS,
        *mixture.shared_expert("shared_experts"),
        CORRECTION,
        *ahead.RULES,
    )


def _keys(heads: int, dense: int, latent: tuple[Key, ...]) -> tuple[Key, ...]:
    """heads: how many an indexer has where config.json does not say; dense: layers without experts."""
    return (
        ahead.BLOCKS,
        *(key for key in latent if key.ggml != "block_count"),
        Key((), mixture.LEADING, "u32", mixture.leading_dense(dense)),
        Key(("index_n_heads",), "attention.indexer.head_count", "u32", always(heads)),
        Key(("index_head_dim",), "attention.indexer.key_length", "u32", always(128)),
        Key(("index_topk",), "attention.indexer.top_k", "u32", always(2048)),
        ahead.AHEAD_IF_ANY,
    )


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    heads = number(config, "num_key_value_heads", sizes["heads"])
    if heads != sizes["heads"]:
        raise PlanError(
            f"config.json: num_key_value_heads is {heads:g}; latent attention has as many as {sizes['heads']}"
        )
    if not sizes["query_rank"]:
        raise PlanError("config.json: q_lora_rank is null; llama.cpp's indexer takes compressed queries")
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"qk_nope_head_dim": sizes["unrotated"], "num_key_value_heads": sizes["heads"]})


_SHAPES: Final = Irregular(_to_ggml, _to_hf)


def _types(config: Config) -> Json:
    """Which layers have an indexer, as config.json or its schedule says: all of them where neither does."""
    listed, layers = config.get("indexer_types"), int(number(config, "num_hidden_layers"))
    if listed is None:
        listed = config.get("index_topk_pattern")
        listed = [{"F": _FULL}.get(letter, "shared") for letter in listed] if isinstance(listed, str) else listed
    if listed is None:
        period, behind = int(number(config, _PERIOD, 1)), int(number(config, _BEHIND, 2))
        if period < 1:
            raise PlanError(f"config.json: {_PERIOD} is {period}, a number above 0 is needed")
        return [max(n - behind + 1, 0) % period == 0 for n in range(min(layers, 1 << 16))]
    if not isinstance(listed, list) or len(listed) != layers:
        raise PlanError(f"config.json: indexer_types is {shown(listed)}, a list for {layers} layers is needed")
    return [kind == _FULL for kind in listed]


def _types_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    layers = sizes["layers"] - int(number(values, "nextn_predict_layers", 0))
    listed = values.get(_TYPES)
    if listed is None:  # llama.cpp has a list of its own for a long context, and all layers for others
        listed = [f"blk.{n}.indexer.attn_k.weight" in tensors for n in range(layers)]
    if not isinstance(listed, list) or len(listed) < layers:
        raise PlanError(f"metadata: {_TYPES} does not list the {layers} layers")
    types: Json = [_FULL if kind else "shared" for kind in listed[:layers]]
    return ToHf({"indexer_types": types})


_CHOICES: Final = (
    SILU,
    Assumption("attention_bias", (False,), False),
    Assumption("mlp_bias", (False,), False),
    Assumption("scoring_func", ("sigmoid",), "sigmoid", written=False),
    Assumption("topk_method", ("noaux_tc",), "noaux_tc", written=False),
    Assumption("moe_layer_freq", (1,), 1, written=False),
)

DEEPSEEK32: Final[Family] = replace(
    decoder(
        "DeepseekV32",
        "deepseek_v32",
        "deepseek32",
        _rules(""),
        _keys(64, 3, latent_keys(mixture.SIGMOID, 2.5, True, (8, 4))),
        (Rope(theta=10000.0, multiplied=0.1).pair(), _SHAPES, mixture.LISTED, ahead.COUNTED),
        assumptions=_CHOICES,
    ),
    layers={**mixture.dense_layers(), **ahead.AHEAD_LAYERS},
    present={"compressed_queries": r"\.q_a_proj\.weight", **ahead.PRESENT},
)
GLM_DSA: Final[Family] = replace(
    decoder(
        "GlmMoeDsa",
        "glm_moe_dsa",
        "glm-dsa",
        _rules("indexed"),
        (
            *_keys(
                32,
                3,
                defaulting(
                    latent_keys(mixture.SIGMOID, 2.5, True, (1, 1)), rms_norm_eps=1e-5, q_lora_rank=2048, v_head_dim=256
                ),
            ),
            Key((), _TYPES, "[bool]", default=_types, implied=always(None)),
        ),
        (Rope(theta=10000.0).pair(), _SHAPES, mixture.LISTED, ahead.COUNTED, Irregular(unsaid, _types_back)),
        assumptions=_CHOICES,
    ),
    layers={**mixture.dense_layers(), **ahead.AHEAD_LAYERS},
    present=DEEPSEEK32.present,
    told={"indexed": (_INDEXER + "wk.weight", "blk.{n}.indexer.attn_k.weight")},
)
