"""PLaMo 3: norms before and behind attention and network, windows in seven layers of eight.

Norms are kept as offsets: from one before a block, from a fifth behind attention, from 5^-1.5 behind the network.
Facts: llama.cpp's conversion/plamo.py and src/models/plamo3.cpp (which cuts yarn's borders to whole dimensions, as the
released modeling_plamo.py does not).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import VOCABULARY_SIZE
from requant.architectures.llama import BUFFERS
from requant.architectures.numbers import number, positive, shortest
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
    same_as,
)
from requant.architectures.windows import PATTERN, WINDOW, regular, windowed_in_ggml
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed

_LAYER: Final = "{base}layers.layers.{n}."
_PERIOD: Final = 8
_LOCAL: Final = "rope.freq_base_swa"
_ROPE: Final = Rope(theta=150_000.0, truncate=False)


def _scaling(config: Config) -> dict[str, Json]:
    """The rotation of layers that see all, in transformers' words; PLaMo's configuration has two keys for it."""
    theta = config.get("rope_theta", config.get("rope_global_theta", _ROPE.theta))
    factor = number(config, "rope_scaling_factor", 1.0)
    if factor == 1:
        return {"rope_type": "default", "rope_theta": theta}
    return {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": int(positive(config, "initial_context_length")),
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
    }


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    said = _ROPE.to_ggml(checkpoint, {**config, "rope_parameters": _scaling(config)}, sizes)
    period = int(positive(config, "sliding_window_pattern", _PERIOD))
    values = {
        _LOCAL: Typed("f32", positive(config, "rope_local_theta", 10_000.0)),
        WINDOW: Typed("u32", _width(config)),
        PATTERN: Typed("u32", period),
    }
    return replace(said, values={**said.values, **values})


def _width(config: Config) -> int:
    """Tokens that a window reaches back; the first releases list it for each layer."""
    said = config.get("window_size", config.get("sliding_window", 128))
    if isinstance(said, list):
        widths = [item for item in said if item is not None]
        said = widths[0] if widths and all(item == widths[0] for item in widths) else None
    return int(positive({"window_size": said}, "window_size"))


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    layers = sizes["layers"]
    windows = windowed_in_ggml(values, layers, _PERIOD)
    period = next((n for n in range(1, layers + 2) if regular(layers, n) == windows), None)
    if period is None:
        raise PlanError(f"metadata: {PATTERN!r} is no regular pattern, and PLaMo 3 has one")
    said = _ROPE.to_hf(values, tensors, sizes)
    scaling = said.config.get("rope_scaling")
    config: dict[str, Json] = {
        "rope_theta": said.config["rope_theta"],
        "rope_local_theta": shortest(number(values, _LOCAL, number(values, "rope.freq_base", 10_000.0))),
        "window_size": int(number(values, WINDOW, 128)) or 128,
        "sliding_window_pattern": period if WINDOW in values else 1,
        "rope_scaling_factor": 1,
    }
    pattern = values.get(PATTERN)
    if isinstance(pattern, int) and regular(layers, pattern) == windows:
        config["sliding_window_pattern"] = pattern
    if isinstance(scaling, dict):
        if scaling["rope_type"] != "yarn":
            raise PlanError(f"metadata: rope.scaling.type is {scaling['rope_type']!r}; PLaMo 3 knows yarn alone")
        config["rope_scaling_factor"] = scaling["factor"]
        config["initial_context_length"] = scaling["original_max_position_embeddings"]
    return replace(said, config=config, keys=said.keys | {_LOCAL, WINDOW, PATTERN})


def _norm(hf: str, ggml: str, offset: float, size: str = "hidden") -> Rule:
    return Rule(f"{_LAYER}{hf}.weight", f"blk.{{n}}.{ggml}", (size,), add=offset)


PLAMO3: Final = Family(
    model_type="plamo3",
    ggml="plamo3",
    classes=("Plamo3ForCausalLM", "PLaMo3ForCausalLM", "Plamo3Model"),
    headless=frozenset({"Plamo3Model"}),
    bases=("model.", ""),
    rules=(
        Rule("{base}embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
        Rule("{base}norm.weight", "output_norm.weight", ("hidden",), add=1.0),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
        _norm("pre_mixer_norm", "attn_norm.weight", 1.0),
        _norm("mixer.q_norm", "attn_q_norm.weight", 1.0, "head"),
        _norm("mixer.k_norm", "attn_k_norm.weight", 1.0, "head"),
        # the two have no ending in llama.cpp
        _norm("post_mixer_norm", "post_attention_norm", 1 / 5),
        _norm("pre_mlp_norm", "ffn_norm.weight", 1.0),
        _norm("post_mlp_norm", "post_ffw_norm", 1 / 5**1.5),
        Rule(_LAYER + "mixer.qkv_proj.weight", "blk.{n}.attn_qkv.weight", ("qkv", "hidden")),
        Rule(_LAYER + "mixer.o_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        Rule(_LAYER + "mlp.gate_up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn_pair", "hidden")),
        Rule(_LAYER + "mlp.down_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
    ),
    keys=(
        Key(("num_hidden_layers",), "block_count", "u32"),
        Key(("max_position_embeddings",), "context_length", "u32", always(2048)),
        Key(("hidden_size",), "embedding_length", "u32"),
        Key(("intermediate_size",), "feed_forward_length", "u32"),
        Key(("num_attention_heads",), "attention.head_count", "u32"),
        Key(("num_key_value_heads",), "attention.head_count_kv", "u32", always(4), same_as("attention.head_count")),
        Key(("rms_norm_eps",), "attention.layer_norm_rms_epsilon", "f32", always(1e-6)),
        Key(("head_dim",), "attention.key_length", "u32", always(128)),
        Key((), "attention.value_length", "u32", same_as("head_dim"), same_as("attention.key_length")),
        VOCABULARY_SIZE,
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("scale_embedding", (False,), False),
        Assumption("attention_bias", (False,), False, written=False),
        Assumption("hidden_activation", ("swiglu",), "swiglu", written=False),
    ),
    ignored=BUFFERS,
    irregular=(Irregular(_to_ggml, _to_hf),),
    tied=True,
)
