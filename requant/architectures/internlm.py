"""InternLM 2, whose queries lie in one matrix with the key and the value head they share, and InternLM 3, a llama.

Facts: llama.cpp's conversion/internlm.py, src/models/internlm2.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.changes import Parted
from requant.architectures.decoders import SIZES, decoder, fused, rms_norm_eps
from requant.architectures.llama import LLAMA, SILU
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Order, Rule, never

_LAYER: Final = "{base}layers.{n}."

INTERNLM2: Final[Family] = replace(
    decoder(
        "InternLM2",
        "internlm2",
        "internlm2",
        (
            Rule("{base}tok_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
            Rule("{base}norm.weight", "output_norm.weight", ("hidden",)),
            Rule("output.weight", "output.weight", ("vocab", "hidden"), when="untied"),
            Rule(_LAYER + "attention_norm.weight", "blk.{n}.attn_norm.weight", ("hidden",)),
            Rule(_LAYER + "ffn_norm.weight", "blk.{n}.ffn_norm.weight", ("hidden",)),
            *fused(_LAYER + "attention.wqkv.weight", Order.ROPE, Parted("kv_heads", ("query_group", "head", "head"))),
            Rule(_LAYER + "attention.wo.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
            Rule(_LAYER + "feed_forward.w1.weight", "blk.{n}.ffn_gate.weight", ("ffn", "hidden")),
            Rule(_LAYER + "feed_forward.w3.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden")),
            Rule(_LAYER + "feed_forward.w2.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
        ),
        (*SIZES, rms_norm_eps(1e-6)),
        (Rope(theta=10000.0).pair(),),
        assumptions=(SILU, Assumption("bias", (False,), True)),
    ),
    bases=("model.",),
)

#: A GGUF of it is one of a llama.
INTERNLM3: Final[Family] = replace(
    LLAMA,
    model_type="internlm3",
    classes=("InternLM3ForCausalLM",),
    headless=frozenset(),
    rules=tuple(rule for rule in LLAMA.rules if not rule.when or rule.when == "untied"),
    assumptions=(SILU, Assumption("bias", (False,), False), Assumption("qkv_bias", (False,), False)),
    flags={},
    claims=never,
)
