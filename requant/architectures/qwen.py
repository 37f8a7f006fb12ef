"""Qwen 2 and 2.5, Qwen 3, and both with experts; Qwen 1.5 with experts is a Qwen 2.

Facts: llama.cpp's conversion/qwen.py, src/models/qwen2.cpp, qwen2moe.cpp, qwen3.cpp, qwen3moe.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.architectures.classifier import Classifier
from requant.architectures.experts import expert_rules
from requant.architectures.llama import (
    BUFFERS,
    DECODER_KEYS,
    HEAD_KEYS,
    MLP,
    NORMS,
    SILU,
    TRUNK,
    attention,
    attention_biases,
    heads_of,
)
from requant.architectures.reranker import RERANKER
from requant.architectures.rope import Rope
from requant.architectures.rules import Assumption, Family, Key, Order, Rule, always

_LAYER: Final = "{base}layers.{n}."

_WINDOW: Final = Assumption(
    "use_sliding_window",
    (False,),
    False,
    loss="llama.cpp lets every layer of this architecture attend to the whole context",
)
_NO_BIAS: Final = Assumption("attention_bias", (False,), False)

_HEAD_NORMS: Final = (
    Rule(_LAYER + "self_attn.q_norm.weight", "blk.{n}.attn_q_norm.weight", ("head",)),
    Rule(_LAYER + "self_attn.k_norm.weight", "blk.{n}.attn_k_norm.weight", ("head",)),
)
_MOE: Final = _LAYER + "mlp."
EXPERTS: Final = expert_rules(_MOE, "expert_ffn")

SHARED: Final = (
    Rule(_MOE + "shared_expert_gate.weight", "blk.{n}.ffn_gate_inp_shexp.weight", ("one", "hidden")),
    Rule(_MOE + "shared_expert.gate_proj.weight", "blk.{n}.ffn_gate_shexp.weight", ("shared_ffn", "hidden")),
    Rule(_MOE + "shared_expert.up_proj.weight", "blk.{n}.ffn_up_shexp.weight", ("shared_ffn", "hidden")),
    Rule(_MOE + "shared_expert.down_proj.weight", "blk.{n}.ffn_down_shexp.weight", ("hidden", "shared_ffn")),
)
EVERY_LAYER: Final = (
    Assumption("decoder_sparse_step", (1,), 1),
    Assumption("mlp_only_layers", ([], None), None),
)

QWEN2: Final = Family(
    model_type="qwen2",
    ggml="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    headless=frozenset({"Qwen2Model"}),
    bases=("model.", ""),
    rules=(*TRUNK, *NORMS, *attention(Order.SAME), *attention_biases(Order.SAME, ""), *MLP),
    keys=DECODER_KEYS,
    embedding="token_embd.weight",
    assumptions=(SILU, _WINDOW),
    ignored=BUFFERS,
    irregular=(Rope(theta=10000.0).pair(),),
)

QWEN2MOE: Final = replace(
    QWEN2,
    model_type="qwen2_moe",
    ggml="qwen2moe",
    classes=("Qwen2MoeForCausalLM", "Qwen2MoeModel"),
    headless=frozenset({"Qwen2MoeModel"}),
    rules=(
        *TRUNK,
        *NORMS,
        *attention(Order.SAME),
        *attention_biases(Order.SAME, "qkv_bias"),
        *EXPERTS,
        *SHARED,
    ),
    keys=(
        *DECODER_KEYS,
        Key(("num_experts", "num_local_experts"), "expert_count", "u32", always(60)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(4)),
        Key(("moe_intermediate_size",), "expert_feed_forward_length", "u32", always(1408)),
        Key(("shared_expert_intermediate_size",), "expert_shared_feed_forward_length", "u32", always(5632)),
    ),
    assumptions=(SILU, _WINDOW, Assumption("norm_topk_prob", (False,), False), *EVERY_LAYER),
    flags={"qkv_bias": True},
)

QWEN3: Final = replace(
    QWEN2,
    model_type="qwen3",
    ggml="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    headless=frozenset({"Qwen3Model"}),
    rules=(*TRUNK, *NORMS, *attention(Order.SAME), *_HEAD_NORMS, *MLP),
    keys=(*DECODER_KEYS, *heads_of(128)),
    assumptions=(SILU, _WINDOW, _NO_BIAS),
    irregular=(*QWEN2.irregular, RERANKER),
    classifier=Classifier(
        classes=("Qwen3ForSequenceClassification",),
        rules=(Rule("score.weight", "cls.output.weight", ("labels", "hidden")),),
        softmax=True,
    ),
)

QWEN3MOE: Final = replace(
    QWEN3,
    model_type="qwen3_moe",
    ggml="qwen3moe",
    classes=("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
    irregular=QWEN2.irregular,
    classifier=None,
    headless=frozenset({"Qwen3MoeModel"}),
    rules=(*TRUNK, *NORMS, *attention(Order.SAME), *_HEAD_NORMS, *EXPERTS),
    keys=(
        *DECODER_KEYS,
        *HEAD_KEYS,
        Key(("num_experts", "num_local_experts"), "expert_count", "u32", always(128)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(8)),
        Key(("moe_intermediate_size",), "expert_feed_forward_length", "u32", always(768)),
    ),
    assumptions=(
        SILU,
        _WINDOW,
        _NO_BIAS,
        Assumption("norm_topk_prob", (True,), False),
        *EVERY_LAYER,
    ),
)
