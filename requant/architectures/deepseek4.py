"""DeepSeek V4: several streams of hidden states, attention to a window and to what is compressed of all before it.

A layer sees its window alone, or beside it what every 4 tokens are compressed to, of which an indexer chooses, or every
128. Keys are values, of one head; a block of heads each has a matrix of its own behind attention. The first layers
choose experts by a table of tokens. Names of tensors are the release's, which transformers keeps as well, but for a
few. Facts: llama.cpp's conversion/deepseek.py and src/models/deepseek4.cpp; transformers' modeling_deepseek_v4.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.changes import Words
from requant.architectures.decoders import LAYER, SIZES, decoder, norm, rms_norm_eps
from requant.architectures.experts import expert_rules
from requant.architectures.llama import SILU
from requant.architectures.numbers import number, shown
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import (
    MMPROJ,
    Assumption,
    Config,
    Default,
    Family,
    Ignored,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    same_as,
    unsaid,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor
from requant.sources import read

_ATTN: Final = LAYER + "attn."
_FFN: Final = LAYER + "ffn."
_SQRT_SOFTPLUS: Final = 4
_RATIOS: Final = "attention.compress_ratios"
_BASE: Final = "attention.compress_rope_freq_base"
_HASHED: Final = "hash_layer_count"
_LIMITS: Final = ("swiglu_clamp_exp", "swiglu_clamp_shexp")
#: Tokens that become one, by transformers' words for layers.
_OF_TYPES: Final[Mapping[str, int]] = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}
#: What transformers says of them again.
_RATES: Final[Json] = {kind: ratio for kind, ratio in _OF_TYPES.items() if ratio}


def _parameter(hf: str, ggml: str, shape: tuple[str, ...], when: str = "") -> Rule:
    return Rule(LAYER + hf, f"blk.{{n}}.{ggml}.weight", shape, when=when)


def _weight(hf: str, ggml: str, shape: tuple[str, ...], when: str = "") -> Rule:
    return _parameter(hf + ".weight", ggml, shape, when)


def _mixed(part: str) -> tuple[Rule, ...]:
    """How one half of a layer takes its input from the streams and gives its output to them."""
    sizes = {"fn": ("stream_weights", "all_streams"), "base": ("stream_weights",), "scale": ("stream_scales",)}
    return tuple(_parameter(f"hc_{part}_{name}", f"hc_{part}_{name}", shape) for name, shape in sizes.items())


def _compressor(hf: str, ggml: str, width: str, head: str, ratio: str, when: str) -> tuple[Rule, ...]:
    """What makes one of several tokens. width: of what it sums up; head: of the result; ratio: how many tokens."""
    return (
        _weight(f"{hf}.wkv", f"{ggml}_kv", (width, "hidden"), when),
        _weight(f"{hf}.wgate", f"{ggml}_gate", (width, "hidden"), when),
        _parameter(f"{hf}.ape", f"{ggml}_ape", (ratio, width), when),
        _weight(f"{hf}.norm", f"{ggml}_norm", (head,), when),
    )


#: Layers whose indexer chooses among what 4 tokens each are compressed to.
_SPARSE: Final = "compressed+sparse"
_COMPRESSORS: Final = (
    *_compressor("attn.compressor", "attn_compressor", "head_pair", "head", "sparse_ratio", _SPARSE),
    *_compressor("attn.compressor", "attn_compressor", "head", "head", "heavy_ratio", "compressed+!sparse"),
    *_compressor("attn.indexer.compressor", "indexer_compressor", "index_pair", "index_head", "sparse_ratio", _SPARSE),
    _weight("attn.indexer.wq_b", "indexer.attn_q_b", ("index_queries", "query_rank"), _SPARSE),
    _weight("attn.indexer.weights_proj", "indexer.proj", ("index_heads", "hidden"), _SPARSE),
)
_TABLE: Final = replace(
    _parameter("ffn.gate.tid2eid", "ffn_gate_tid2eid", ("vocab", "experts_used"), "hashed"), changes=(Words(),)
)
_RULES: Final = (
    Rule("{base}embed.weight", "token_embd.weight", ("vocab", "hidden")),
    Rule("{base}norm.weight", "output_norm.weight", ("hidden",)),
    Rule("{base}hc_head_fn", "output_hc_fn.weight", ("streams", "all_streams")),
    Rule("{base}hc_head_base", "output_hc_base.weight", ("streams",)),
    Rule("{base}hc_head_scale", "output_hc_scale.weight", ("one",)),
    Rule("head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
    *norm(LAYER + "attn_norm", "blk.{n}.attn_norm"),
    *norm(LAYER + "ffn_norm", "blk.{n}.ffn_norm"),
    *_mixed("attn"),
    *_mixed("ffn"),
    _weight("attn.wq_a", "attn_q_a", ("query_rank", "hidden")),
    *norm(_ATTN + "q_norm", "blk.{n}.attn_q_a_norm", "query_rank"),
    _weight("attn.wq_b", "attn_q_b", ("q", "query_rank")),
    _weight("attn.wkv", "attn_kv", ("head", "hidden")),
    *norm(_ATTN + "kv_norm", "blk.{n}.attn_kv_a_norm", "head"),
    _parameter("attn.attn_sink", "attn_sinks", ("heads",)),
    _weight("attn.wo_a", "attn_output_a", ("all_output_ranks", "output_group")),
    _weight("attn.wo_b", "attn_output_b", ("hidden", "all_output_ranks")),
    *_COMPRESSORS,
    *expert_rules(_FFN, "expert_ffn", ("w1", "w2", "w3"), memory=LAYER + "mlp."),
    _TABLE,
    Rule(_FFN + "gate.bias", "blk.{n}.exp_probs_b.bias", ("experts",), when="!hashed"),
    Rule(_FFN + "gate.bias_vl", "blk.{n}.exp_probs_b_vl.bias", ("experts",), optional=True),
    _weight("ffn.shared_experts.w1", "ffn_gate_shexp", ("shared_ffn", "hidden")),
    _weight("ffn.shared_experts.w2", "ffn_down_shexp", ("hidden", "shared_ffn")),
    _weight("ffn.shared_experts.w3", "ffn_up_shexp", ("shared_ffn", "hidden")),
)


def _ratios(config: Config) -> Json:
    """Of each layer, how many tokens become one: as transformers 5 lists the layers, or as the release does."""
    types = config.get("layer_types")
    if types is None:
        listed = config.get("compress_ratios")
        return listed if listed is not None else _usual(int(number(config, "num_hidden_layers")))
    if not isinstance(types, list) or any(not isinstance(kind, str) or kind not in _OF_TYPES for kind in types):
        raise PlanError(f"config.json: layer_types is {shown(types)}, a list of {', '.join(_OF_TYPES)} is needed")
    return [_OF_TYPES[kind] for kind in types if isinstance(kind, str)]


def _usual(layers: int) -> Json:
    """transformers' choice where config.json says nothing: the first two the same, then one and the other in turn."""
    return [4 if n > 1 and n % 2 else 128 for n in range(min(layers, 1 << 16))]


def _hashed(config: Config) -> Json:
    """The layers that choose experts by the token: the first ones."""
    types = config.get("mlp_layer_types")
    if types is None:
        said = config.get("num_hash_layers")
        return min(3, int(number(config, "num_hidden_layers"))) if said is None else said
    if not isinstance(types, list) or any(kind not in ("hash_moe", "moe") for kind in types):
        raise PlanError(f"config.json: mlp_layer_types is {shown(types)}, a list of hash_moe and moe is needed")
    first = next((n for n, kind in enumerate(types) if kind != "hash_moe"), len(types))
    if "hash_moe" in types[first:]:
        raise PlanError("config.json: mlp_layer_types: llama.cpp knows hash_moe layers before the first other one only")
    return first


def _with_ratio(*ratios: int) -> Callable[[Config], Sequence[bool]]:
    """`Family.layers`: those of these ratios."""

    def found(values: Config) -> Sequence[bool]:
        listed, layers = values.get(_RATIOS), values.get("block_count")
        known = set(_OF_TYPES.values())
        if not isinstance(listed, list) or not isinstance(layers, int):
            raise PlanError(f"{_RATIOS} is {shown(listed)}, a list of a number for each layer is needed")
        if len(listed) < layers or any(item not in known for item in listed):
            raise PlanError(f"{_RATIOS} is {shown(listed)}; {layers} layers need one of {sorted(known)} each")
        return [item in ratios for item in listed[:layers]]

    return found


def _before(values: Config) -> Sequence[bool]:
    layers, hashed = values.get("block_count"), values.get(_HASHED)
    if not isinstance(layers, int) or not isinstance(hashed, int):
        raise PlanError(f"{_HASHED} is {shown(hashed)}, a whole number is needed")
    return [n < hashed for n in range(min(layers, 1 << 16))]


def _times(one: str, other: str) -> Default:
    """A product of two settings."""
    return lambda config: int(number(config, one)) * int(number(config, other))


def _limits(config: Config) -> Json:
    layers = min(int(number(config, "num_hidden_layers")), 1 << 16)
    return [number(config, "swiglu_limit", 10.0)] * layers


def _rotations(config: Config) -> tuple[Config, Config]:
    """Rope parameters of layers that see their window alone, and of the others."""
    written = config.get("rope_parameters")
    parts = [written.get(name) for name in ("main", "compress")] if isinstance(written, dict) else []
    main, compress = parts if len(parts) == 2 else (None, None)
    if isinstance(main, dict) and isinstance(compress, dict):
        return main, compress
    return {"rope_theta": config.get("rope_theta", 10000.0)}, {
        "rope_theta": config.get("compress_rope_theta", 160000.0)
    }


def _rotated(config: Config) -> Json:
    """Numbers per head that are rotated: a part of them as transformers 5 says, or as many as the release does."""
    part = config.get("partial_rotary_factor")
    said = config.get("qk_rope_head_dim") if part is None else None
    return rotary(64 / 512)(config) if said is None else said


def _compressed_base(config: Config) -> Json:
    return number(_rotations(config)[1], "rope_theta", 160000.0)


_ROPE: Final = Rope(theta=10000.0, in_part=64 / 512)


def _rope_to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    """One scaling, of what is compressed; transformers, like llama.cpp, leaves its cosines and sines as they are."""
    main, compress = _rotations(config)
    if main.get("rope_type", "default") != "default":
        raise PlanError(
            f"config.json: rope_type {shown(main['rope_type'])} in layers that see a window; llama.cpp scales others"
        )
    written = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = compress if "rope_type" in compress else written if isinstance(written, dict) else {}
    if number(scaling, "attention_factor", 1.0) != 1:
        raise PlanError("config.json: attention_factor is not 1; llama.cpp has 1 in this architecture")
    flat: dict[str, Json] = {key: value for key, value in scaling.items() if key != "attention_factor"}
    flat["rope_theta"] = main.get("rope_theta", 10000.0)
    return _ROPE.to_ggml(checkpoint, {**config, "rope_parameters": flat}, sizes)


def _checked(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    """What llama.cpp would stop at: heads as wide as the indexer's, and tables that name experts that are not there."""
    if sizes["head"] == sizes["index_head"]:
        raise PlanError(
            f"config.json: head_dim and index_head_dim are both {sizes['head']}; llama.cpp tells the caches of the two "
            "apart by that",
            hint="a GGUF of it would stop llama.cpp when it is loaded (it divides by zero)",
        )
    for tensor in checkpoint.tensors:
        if tensor.name.endswith(".ffn.gate.tid2eid"):
            _check_table(tensor, sizes["experts"])
    return ToGgml()


def _check_table(tensor: Tensor, experts: int) -> None:
    dtype = {"I32": "<i4", "I64": "<i8"}.get(tensor.encoding.label)
    if dtype is None:
        raise PlanError(f"tensor {tensor.name!r} is {tensor.encoding.label}; numbers of experts are I64 or I32")
    numbers = read(tensor.sources["data"]).view(dtype)
    wrong = numbers[(numbers < 0) | (numbers >= experts)]
    if wrong.size:
        raise PlanError(f"tensor {tensor.name!r} sends a token to expert {wrong[0]}, of {experts} that there are")


def _limited(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    """The one limit of all layers."""
    found = [values.get(key) for key in _LIMITS]
    listed = [item for one in found for item in (one if isinstance(one, list) else [one]) if item is not None]
    if not listed or any(item != listed[0] for item in listed):
        raise PlanError(f"metadata: {_LIMITS[0]} and {_LIMITS[1]} are {shown(listed)}; one limit for all is needed")
    return ToHf({"swiglu_limit": listed[0]})


def _listed(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    """The layers, what is rotated, and the base of what is compressed, as the release has them."""
    return ToHf(
        {
            "qk_rope_head_dim": sizes["rotary"],
            "compress_ratios": values.get(_RATIOS),
            "num_hash_layers": values.get(_HASHED),
            "compress_rope_theta": number(values, _BASE),
        }
    )


DEEPSEEK4: Final[Family] = replace(
    decoder(
        "DeepseekV4",
        "deepseek_v4",
        "deepseek4",
        _RULES,
        (
            *(key for key in SIZES if key.ggml not in ("feed_forward_length", "attention.head_count_kv")),
            rms_norm_eps(1e-6),
            Key(("num_key_value_heads",), "attention.head_count_kv", "u32", always(1)),
            Key(("head_dim",), "attention.key_length", "u32", always(512)),
            Key((), "attention.value_length", "u32", same_as("head_dim"), same_as("attention.key_length")),
            Key((), "rope.dimension_count", "u32", default=_rotated),
            Key(("q_lora_rank",), "attention.q_lora_rank", "u32", always(1024)),
            Key(("o_groups",), "attention.output_group_count", "u32", always(8)),
            Key(("o_lora_rank",), "attention.output_lora_rank", "u32", always(1024)),
            Key(("sliding_window",), "attention.sliding_window", "u32", always(128)),
            Key((), _RATIOS, "[i32]", default=_ratios),
            Key((), _BASE, "f32", default=_compressed_base),
            Key(("index_n_heads",), "attention.indexer.head_count", "u32", always(64)),
            Key(("index_head_dim",), "attention.indexer.key_length", "u32", always(128)),
            Key(("index_topk",), "attention.indexer.top_k", "u32", always(512)),
            *mixture.counts(256, 6, "n_routed_experts", "num_local_experts", ffn=always(2048)),
            Key(("n_shared_experts",), "expert_shared_count", "u32", always(1)),
            Key(("routed_scaling_factor",), "expert_weights_scale", "f32", always(1.5)),
            Key((), "expert_weights_norm", "bool", always(True), always(True)),
            mixture.gating(_SQRT_SOFTPLUS),
            *(Key((), limit, "[f32]", default=_limits) for limit in _LIMITS),
            Key((), _HASHED, "u32", default=_hashed),
            Key(("hc_mult",), "hyper_connection.count", "u32", always(4)),
            Key(("hc_sinkhorn_iters",), "hyper_connection.sinkhorn_iterations", "u32", always(20)),
            Key(("hc_eps",), "hyper_connection.epsilon", "f32", always(1e-6)),
            Key((), "embedding_length_out", "u32", default=_times("hidden_size", "hc_mult")),
        ),
        (
            Irregular(_rope_to_ggml, _ROPE.to_hf),
            Irregular(_checked, _limited),
            Irregular(unsaid, _listed),
        ),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("mlp_bias", (False,), False, written=False),
            Assumption("num_key_value_heads", (1,), 1, written=False),
            Assumption("hc_mult", (4,), 4, written=False),
            Assumption("scoring_func", ("sqrtsoftplus",), "sqrtsoftplus"),
            Assumption("norm_topk_prob", (True,), True),
            Assumption("topk_method", ("noaux_tc",), "noaux_tc"),
            Assumption("compress_rates", (_RATES,), _RATES, written=False),
            Assumption("compress_rate_csa", (4,), 4, written=False),
            Assumption("compress_rate_hca", (128,), 128, written=False),
        ),
    ),
    bases=("", "model."),
    layers={"compressed": _with_ratio(4, 128), "sparse": _with_ratio(4), "hashed": _before},
    ignored=(
        Ignored(r"(model\.)?mtp\..*", "a layer that predicts more than one token ahead", lost=True),
        Ignored(
            r"(model\.)?layers\.\d+\.ffn\.gate\.bias",
            "a layer that chooses experts by the token has no use for it",
            lost=True,
        ),
        Ignored(r"(vision|aligner)\..*|image_\w+(\..*)?", MMPROJ, lost=True),
    ),
    # transformers saves a few by other names than it reads
    renamed=(
        ("embed_tokens.weight", "embed.weight"),
        ("hc_head.hc_fn", "hc_head_fn"),
        ("hc_head.hc_base", "hc_head_base"),
        ("hc_head.hc_scale", "hc_head_scale"),
        (".attn.norm.weight", ".attn.kv_norm.weight"),
    ),
)
