"""Models that fill in masked tokens instead of predicting the next one, and see to both sides: Dream, LLaDA (dense and
with experts), RND1.

Facts: llama.cpp's conversion/dream.py, llada.py, qwen.py and src/models/dream.cpp, llada.cpp, llada-moe.cpp, rnd1.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.decoders import head_norms, rms_norm_eps
from requant.architectures.llama import BUFFERS, LLAMA, NORMS, SILU, TRUNK, attention, head_width, head_width_implied
from requant.architectures.mixture import counts
from requant.architectures.qwen import EXPERTS, QWEN2, QWEN3MOE
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Config, Family, Key, Order, Rule, always, same_as
from requant.ir import Json

_BOTH_WAYS: Final = Key((), "attention.causal", "bool", default=always(False), implied=always(False))
_MASK: Final = Key(("mask_token_id",), "tokenizer.ggml.mask_token_id", "u32", always(None), always(None))
#: Whether what a position predicts is the token behind it: not here.
_UNSHIFTED: Final = Key((), "diffusion.shift_logits", "bool", default=always(False), implied=always(False))

DREAM: Final[Family] = replace(
    QWEN2,
    model_type="Dream",
    ggml="dream",
    classes=("DreamModel",),
    headless=frozenset(),
    keys=(*QWEN2.keys, _BOTH_WAYS, _MASK),
)

RND1: Final[Family] = replace(
    QWEN3MOE,
    model_type="rnd1",
    ggml="rnd1",
    classes=("RND1",),
    headless=frozenset(),
    keys=(*QWEN3MOE.keys, _BOTH_WAYS, _MASK),
)


def _width(config: Config) -> Json:
    return head_width({"hidden_size": config.get("d_model"), "num_attention_heads": config.get("n_heads")})


_BLOCK: Final = "{base}blocks.{n}."
LLADA: Final[Family] = replace(
    LLAMA,
    model_type="llada",
    ggml="llada",
    classes=("LLaDAModelLM",),
    headless=frozenset(),
    bases=("model.transformer.",),
    rules=(
        Rule("{base}wte.weight", "token_embd.weight", ("vocab", "hidden")),
        Rule("{base}ln_f.weight", "output_norm.weight", ("hidden",)),
        Rule("{base}ff_out.weight", "output.weight", ("vocab", "hidden"), when="untied"),
        Rule(_BLOCK + "attn_norm.weight", "blk.{n}.attn_norm.weight", ("hidden",)),
        Rule(_BLOCK + "ff_norm.weight", "blk.{n}.ffn_norm.weight", ("hidden",)),
        Rule(_BLOCK + "q_proj.weight", "blk.{n}.attn_q.weight", ("q", "hidden"), Order.ROPE),
        Rule(_BLOCK + "k_proj.weight", "blk.{n}.attn_k.weight", ("kv", "hidden"), Order.ROPE, heads="kv_heads"),
        Rule(_BLOCK + "v_proj.weight", "blk.{n}.attn_v.weight", ("kv", "hidden")),
        Rule(_BLOCK + "attn_out.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        Rule(_BLOCK + "ff_proj.weight", "blk.{n}.ffn_gate.weight", ("ffn", "hidden")),
        Rule(_BLOCK + "up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden")),
        Rule(_BLOCK + "ff_out.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
    ),
    keys=(
        Key(("n_layers", "num_hidden_layers"), "block_count", "u32"),
        Key(("max_sequence_length",), "context_length", "u32", always(4096)),
        Key(("d_model", "hidden_size"), "embedding_length", "u32"),
        Key(("mlp_hidden_size",), "feed_forward_length", "u32", always(12288)),
        Key(("n_heads", "num_attention_heads"), "attention.head_count", "u32"),
        Key(
            ("n_kv_heads", "num_key_value_heads"),
            "attention.head_count_kv",
            "u32",
            default=same_as("n_heads"),
            implied=same_as("attention.head_count"),
        ),
        Key(("rms_norm_eps",), "attention.layer_norm_rms_epsilon", "f32", default=always(1e-5)),
        *(key for key in LLAMA.keys if key.ggml == "vocab_size"),
        Key(
            (),
            "rope.dimension_count",
            "u32",
            default=_width,
            implied=head_width_implied,
        ),
        _BOTH_WAYS,
        _UNSHIFTED,
        _MASK,
    ),
    assumptions=(
        Assumption("activation_type", ("silu",), "silu"),
        Assumption("block_type", ("llama",), "llama"),
        Assumption("include_bias", (False,), False),
        Assumption("include_qkv_bias", (False,), False),
        Assumption("alibi", (False,), False),
        Assumption("rope", (True,), True),
        Assumption("weight_tying", (False,), False),
    ),
    flags={},
)

_MOE_KEYS: Final = {
    "feed_forward_length": Key(("dense_intermediate_size", "intermediate_size"), "feed_forward_length", "u32"),
    "attention.layer_norm_rms_epsilon": rms_norm_eps(1e-5),
}
LLADA_MOE: Final[Family] = replace(
    QWEN3MOE,
    model_type="llada",
    ggml="llada-moe",
    classes=("LLaDAMoEModelLM", "LLaDAMoEModel"),
    headless=frozenset({"LLaDAMoEModel"}),
    rules=(*TRUNK, *NORMS, *attention(Order.SAME), *head_norms(), *EXPERTS),
    keys=(
        *(_MOE_KEYS.get(key.ggml, key) for key in QWEN2.keys),
        *(key for key in counts(64, 8, ffn=always(1024)) if key.ggml != "expert_feed_forward_length"),
        Key(("expert_intermediate_size",), "expert_feed_forward_length", "u32", always(1024)),
        _BOTH_WAYS,
        _UNSHIFTED,
        # config.json says nothing of it
        Key((), "tokenizer.ggml.mask_token_id", "u32", always(156895), always(156895)),
    ),
    assumptions=(
        SILU,
        Assumption("attention_bias", (False,), False),
        Assumption("norm_topk_prob", (False, None), None, written=False),
        Assumption("qk_layernorm", (True,), True),
        Assumption("shared_expert_intermediate_size", (None,), None, written=False),
        Assumption("partial_rotary_factor", (1,), 1),
    ),
    ignored=BUFFERS,
    irregular=(Rope(theta=10000.0).pair(),),
    suits=lambda config: "dense_intermediate_size" in config or "num_experts" in config,
)
