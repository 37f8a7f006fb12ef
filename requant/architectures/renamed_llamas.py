"""Llamas under other names, or with a line more: EXAONE 3, MiniCPM, openPangu Embedded, Maincoder, Nanbeige, KORMo and
NVIDIA's embedding llama.

Facts: llama.cpp's conversion/exaone.py, minicpm.py, pangu.py, maincoder.py, nanbeige.py, qwen.py, llama.py, and the
files of these architectures in src/models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.decoders import (
    ATTN,
    LAYER,
    SIZES,
    VOCABULARY_SIZE,
    decoder,
    head_norms,
    norm,
    rms_norm_eps,
    trunk,
)
from requant.architectures.llama import (
    HEAD_KEYS,
    LLAMA,
    MLP,
    NORMS,
    SILU,
    TRUNK,
    attention,
    attention_biases,
    head_width,
    head_width_implied,
)
from requant.architectures.numbers import number, shortest
from requant.architectures.rope import Rope, rotary
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
    same_as,
)
from requant.ir import Checkpoint, Json, Tensor, Typed

_ROPE: Final = (Rope(theta=10000.0).pair(),)
_ROTARY: Final = Key((), "rope.dimension_count", "u32", default=head_width, implied=head_width_implied)

_H: Final = "{base}h.{n}."
_H_ATTN: Final = _H + "attn.attention."
EXAONE: Final[Family] = replace(
    decoder(
        "Exaone",
        "exaone",
        "exaone",
        (
            Rule("{base}wte.weight", "token_embd.weight", ("vocab", "hidden")),
            *norm("{base}ln_f", "output_norm"),
            Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
            *norm(_H + "ln_1", "blk.{n}.attn_norm"),
            *norm(_H + "ln_2", "blk.{n}.ffn_norm"),
            Rule(_H_ATTN + "q_proj.weight", "blk.{n}.attn_q.weight", ("q", "hidden")),
            Rule(_H_ATTN + "k_proj.weight", "blk.{n}.attn_k.weight", ("kv", "hidden")),
            Rule(_H_ATTN + "v_proj.weight", "blk.{n}.attn_v.weight", ("kv", "hidden")),
            Rule(_H_ATTN + "out_proj.weight", "blk.{n}.attn_output.weight", ("hidden", "q")),
            Rule(_H + "mlp.c_fc_0.weight", "blk.{n}.ffn_gate.weight", ("ffn", "hidden")),
            Rule(_H + "mlp.c_fc_1.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden")),
            Rule(_H + "mlp.c_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn")),
        ),
        (
            *(
                replace(key, hf=("num_layers", "num_hidden_layers")) if key.ggml == "block_count" else key
                for key in SIZES
            ),
            Key(("layer_norm_epsilon",), "attention.layer_norm_rms_epsilon", "f32", always(1e-5)),
            # as the converter reads it; llama.cpp reads the other
            Key((), "attention.layer_norm_epsilon", "f32", same_as("layer_norm_epsilon")),
            *HEAD_KEYS,
            Key((), "rope.dimension_count", "u32", default=rotary(1.0)),
        ),
        (Rope(theta=10000.0, in_part=1.0).pair(),),
        assumptions=(Assumption("activation_function", ("silu",), "silu"),),
    ),
    bases=("transformer.", ""),
)


def _scales(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    depth = number(config, "scale_depth", 1.0) / sizes["layers"] ** 0.5
    base = number(config, "dim_model_base", 1.0)
    values = {
        "embedding_scale": number(config, "scale_emb", 1.0),
        "residual_scale": depth,
        "logit_scale": sizes["hidden"] / base if base else 0.0,
    }
    return ToGgml({key: Typed("f32", value) for key, value in values.items()})


def _scales_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    """llama.cpp's own numbers, where a file lacks them, are those of the first release."""
    root = sizes["layers"] ** 0.5
    logits = number(values, "logit_scale", 256.0 / sizes["hidden"])
    config: dict[str, Json] = {
        "scale_emb": shortest(number(values, "embedding_scale", 12.0)),
        "scale_depth": shortest(float(f"{number(values, 'residual_scale', 1.4 / root) * root:.6g}")),
        "dim_model_base": shortest(float(f"{sizes['hidden'] / logits:.6g}")) if logits else 1.0,
    }
    return ToHf(config, keys=frozenset({"embedding_scale", "residual_scale", "logit_scale"}))


MINICPM: Final[Family] = decoder(
    "MiniCPM",
    "minicpm",
    "minicpm",
    (*TRUNK, *NORMS, *attention(Order.ROPE), *MLP),
    (*SIZES, rms_norm_eps(1e-6)),
    (*_ROPE, Irregular(_scales, _scales_back)),
    assumptions=(SILU, Assumption("attention_bias", (False,), False)),
    tied=True,
)

PANGU: Final[Family] = decoder(
    "PanguEmbedded",
    "PanguEmbedded",
    "pangu-embedded",
    (
        *TRUNK,
        *NORMS,
        *attention(Order.SAME),
        *attention_biases(Order.SAME, ""),
        Rule(ATTN + "o_proj.bias", "blk.{n}.attn_output.bias", ("hidden",)),
        *MLP,
    ),
    (*SIZES, rms_norm_eps(1e-5), *HEAD_KEYS, VOCABULARY_SIZE, _ROTARY),
    _ROPE,
    assumptions=(SILU, Assumption("bias", (True,), True)),
    other_types=("pangu_embedded",),
)

MAINCODER: Final[Family] = decoder(
    "Maincoder",
    "maincoder",
    "maincoder",
    (*trunk(), *NORMS, *head_norms(), *MLP),
    (
        *SIZES,
        rms_norm_eps(1e-5),
        *HEAD_KEYS,
        Key((), "rope.dimension_count", "u32", same_as("head_dim"), same_as("attention.key_length")),
    ),
    _ROPE,
    assumptions=(SILU, Assumption("attention_bias", (False,), False)),
)

NANBEIGE: Final[Family] = decoder(
    "Nanbeige",
    "nanbeige",
    "nanbeige",
    (*TRUNK, *NORMS, *attention(Order.ROPE), *MLP),
    (
        *LLAMA.keys,
        Key(("num_loops",), "num_loops", "u32", always(1), always(1)),
        Key(("skip_loop_final_norm",), "skip_loop_final_norm", "bool", always(False), always(False)),
    ),
    _ROPE,
    assumptions=(SILU, Assumption("attention_bias", (False,), False), Assumption("mlp_bias", (False,), False)),
)

#: A GGUF of it is one of a Qwen 2, without biases.
KORMO: Final[Family] = replace(
    decoder(
        "KORMo",
        "kormo",
        "qwen2",
        (
            *TRUNK,
            *norm(LAYER + "pre_attention_layernorm", "blk.{n}.attn_norm"),
            *norm(LAYER + "pre_mlp_layernorm", "blk.{n}.ffn_norm"),
            *attention(Order.SAME),
            *MLP,
        ),
        (*SIZES, rms_norm_eps(1e-5), *HEAD_KEYS),
        _ROPE,
        assumptions=(SILU, Assumption("attention_bias", (False,), False)),
    ),
    lacks="blk.0.attn_q.bias",
)

LLAMA_EMBED: Final[Family] = replace(
    LLAMA,
    model_type="llama_bidirec",
    ggml="llama-embed",
    classes=("LlamaBidirectionalModel",),
    headless=frozenset({"LlamaBidirectionalModel"}),
    bases=("", "model."),
    keys=(*LLAMA.keys, Key((), "attention.causal", "bool", default=always(False), implied=always(False))),
)
