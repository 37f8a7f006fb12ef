"""Muse Glimmer: norms of queries and keys without weights, whose constant factor is a tensor in ggml; gated attention;
windows in three layers of four, which alone are rotated.

Facts: llama.cpp's conversion/muse_glimmer.py and src/models/muse-glimmer.cpp; transformers' modeling_muse_glimmer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from requant.architectures.decoders import ATTN, LAYER, SIZES, decoder, norm, rms_norm_eps
from requant.architectures.llama import BUFFERS, HEAD_KEYS, MLP, TRUNK, attention
from requant.architectures.numbers import number, positive, shortest
from requant.architectures.rope import Rope, parameters
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
    defaulting,
)
from requant.architectures.seeing import SEEING
from requant.architectures.windows import Windows, windowed, windowed_in_ggml
from requant.encodings import F32
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor
from requant.sources import Memory, read

_FACTOR: Final = "qk_scale_factor"


def _full(name: str, value: float, count: int) -> Tensor:
    return Tensor(name, (count,), F32, {"data": Memory(np.full(count, value, "<f4").tobytes())})


def _names(layers: int) -> list[tuple[str, str]]:
    return [(f"blk.{n}.attn_q_norm.weight", f"blk.{n}.attn_k_norm.weight") for n in range(layers)]


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    factor = positive(config, _FACTOR, 3.87)
    thetas, windows = config.get("layer_rope_theta"), windowed(config, sizes["layers"], 4)
    theta = parameters(config, 10000.0)["rope_theta"]
    if thetas is not None and thetas != [theta if window else 0 for window in windows]:
        raise PlanError("config.json: layer_rope_theta: llama.cpp rotates the layers with a window, and no others")
    tensors = [
        _full(name, value, sizes["head"])
        for names in _names(sizes["layers"])
        for name, value in zip(names, (factor, 1.0), strict=True)
    ]
    return ToGgml(tensors=tuple(tensors))


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    """The factor of every layer, which must be the same, and none of keys."""
    found: set[tuple[float, float]] = set()
    for names in _names(sizes["layers"]):
        pair = []
        for name in names:
            tensor = tensors.get(name)
            if tensor is None or tensor.encoding != F32 or tensor.shape != (sizes["head"],):
                raise PlanError(f"tensor {name!r} is missing, or not F32 of {sizes['head']} numbers")
            numbers = np.unique(read(tensor.sources["data"]).view("<f4"))
            pair.append(float(numbers[0]) if len(numbers) == 1 else float("nan"))
        found.add((pair[0], pair[1]))
    factor, keys = found.pop()
    if found or keys != 1.0 or not factor > 0:
        raise PlanError("norms of queries and keys differ between layers, or within one; Muse Glimmer has one factor")
    used = frozenset(name for names in _names(sizes["layers"]) for name in names)
    windows = windowed_in_ggml(values, sizes["layers"], 4)
    theta = shortest(number(values, "rope.freq_base", 10000.0))
    thetas: Json = [theta if window else 0 for window in windows]
    return ToHf({_FACTOR: shortest(factor), "layer_rope_theta": thetas}, tensors=used)


def _shifted(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return tuple(replace(rule, add=1.0) for rule in rules)


MUSE_GLIMMER: Final[Family] = replace(
    decoder(
        "MuseGlimmer",
        "muse_glimmer_text",
        "muse-glimmer",
        (
            *TRUNK,
            *_shifted(norm(LAYER + "input_layernorm", "blk.{n}.attn_norm")),
            *_shifted(norm(LAYER + "post_attention_layernorm", "blk.{n}.post_attention_norm")),
            *_shifted(norm(LAYER + "pre_feedforward_layernorm", "blk.{n}.ffn_norm")),
            *_shifted(norm(LAYER + "post_feedforward_layernorm", "blk.{n}.post_ffw_norm")),
            *attention(Order.ROPE),
            Rule(ATTN + "gate_proj.weight", "blk.{n}.attn_gate.weight", ("q", "hidden")),
            *MLP,
        ),
        (
            *defaulting(SIZES, num_key_value_heads=2),
            rms_norm_eps(1e-5),
            *HEAD_KEYS,
            Key(("final_logit_softcapping",), "final_logit_softcapping", "f32", always(20.0)),
            Key(("output_multiplier",), "logit_scale", "f32", always(1 / 26**0.5)),
        ),
        (
            Rope(theta=10000.0).pair(),
            Windows(4, 2048, always=True, listed=True).pair(),
            Irregular(_to_ggml, _to_hf),
        ),
        assumptions=(
            Assumption("hidden_activation", ("silu",), "silu"),
            Assumption("attention_bias", (False,), False),
            Assumption("post_norm_eps", (1e-8,), 1e-8, loss="llama.cpp has one epsilon for all norms"),
        ),
    ),
    classes=("MuseGlimmerForConditionalGeneration",),
    headless=frozenset(),
    bases=("model.language_model.", "model."),
    other_types=("muse_glimmer",),
    ignored=(*BUFFERS, SEEING),
)
