"""StableLM: norms with biases, heads rotated in part; the 12B has norms of each head, and both halves side by side.

Facts: llama.cpp's conversion/stablelm.py and src/models/stablelm.cpp, which knows the parallel form by the norm that
is missing.
"""

from __future__ import annotations

from typing import Final

from requant.architectures.decoders import ATTN, LAYER, SIZES, decoder, layer_norm_eps, norm, trunk
from requant.architectures.llama import MLP, SILU, attention_biases
from requant.architectures.rope import Rope, rotary
from requant.architectures.rules import Family, Key, Order, Rule

_PARALLEL: Final = "use_parallel_residual"


def _head_norm(hf: str, ggml: str, heads: str) -> Rule:
    return Rule(
        f"{ATTN}{hf}.norms.{{e}}.weight", f"blk.{{n}}.{ggml}.weight", ("head",), when="qk_layernorm", each=heads
    )


STABLELM: Final[Family] = decoder(
    "StableLm",
    "stablelm",
    "stablelm",
    (
        *trunk(),
        Rule("{base}norm.bias", "output_norm.bias", ("hidden",)),
        *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm", bias=True),
        *attention_biases(Order.SAME, "use_qkv_bias"),
        _head_norm("q_layernorm", "attn_q_norm", "heads"),
        _head_norm("k_layernorm", "attn_k_norm", "kv_heads"),
        *norm(LAYER + "post_attention_layernorm", "blk.{n}.ffn_norm", bias=True, when="!" + _PARALLEL),
        *MLP,
    ),
    (
        *SIZES,
        layer_norm_eps("layer_norm_eps", "norm_eps"),
        Key((), "rope.dimension_count", "u32", default=rotary(0.25)),
        Key((_PARALLEL,), _PARALLEL, "bool", default=lambda config: False, implied=lambda values: False),
    ),
    (Rope(theta=10000.0, in_part=0.25).pair(),),
    assumptions=(SILU,),
    more=("StableLMEpochForCausalLM",),
    other_types=("stablelm_epoch",),
    flags=((_PARALLEL, False), ("qk_layernorm", False), ("use_qkv_bias", False)),
)
