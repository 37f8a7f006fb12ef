"""Phi-3, Phi-3.5 and Phi-4: qkv and gate_up stay fused, as llama.cpp keeps them too.

Facts: llama.cpp's conversion/phi.py and src/models/phi3.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.llama import BUFFERS, DECODER_KEYS, NORMS, SILU, TRUNK, WINDOW_LOSS
from requant.architectures.numbers import number, positive
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import Assumption, Config, Family, Irregular, Key, Rule, Sizes, ToGgml, ToHf, always
from requant.ir import Checkpoint, Json, Tensor, Typed

_LAYER: Final = "{base}layers.{n}."


def _window_to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    # always written: 0 is how llama.cpp tells Phi-4, which has no window, from Phi-3
    window = 0 if config.get("sliding_window") is None else positive(config, "sliding_window")
    return ToGgml({"attention.sliding_window": Typed("u32", int(window))})


def _window_to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    config: dict[str, Json] = {"sliding_window": int(number(values, "attention.sliding_window", 0)) or None}
    return ToHf(config, keys=frozenset({"attention.sliding_window"}))


PHI3: Final = Family(
    model_type="phi3",
    ggml="phi3",
    classes=("Phi3ForCausalLM", "Phi3Model"),
    headless=frozenset({"Phi3Model"}),
    bases=("model.", ""),
    rules=(
        *TRUNK,
        *NORMS,
        Rule(_LAYER + "self_attn.qkv_proj.weight", "blk.{n}.attn_qkv.weight", ("qkv", "hidden")),
        Rule(_LAYER + "self_attn.o_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        Rule(_LAYER + "mlp.gate_up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn_pair", "hidden")),
        Rule(_LAYER + "mlp.down_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
    ),
    keys=(
        *DECODER_KEYS[:-1],
        Key(("rms_norm_eps",), "attention.layer_norm_rms_epsilon", "f32", default=always(1e-5)),
        Key((), "rope.dimension_count", "u32", default=rotary(1.0)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        SILU,
        Assumption("sliding_window", (None,), None, written=False, loss=WINDOW_LOSS),
    ),
    ignored=BUFFERS,
    irregular=(
        Irregular(_window_to_ggml, _window_to_hf),
        Rope(theta=10000.0, outer_original=True, in_part=1.0).pair(),
    ),
)
