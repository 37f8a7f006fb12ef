"""Decoders whose layers are `h` or `blocks`, as GPT-2's were: Qwen 1, ChatGLM as its makers publish it, CodeShell,
Refact and MPT.

Facts: llama.cpp's conversion/qwen.py, chatglm.py, codeshell.py, refact.py, mpt.py, and src/models/qwen.cpp,
chatglm.cpp, codeshell.cpp, refact.cpp, mpt.cpp. llama.cpp's converter writes the epsilon of Qwen 1 under the name of
another norm, and llama.cpp refuses its file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import norm
from requant.architectures.llama import head_width, head_width_implied
from requant.architectures.numbers import number, positive, shortest
from requant.architectures.rules import (
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
    four_times,
    module,
    same_as,
)
from requant.encodings import F16
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed

_H: Final = "{base}h.{n}."
_BUFFERS: Final = (
    Ignored(r".*\.(rotary_emb|rotary_pos_emb)\.inv_freq", "computed from the rope parameters"),
    Ignored(r".*\.attn\.(bias|masked_bias)", "the causal mask, which is the same for every model"),
)
_THETA: Final = "rope.freq_base"


def _base(name: str) -> Irregular:
    """The base of a rotation that nothing scales. name: in config.json."""

    def to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
        return ToGgml({_THETA: Typed("f32", positive(config, name, 10000.0))})

    def to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
        return ToHf({name: shortest(number(values, _THETA, 10000.0))}, keys=frozenset({_THETA}))

    return Irregular(to_ggml, to_hf)


QWEN: Final = Family(
    model_type="qwen",
    ggml="qwen",
    classes=("QWenLMHeadModel",),
    headless=frozenset(),
    bases=("transformer.", ""),
    rules=(
        Rule("{base}wte.weight", "token_embd.weight", ("vocab", "hidden")),
        *norm("{base}ln_f", "output_norm"),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
        *norm(_H + "ln_1", "blk.{n}.attn_norm"),
        *module(_H + "attn.c_attn", "blk.{n}.attn_qkv", ("qkv", "hidden")),
        Rule(_H + "attn.c_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        *norm(_H + "ln_2", "blk.{n}.ffn_norm"),
        # gate and up count as one width
        Rule(_H + "mlp.w2.weight", "blk.{n}.ffn_gate.weight", ("ffn_half", "hidden")),
        Rule(_H + "mlp.w1.weight", "blk.{n}.ffn_up.weight", ("ffn_half", "hidden")),
        Rule(_H + "mlp.c_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn_half")),
    ),
    keys=(
        Key(("num_hidden_layers",), "block_count", "u32"),
        Key(("max_position_embeddings", "seq_length"), "context_length", "u32", always(8192)),
        Key(("hidden_size",), "embedding_length", "u32"),
        Key(("intermediate_size",), "feed_forward_length", "u32"),
        Key(("num_attention_heads",), "attention.head_count", "u32"),
        Key(("layer_norm_epsilon",), "attention.layer_norm_rms_epsilon", "f32", always(1e-6)),
        Key((), "attention.layer_norm_epsilon", "f32", same_as("layer_norm_epsilon")),
    ),
    embedding="token_embd.weight",
    assumptions=(Assumption("no_bias", (True,), True), Assumption("scale_attn_weights", (True,), True)),
    ignored=_BUFFERS,
    irregular=(_base("rotary_emb_base"),),
)


def _ratio(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    return ToGgml({_THETA: Typed("f32", 10000.0 * positive(config, "rope_ratio", 1.0))})


def _ratio_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    config: dict[str, Json] = {
        "rope_ratio": shortest(number(values, _THETA, 10000.0) / 10000.0),
        "kv_channels": sizes["head"],
        "padded_vocab_size": sizes["vocab"],
        "multi_query_attention": sizes["kv_heads"] != sizes["heads"],
    }
    return ToHf(config, keys=frozenset({_THETA}))


def _half(width: Callable[[Config], Json]) -> Callable[[Config], Json]:
    def count(config: Config) -> Json:
        found = width(config)
        return found // 2 if isinstance(found, int) else None

    return count


_GLM: Final = "{base}encoder.layers.{n}."
CHATGLM: Final = Family(
    model_type="chatglm",
    ggml="chatglm",
    classes=("ChatGLMForConditionalGeneration", "ChatGLMModel"),
    headless=frozenset(),
    bases=("transformer.",),
    rules=(
        Rule("{base}embedding.word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
        *norm("{base}encoder.final_layernorm", "output_norm"),
        Rule("{base}output_layer.weight", "output.weight", ("vocab", "hidden"), when="untied"),
        *norm(_GLM + "input_layernorm", "blk.{n}.attn_norm"),
        *module(_GLM + "self_attention.query_key_value", "blk.{n}.attn_qkv", ("qkv", "hidden")),
        Rule(_GLM + "self_attention.dense.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        *norm(_GLM + "post_attention_layernorm", "blk.{n}.ffn_norm"),
        Rule(_GLM + "mlp.dense_h_to_4h.weight", "blk.{n}.ffn_up.weight", ("ffn_pair", "hidden")),
        Rule(_GLM + "mlp.dense_4h_to_h.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
    ),
    keys=(
        Key(("num_layers",), "block_count", "u32"),
        Key(("seq_length",), "context_length", "u32", same_as("hidden_size")),
        Key(("hidden_size",), "embedding_length", "u32"),
        Key(("ffn_hidden_size",), "feed_forward_length", "u32"),
        Key(("num_attention_heads",), "attention.head_count", "u32"),
        Key(
            ("multi_query_group_num",),
            "attention.head_count_kv",
            "u32",
            same_as("num_attention_heads"),
            same_as("attention.head_count"),
        ),
        Key(("layernorm_epsilon",), "attention.layer_norm_rms_epsilon", "f32", always(1e-5)),
        Key((), "rope.dimension_count", "u32", _half(head_width), _half(head_width_implied)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("add_qkv_bias", (True,), False),
        Assumption("add_bias_linear", (False,), True),
        Assumption("rmsnorm", (True,), True),
        Assumption("post_layer_norm", (True,), True),
        Assumption("original_rope", (True,), True),
        Assumption("apply_residual_connection_post_layernorm", (False,), False),
    ),
    ignored=_BUFFERS,
    irregular=(Irregular(_ratio, _ratio_back),),
    half=F16,
    lacks="blk.0.attn_q.weight",
)

_CODE_SIZES: Final = (
    Key(("n_layer",), "block_count", "u32"),
    Key(("n_positions",), "context_length", "u32"),
    Key(("n_embd",), "embedding_length", "u32"),
    Key(("n_head",), "attention.head_count", "u32"),
)
CODESHELL: Final = Family(
    model_type="codeshell",
    ggml="codeshell",
    classes=("CodeShellForCausalLM", "CodeShellModel"),
    headless=frozenset({"CodeShellModel"}),
    bases=("transformer.", ""),
    rules=(
        Rule("{base}wte.weight", "token_embd.weight", ("vocab", "hidden")),
        *norm("{base}ln_f", "output_norm", bias=True),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
        *norm(_H + "ln_1", "blk.{n}.attn_norm", bias=True),
        *module(_H + "attn.c_attn", "blk.{n}.attn_qkv", ("qkv", "hidden")),
        *module(_H + "attn.c_proj", "blk.{n}.attn_output", ("hidden", "q")),
        *norm(_H + "ln_2", "blk.{n}.ffn_norm", bias=True),
        *module(_H + "mlp.c_fc", "blk.{n}.ffn_up", ("ffn", "hidden")),
        *module(_H + "mlp.c_proj", "blk.{n}.ffn_down", ("hidden", "ffn")),
    ),
    keys=(
        *_CODE_SIZES,
        Key((), "feed_forward_length", "u32", four_times("n_embd"), four_times("embedding_length")),
        Key(("num_query_groups",), "attention.head_count_kv", "u32"),
        Key(("layer_norm_epsilon",), "attention.layer_norm_epsilon", "f32", always(1e-5)),
        Key((), _THETA, "f32", always(10000.0), always(10000.0)),
        Key((), "rope.scaling.type", "str", always("linear"), always("linear")),
        Key((), "rope.scaling.factor", "f32", always(1.0), always(1.0)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("activation_function", ("gelu_pytorch_tanh", "gelu_new"), "gelu_pytorch_tanh"),
        Assumption("position_embedding_type", ("rope",), "learned_absolute"),
        Assumption("rope_scaling", (None,), None),
        Assumption("group_query_attention", (True,), True),
    ),
    ignored=_BUFFERS,
)


def _ffn(name: str) -> Callable[[Config], Json]:
    """Two thirds of four times the width, in steps of 256."""

    def width(config: Config) -> Json:
        hidden = config.get(name)
        return -(-int(8 * hidden / 3) // 256) * 256 if isinstance(hidden, int) else None

    return width


_KV: Final = Rule(
    _H + "attn.kv.weight",
    "blk.{n}.attn_k.weight",
    ("kv_pair", "hidden"),
    turn=0,
    among=("kv", "kv"),
    flat=("kv", "hidden"),
)
_GATE_UP: Final = Rule(
    _H + "mlp.gate_up_proj.weight",
    "blk.{n}.ffn_gate.weight",
    ("ffn_pair", "hidden"),
    turn=0,
    among=("ffn", "ffn"),
    flat=("ffn", "hidden"),
)
REFACT: Final = Family(
    model_type="gpt_refact",
    ggml="refact",
    classes=("GPTRefactForCausalLM",),
    headless=frozenset(),
    bases=("transformer.",),
    rules=(
        Rule("{base}wte.weight", "token_embd.weight", ("vocab", "hidden")),
        *norm("{base}ln_f", "output_norm"),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
        *norm(_H + "ln_1", "blk.{n}.attn_norm"),
        Rule(_H + "attn.q.weight", "blk.{n}.attn_q.weight", ("q", "hidden")),
        _KV,
        replace(_KV, ggml="blk.{n}.attn_v.weight", turn=1),
        Rule(_H + "attn.c_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        *norm(_H + "ln_2", "blk.{n}.ffn_norm"),
        _GATE_UP,
        replace(_GATE_UP, ggml="blk.{n}.ffn_up.weight", turn=1),
        Rule(_H + "mlp.c_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
    ),
    keys=(
        *_CODE_SIZES,
        Key((), "feed_forward_length", "u32", _ffn("n_embd"), _ffn("embedding_length")),
        Key((), "attention.head_count_kv", "u32", always(1), always(1)),
        Key(("layer_norm_epsilon",), "attention.layer_norm_rms_epsilon", "f32", always(1e-5)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("multi_query", (True,), True),
        Assumption("activation_function", ("silu", "gelu_pytorch_tanh"), "gelu_pytorch_tanh", written=False),
    ),
    ignored=_BUFFERS,
)


def _attention(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    said = config.get("attn_config") or {}
    if not isinstance(said, dict):
        raise PlanError("config.json: attn_config is no object")
    for name, only in (("attn_type", "multihead_attention"), ("prefix_lm", False), ("qk_ln", False), ("alibi", True)):
        if said.get(name, only) != only:
            raise PlanError(f"config.json: attn_config.{name} is {said[name]!r}, {only!r} is needed")
    values = {"attention.max_alibi_bias": Typed("f32", positive(said, "alibi_bias_max", 8.0))}
    if said.get("clip_qkv") is not None:
        values["attention.clamp_kqv"] = Typed("f32", positive(said, "clip_qkv"))
    return ToGgml(values)


def _attention_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    clip = values.get("attention.clamp_kqv")
    said: Json = {
        "alibi": True,
        "alibi_bias_max": int(number(values, "attention.max_alibi_bias", 8.0)),
        "attn_type": "multihead_attention",
        "clip_qkv": None if clip is None else shortest(number(values, "attention.clamp_kqv")),
        "prefix_lm": False,
        "qk_ln": False,
        "softmax_scale": None,
    }
    keys = frozenset({"attention.clamp_kqv", "attention.max_alibi_bias"})
    return ToHf({"attn_config": said, "expansion_ratio": sizes["ffn"] // sizes["hidden"]}, keys=keys)


_BLOCK: Final = "{base}blocks.{n}."
MPT: Final = Family(
    model_type="mpt",
    ggml="mpt",
    classes=("MptForCausalLM", "MptModel", "MPTForCausalLM"),
    headless=frozenset({"MptModel"}),
    bases=("transformer.", ""),
    rules=(
        Rule("{base}wte.weight", "token_embd.weight", ("vocab", "hidden")),
        *norm("{base}norm_f", "output_norm"),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
        *norm(_BLOCK + "norm_1", "blk.{n}.attn_norm"),
        Rule(_BLOCK + "attn.Wqkv.weight", "blk.{n}.attn_qkv.weight", ("qkv", "hidden")),
        Rule(_BLOCK + "attn.out_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
        *norm(_BLOCK + "norm_2", "blk.{n}.ffn_norm"),
        Rule(_BLOCK + "ffn.up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden")),
        Rule(_BLOCK + "ffn.down_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
    ),
    keys=(
        Key(("n_layers",), "block_count", "u32", always(24)),
        Key(("max_seq_len",), "context_length", "u32", always(2048)),
        Key(("d_model",), "embedding_length", "u32", always(2048)),
        Key((), "feed_forward_length", "u32", four_times("d_model"), four_times("embedding_length")),
        Key(("n_heads",), "attention.head_count", "u32", always(16)),
        Key((), "attention.layer_norm_epsilon", "f32", always(1e-5), always(1e-5)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("no_bias", (True,), True),
        Assumption("expansion_ratio", (4,), 4),
        Assumption("layer_norm_epsilon", (1e-5,), 1e-5),
        Assumption("norm_type", ("low_precision_layernorm", "layernorm"), "low_precision_layernorm"),
        Assumption("logit_scale", (None,), None),
    ),
    irregular=(Irregular(_attention, _attention_back),),
    tied=True,
)
