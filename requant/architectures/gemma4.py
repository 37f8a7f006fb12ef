"""Gemma 4: heads of one width in layers with a window and of another in those that see all, whose values may be their
keys; layers that use the keys and values of earlier ones; an embedding for every layer; and networks beside experts.

Layers that see all rotate a part of each head ("proportional"): a GGUF has factors of 1 for what is rotated and 1e30
for the rest. Facts: llama.cpp's conversion/gemma.py and src/models/gemma4.cpp; transformers' modeling_gemma4.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from requant.architectures.attending import KV_HEADS, layers_of
from requant.architectures.decoders import ATTN, LAYER, decoder, norm
from requant.architectures.few import few
from requant.architectures.llama import BUFFERS, MLP, TRUNK
from requant.architectures.numbers import number, positive, shortest
from requant.architectures.rules import (
    MMPROJ,
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
    defaulting,
    never,
    same_as,
)
from requant.architectures.windows import FULL, PATTERN, SLIDING, WINDOW, layer_types, windowed
from requant.encodings import F32
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.sources import Memory

#: How many layers use the keys and values of earlier ones.
SHARED: Final = "attention.shared_kv_layers"
_FACTORS: Final = "rope_freqs.weight"
#: What llama.cpp divides frequencies by that shall not turn.
_STILL: Final = 1e30
_PERIOD: Final = 6
_PART: Final = 0.25


def _windows(config: Config) -> list[bool]:
    return windowed(config, layers_of(config), _PERIOD)


def _of_full_layers(config: Config, key: str) -> Json:
    """What config.json says of layers that see all: by its own name, or as transformers 5 has it, for each."""
    own = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}[key]
    if config.get(own) is not None:
        return config[own]
    overrides = config.get("per_layer_config")
    if not isinstance(overrides, dict):
        return None
    said = [overrides.get(str(n)) for n, windowed in enumerate(_windows(config)) if not windowed]
    found = [item.get(key) for item in said if isinstance(item, dict)]
    if any(item != found[0] for item in found):
        raise PlanError(f"config.json: per_layer_config: layers that see all differ in {key}")
    return found[0] if found else None


def _head(config: Config) -> Json:
    said = _of_full_layers(config, "head_dim")
    return 512 if said is None else said


def _kv_heads(config: Config) -> Json:
    usual = config.get("num_key_value_heads", 4)
    full = _of_full_layers(config, "num_key_value_heads") if config.get("attention_k_eq_v") else None
    return usual if full is None else [usual if windowed else full for windowed in _windows(config)]


def _width(config: Config) -> Json:
    """Twice as wide in layers that share keys and values, where config.json says so."""
    usual, layers = config.get("intermediate_size", 9216), layers_of(config)
    if not config.get("use_double_wide_mlp"):
        return usual
    shared = int(number(config, "num_kv_shared_layers", 0))
    width = int(number({"intermediate_size": usual}, "intermediate_size"))
    return [2 * width if n >= layers - shared else width for n in range(layers)]


def _sliding(values: Config) -> Sequence[bool]:
    pattern = values.get(PATTERN)
    return [bool(item) for item in pattern] if isinstance(pattern, list) else []  # which `sizes_of_layers` reports


def _sharing(values: Config) -> Sequence[bool]:
    layers, shared = values.get("block_count"), values.get(SHARED, 0)
    if not isinstance(layers, int) or not isinstance(shared, int):
        return []  # which `sizes_of` reports
    return [n >= layers - shared for n in range(min(layers, 1 << 16))]


#: `Family.layers`: which see only a window, and which use the keys and values of earlier ones.
KINDS: Final[Mapping[str, Callable[[Config], Sequence[bool]]]] = {"slides": _sliding, "shares": _sharing}


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    rope = config.get("rope_parameters")
    said = rope if isinstance(rope, dict) else {}
    full, local = said.get(FULL), said.get(SLIDING)
    full = full if isinstance(full, dict) else {"rope_type": "proportional", "partial_rotary_factor": _PART}
    local = local if isinstance(local, dict) else {}
    for kind, only, of in ((FULL, "proportional", full), (SLIDING, "default", local)):
        if of.get("rope_type", only) != only or of.get("factor", 1.0) != 1.0:
            raise PlanError(f"config.json: rope_parameters.{kind}: llama.cpp knows {only!r} there, unscaled")
    if number(local, "partial_rotary_factor", 1.0) != 1:
        raise PlanError(f"config.json: rope_parameters.{SLIDING}: llama.cpp rotates whole heads there")
    half = sizes["head"] // 2
    turning = int(number(full, "partial_rotary_factor", 1.0) * sizes["head"] / 2)
    if not 0 <= turning <= half:
        raise PlanError(f"config.json: rope_parameters.{FULL}: {turning} of {half} pairs are rotated")
    values = {
        "rope.freq_base": Typed("f32", positive(full, "rope_theta", 1_000_000.0)),
        "rope.freq_base_swa": Typed("f32", positive(local, "rope_theta", 10_000.0)),
    }
    factors = np.array([1.0] * turning + [_STILL] * (half - turning), "<f4")
    return ToGgml(values, (Tensor(_FACTORS, factors.shape, F32, {"data": Memory(factors.tobytes())}),))


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    if _FACTORS not in tensors or tensors[_FACTORS].shape != (sizes["head"] // 2,):
        raise PlanError(f"tensor {_FACTORS!r} is missing, or has not {sizes['head'] // 2} numbers")
    factors = few(tensors[_FACTORS])
    turning = int((factors == 1).sum())
    if turning + (factors >= np.float32(_STILL)).sum() != len(factors) or (factors[:turning] != 1).any():
        raise UnsupportedError(f"tensor {_FACTORS!r} scales frequencies; in Gemma 4 some turn and others do not")
    windows = [*_sliding(values)]
    heads, kv_heads = sizes["head"], values.get(KV_HEADS, sizes["kv_heads"])
    full: dict[str, Json] = {"head_dim": heads}
    config: dict[str, Json] = {
        "layer_types": layer_types(windows),
        "global_head_dim": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": sizes["ffn"],
        "use_double_wide_mlp": isinstance(values.get("feed_forward_length"), list),
        "rope_parameters": {
            FULL: {
                "rope_type": "proportional",
                "partial_rotary_factor": 2 * turning / heads,
                "rope_theta": shortest(positive(values, "rope.freq_base", 1_000_000.0)),
            },
            SLIDING: {
                "rope_type": "default",
                "rope_theta": shortest(positive(values, "rope.freq_base_swa", 10_000.0)),
            },
        },
    }
    if sizes["per_layer"]:
        config["vocab_size_per_layer_input"] = sizes["vocab"]
    if isinstance(kv_heads, list):
        by_kind = dict(zip(windows, kv_heads, strict=False))
        config["num_key_value_heads"] = by_kind.get(True, by_kind.get(False))
        config["num_global_key_value_heads"] = full["num_key_value_heads"] = by_kind.get(False)
    overrides: dict[str, Json] = {str(n): full for n, windowed in enumerate(windows) if not windowed}
    config["per_layer_config"] = overrides
    return ToHf(config, keys=frozenset({"rope.freq_base", "rope.freq_base_swa"}), tensors=frozenset({_FACTORS}))


#: What an embedding for every layer is made of.
PER_LAYER: Final = (
    Rule(
        "{base}embed_tokens_per_layer.weight",
        "per_layer_token_embd.weight",
        ("vocab", "all_per_layer"),
        when="per_layer",
    ),
    Rule(
        "{base}per_layer_model_projection.weight",
        "per_layer_model_proj.weight",
        ("all_per_layer", "hidden"),
        when="per_layer",
    ),
    *norm("{base}per_layer_projection_norm", "per_layer_proj_norm", "per_layer", when="per_layer"),
    Rule(LAYER + "per_layer_input_gate.weight", "blk.{n}.inp_gate.weight", ("per_layer", "hidden"), when="per_layer"),
    Rule(LAYER + "per_layer_projection.weight", "blk.{n}.proj.weight", ("hidden", "per_layer"), when="per_layer"),
    *norm(LAYER + "post_per_layer_input_norm", "blk.{n}.post_norm", when="per_layer"),
)
#: transformers leaves these unread in layers that share; files have them all the same.
_KEYS_AND_VALUES: Final = tuple(
    replace(rule, when="+".join(filter(None, (rule.when, when))), optional=optional)
    for rule in (
        Rule(ATTN + "k_proj.weight", "blk.{n}.attn_k.weight", ("kv", "hidden")),
        Rule(ATTN + "v_proj.weight", "blk.{n}.attn_v.weight", ("kv", "hidden"), when="slides"),
        Rule(ATTN + "v_proj.weight", "blk.{n}.attn_v.weight", ("kv", "hidden"), when="!slides+!attention_k_eq_v"),
        *norm(ATTN + "k_norm", "blk.{n}.attn_k_norm", "head"),
    )
    for when, optional in (("!shares", False), ("shares", True))
)
_EXPERTS: Final = tuple(
    replace(rule, when="enable_moe_block")
    for rule in (
        Rule(LAYER + "router.proj.weight", "blk.{n}.ffn_gate_inp.weight", ("experts", "hidden")),
        Rule(LAYER + "router.scale", "blk.{n}.ffn_gate_inp.scale", ("hidden",)),
        Rule(LAYER + "router.per_expert_scale", "blk.{n}.ffn_down_exps.scale", ("experts",)),
        Rule(
            LAYER + "experts.gate_up_proj",
            "blk.{n}.ffn_gate_up_exps.weight",
            ("experts", "expert_pair", "hidden"),
        ),
        Rule(LAYER + "experts.down_proj", "blk.{n}.ffn_down_exps.weight", ("experts", "hidden", "expert_ffn")),
        *norm(LAYER + "pre_feedforward_layernorm_2", "blk.{n}.pre_ffw_norm_2"),
        *norm(LAYER + "post_feedforward_layernorm_1", "blk.{n}.post_ffw_norm_1"),
        *norm(LAYER + "post_feedforward_layernorm_2", "blk.{n}.post_ffw_norm_2"),
    )
)


def _only_with_experts(name: str) -> Callable[[Config], Json]:
    return lambda config: config.get(name) if config.get("enable_moe_block") else None


GEMMA4: Final[Family] = replace(
    decoder(
        "Gemma4",
        "gemma4_text",
        "gemma4",
        (
            *TRUNK,
            *PER_LAYER,
            *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"),
            Rule(ATTN + "q_proj.weight", "blk.{n}.attn_q.weight", ("q", "hidden")),
            *_KEYS_AND_VALUES,
            Rule(ATTN + "o_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
            *norm(ATTN + "q_norm", "blk.{n}.attn_q_norm", "head"),
            *norm(LAYER + "post_attention_layernorm", "blk.{n}.post_attention_norm"),
            *norm(LAYER + "pre_feedforward_layernorm", "blk.{n}.ffn_norm"),
            *MLP,
            *_EXPERTS,
            *norm(LAYER + "post_feedforward_layernorm", "blk.{n}.post_ffw_norm"),
            Rule(LAYER + "layer_scalar", "blk.{n}.layer_output_scale.weight", ("one",), optional=True),
        ),
        (
            Key(("num_hidden_layers",), "block_count", "u32", always(30)),
            Key(("max_position_embeddings",), "context_length", "u32", always(131072)),
            Key(("hidden_size",), "embedding_length", "u32", always(2304)),
            Key((), "feed_forward_length", "u32*", _width),
            Key(("num_attention_heads",), "attention.head_count", "u32", always(8)),
            Key((), KV_HEADS, "u32*", _kv_heads),
            Key(("rms_norm_eps",), "attention.layer_norm_rms_epsilon", "f32", always(1e-6)),
            Key((), "attention.key_length", "u32", _head),
            Key((), "attention.value_length", "u32", _head),
            Key(("head_dim",), "attention.key_length_swa", "u32", always(256)),
            Key((), "attention.value_length_swa", "u32", same_as("head_dim"), same_as("attention.key_length_swa")),
            Key(("sliding_window",), WINDOW, "u32", always(512)),
            Key((), PATTERN, "[bool]", lambda config: [*_windows(config)]),
            Key(("num_kv_shared_layers",), SHARED, "u32", always(0), always(0)),
            Key(("hidden_size_per_layer_input",), "embedding_length_per_layer_input", "u32", always(256), always(0)),
            Key((), "rope.dimension_count", "u32", _head, same_as("attention.key_length")),
            Key((), "rope.dimension_count_swa", "u32", same_as("head_dim"), same_as("attention.key_length_swa")),
            Key(("final_logit_softcapping",), "final_logit_softcapping", "f32", always(None), always(None)),
            Key(("num_experts",), "expert_count", "u32", always(None), always(None)),
            Key(("top_k_experts",), "expert_used_count", "u32", always(None), always(None)),
            Key(
                ("moe_intermediate_size", "expert_intermediate_size"),
                "expert_feed_forward_length",
                "u32",
                always(None),
                always(None),
            ),
        ),
        (Irregular(_to_ggml, _to_hf),),
        assumptions=(
            Assumption("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh"),
            Assumption("attention_bias", (False,), False),
            Assumption("use_bidirectional_attention", (None, "vision"), None, written=False),
        ),
        tied=True,
        flags=(("attention_k_eq_v", False), ("enable_moe_block", False)),
        other_types=("gemma4",),
        outgrows_f16=True,
    ),
    classes=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", "Gemma4TextModel"),
    headless=frozenset({"Gemma4TextModel"}),
    bases=("model.", "model.language_model.", "language_model.model.", ""),
    present={"per_layer": r"embed_tokens_per_layer\.weight"},
    layers=KINDS,
    ignored=(
        *BUFFERS,
        Ignored(
            r"(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio|vision_embedder)\..*", MMPROJ, lost=True
        ),
    ),
)
#: The same without experts and embeddings for every layer, in a model that sees and hears without towers.
GEMMA4_UNIFIED: Final[Family] = replace(
    GEMMA4,
    model_type="gemma4_unified_text",
    classes=("Gemma4UnifiedForConditionalGeneration",),
    headless=frozenset(),
    keys=tuple(
        replace(key, default=always(0)) if key.ggml == "embedding_length_per_layer_input" else key
        for key in defaulting(GEMMA4.keys, max_position_embeddings=262144, sliding_window=1024)
    ),
    other_types=("gemma4_unified",),
    claims=never,
    alone=("Gemma4ForCausalLM", "gemma4_text"),
)
