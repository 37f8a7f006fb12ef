"""Gemma 3n: four streams beside each other (AltUp), a narrow way around attention (LAuReL), embeddings for every layer.

llama.cpp knows the number of streams, the widths of both and how many layers keep keys and values as constants, and
asks for keys and values of every layer, used or not. The embeddings of layers may have fewer rows than the vocabulary;
ggml's end in zeros. Facts: llama.cpp's conversion/gemma.py and src/models/gemma3n.cpp; transformers'
modeling_gemma3n.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Final

import numpy as np

from requant.architectures.decoders import LAYER, decoder, head_norms, norm
from requant.architectures.gemma3 import local_theta
from requant.architectures.gemma4 import KINDS, PER_LAYER, SHARED
from requant.architectures.llama import BUFFERS, MLP, TRUNK, attention
from requant.architectures.numbers import number, shortest, shown
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    MMPROJ,
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    same_as,
)
from requant.architectures.windows import PATTERN, WINDOW, layer_types, windowed
from requant.encodings import Dense
from requant.errors import PlanError, UnsupportedError
from requant.expressions import Joined, Node, Stored
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.plan import Move
from requant.sources import Memory

_PERIOD: Final = 5
#: Layers with keys and values of their own, and those of whose networks few numbers are let through: llama.cpp's.
_OWN: Final = 20
_SPARSE: Final = 10
_LET_THROUGH: Final = 0.95
_EMBEDDING: Final = "embed_tokens_per_layer.weight"
_GGML_EMBEDDING: Final = "per_layer_token_embd.weight"
_SCALE: Final = "activation_sparsity_scale"
_SWA: Final = "rope.freq_base_swa"


def _width(config: Config) -> Json:
    """Of the network, which config.json may say for each layer."""
    said = config.get("intermediate_size", 16384)
    if not isinstance(said, list):
        return said
    if any(item != said[0] for item in said):
        raise PlanError("config.json: intermediate_size differs between layers; llama.cpp has one for all")
    return said


def _pattern(layers: int) -> list[float]:
    return [_LET_THROUGH if n < _SPARSE else 0.0 for n in range(layers)]


def _deviations(part: float) -> float:
    """How far above the mean a number must be, in float32 as torch computes it; all are where nothing is held back."""
    if part == 0:
        return -math.inf
    twice = np.float32(2) * np.float32(part) - np.float32(1)
    return float(np.float32(NormalDist().inv_cdf((float(twice) + 1) / 2) / math.sqrt(2)) * np.float32(math.sqrt(2)))


def _checked(config: Config, layers: int) -> None:
    shared = int(number(config, "num_kv_shared_layers", 15))
    if shared != max(0, layers - _OWN):
        raise PlanError(
            f"config.json: num_kv_shared_layers is {shared} of {layers} layers; llama.cpp lets {_OWN} have their own"
        )
    pattern = config.get("activation_sparsity_pattern")
    told = _pattern(layers) if layers > _SPARSE else [0.0] * layers
    if pattern is not None:
        told = [number({"item": item}, "item") for item in pattern] if isinstance(pattern, list) else []
    if told != _pattern(layers):
        raise PlanError(
            f"config.json: activation_sparsity_pattern is {shown(pattern)}; llama.cpp holds back {_LET_THROUGH} in the "
            f"first {_SPARSE} layers"
        )


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    layers = sizes["layers"]
    _checked(config, layers)
    values = {
        _SCALE: Typed("[f32]", [_deviations(part) for part in _pattern(layers)]),
        _SWA: Typed("f32", local_theta(config)),
    }
    found = next((tensor for tensor in checkpoint.tensors if tensor.name.endswith(_EMBEDDING)), None)
    width, rows = sizes["all_per_layer"], sizes["vocab"]
    if found is None or len(found.shape) != 2 or found.shape[1] != width or found.shape[0] > rows:
        raise PlanError(f"tensor {_EMBEDDING!r} is missing, or not of up to {rows} rows of {width}")
    node: Node = Stored(found)
    if found.shape[0] < rows:
        node = Joined((node, Stored(_zeros(found, rows - found.shape[0]))))
    return ToGgml(values, moves=(Move(_GGML_EMBEDDING, node),), used=frozenset({found.name}))


def _zeros(like: Tensor, rows: int) -> Tensor:
    if not isinstance(like.encoding, Dense):
        raise UnsupportedError(f"tensor {like.name!r} is {like.encoding.label}, and has no row for some tokens")
    count = rows * like.shape[1]
    data = Memory(bytes(like.nbytes // (like.shape[0] * like.shape[1]) * count))
    return Tensor(f"{like.name} (zeros)", (rows, like.shape[1]), like.encoding, {"data": data})


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    embedding = tensors.get(_GGML_EMBEDDING)
    if embedding is None or embedding.shape != (sizes["vocab"], sizes["all_per_layer"]):
        raise PlanError(f"tensor {_GGML_EMBEDDING!r} is missing, or of another shape than its model")
    layers = sizes["layers"]
    windows = [*KINDS["slides"](values)]
    config: dict[str, Json] = {
        "layer_types": layer_types(windows),
        "rope_local_base_freq": shortest(number(values, _SWA, 10000.0)),
        "intermediate_size": [sizes["ffn"]] * layers,
        "vocab_size_per_layer_input": sizes["vocab"],
        "activation_sparsity_pattern": [*_pattern(layers)],
    }
    return ToHf(
        config,
        keys=frozenset({_SWA, _SCALE}),
        tensors=frozenset({_GGML_EMBEDDING}),
        moves=(Move(f"model.{_EMBEDDING}", Stored(embedding)),),
    )


def _windows(config: Config) -> Json:
    return [*windowed(config, int(number(config, "num_hidden_layers", 35)), _PERIOD)]


_ALTUP: Final = LAYER + "altup."
_STREAMS: Final = (
    *(
        Rule(f"{{base}}altup_{hf}.{{e}}.weight", f"altup_{ggml}.weight", ("hidden", "hidden"), each="other_streams")
        for hf, ggml in (("projections", "proj"), ("unembed_projections", "unembd_proj"))
    ),
    Rule(_ALTUP + "correction_coefs.weight", "blk.{n}.altup_correct_coef.weight", ("streams", "streams")),
    Rule(_ALTUP + "correct_output_scale", "blk.{n}.altup_correct_scale.weight", ("hidden",)),
    Rule(_ALTUP + "prediction_coefs.weight", "blk.{n}.altup_predict_coef.weight", ("stream_pairs", "streams")),
    Rule(_ALTUP + "modality_router.weight", "blk.{n}.altup_router.weight", ("streams", "hidden")),
    *norm(_ALTUP + "router_norm", "blk.{n}.altup_router_norm"),
    Rule(LAYER + "laurel.linear_left.weight", "blk.{n}.laurel_l.weight", ("laurel", "hidden")),
    Rule(LAYER + "laurel.linear_right.weight", "blk.{n}.laurel_r.weight", ("hidden", "laurel")),
    *norm(LAYER + "laurel.post_laurel_norm", "blk.{n}.laurel_post_norm"),
)

GEMMA3N: Final[Family] = replace(
    decoder(
        "Gemma3n",
        "gemma3n_text",
        "gemma3n",
        (
            *TRUNK,
            *(replace(rule, when="") for rule in PER_LAYER if rule.ggml != _GGML_EMBEDDING),
            *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"),
            *attention(Order.SAME),
            *head_norms(),
            *norm(LAYER + "post_attention_layernorm", "blk.{n}.post_attention_norm"),
            *norm(LAYER + "pre_feedforward_layernorm", "blk.{n}.ffn_norm"),
            *MLP,
            *norm(LAYER + "post_feedforward_layernorm", "blk.{n}.post_ffw_norm"),
            *_STREAMS,
        ),
        (
            Key(("num_hidden_layers",), "block_count", "u32", always(35)),
            Key(("max_position_embeddings",), "context_length", "u32", always(32768)),
            Key(("hidden_size",), "embedding_length", "u32", always(2048)),
            Key((), "feed_forward_length", "u32*", _width),
            Key(("num_attention_heads",), "attention.head_count", "u32", always(8)),
            Key(("num_key_value_heads",), "attention.head_count_kv", "u32", always(2), same_as("attention.head_count")),
            Key(("rms_norm_eps",), "attention.layer_norm_rms_epsilon", "f32", always(1e-6)),
            Key(("head_dim",), "attention.key_length", "u32", always(256)),
            Key((), "attention.value_length", "u32", same_as("head_dim"), same_as("attention.key_length")),
            Key(("sliding_window",), WINDOW, "u32", always(512)),
            Key((), PATTERN, "[bool]", _windows),
            Key(("final_logit_softcapping",), "final_logit_softcapping", "f32", always(30.0), always(30.0)),
            Key(("num_kv_shared_layers",), SHARED, "u32", always(15), always(0)),
            Key(("hidden_size_per_layer_input",), "embedding_length_per_layer_input", "u32", always(256), always(256)),
            Key(("altup_num_inputs",), "altup.num_inputs", "u32", always(4), always(4)),
            Key(("altup_active_idx",), "altup.active_idx", "u32", always(0), always(0)),
        ),
        (Rope(theta=1_000_000.0).pair(), Irregular(_to_ggml, _to_hf)),
        assumptions=(
            Assumption("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh"),
            Assumption("attention_bias", (False,), False),
            Assumption("altup_num_inputs", (4,), 4),
            Assumption("altup_active_idx", (0,), 0),
            Assumption("altup_correct_scale", (True,), True),
            Assumption("hidden_size_per_layer_input", (256,), 256),
            Assumption("laurel_rank", (64,), 64),
        ),
        tied=True,
        other_types=("gemma3n",),
        outgrows_f16=True,
    ),
    classes=("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration", "Gemma3nTextModel"),
    headless=frozenset({"Gemma3nTextModel"}),
    bases=("model.", "model.language_model.", "language_model.model.", ""),
    ignored=(
        *BUFFERS,
        Ignored(r"(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio)\..*", MMPROJ, lost=True),
    ),
    besides=("{base}" + _EMBEDDING,),
)
