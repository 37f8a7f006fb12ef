"""GPT-2: learned positions, fused qkv, and Conv1D weights stored [in, out]; and what is made like it: ruGPT-3 XL, the
same model under llama's names, and Jais, with a gate, and ALiBi in place of positions.

Facts: llama.cpp's conversion/gpt2.py and jais.py, src/models/gpt2.cpp and jais.cpp; the released modeling_jais.py, and
configuration_rugpt3xl.py. A GGUF of ruGPT-3 XL is one of GPT-2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from requant.architectures.decoders import norm
from requant.architectures.few import few
from requant.architectures.numbers import number, positive
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Order,
    Rule,
    Sizes,
    Times,
    ToGgml,
    ToHf,
    always,
    four_times,
    module,
    never,
)
from requant.encodings import F16, F32
from requant.errors import PlanError
from requant.expressions import Joined, Stored, reshaped
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.losses import Loss, LossKind
from requant.plan import Move
from requant.sources import Memory


def _layer(hf: str, ggml: str, weight: tuple[str, ...], bias: str, order: Order = Order.SAME) -> tuple[Rule, Rule]:
    """Weight and bias of one module of a layer."""
    hf, ggml = "{base}h.{n}." + hf, "blk.{n}." + ggml
    return Rule(hf + ".weight", ggml + ".weight", weight, order), Rule(hf + ".bias", ggml + ".bias", (bias,))


GPT2: Final = Family(
    model_type="gpt2",
    ggml="gpt2",
    classes=("GPT2LMHeadModel", "GPT2Model"),
    headless=frozenset({"GPT2Model"}),
    bases=("transformer.", ""),
    upright="model.",
    rules=(
        Rule("{base}wte.weight", "token_embd.weight", ("vocab", "hidden")),
        Rule("{base}wpe.weight", "position_embd.weight", ("positions", "hidden")),
        *_layer("ln_1", "attn_norm", ("hidden",), "hidden"),
        *_layer("attn.c_attn", "attn_qkv", ("hidden", "qkv"), "qkv", Order.TRANSPOSED),
        *_layer("attn.c_proj", "attn_output", ("hidden", "hidden"), "hidden", Order.TRANSPOSED),
        *_layer("ln_2", "ffn_norm", ("hidden",), "hidden"),
        *_layer("mlp.c_fc", "ffn_up", ("hidden", "ffn"), "ffn", Order.TRANSPOSED),
        *_layer("mlp.c_proj", "ffn_down", ("ffn", "hidden"), "hidden", Order.TRANSPOSED),
        Rule("{base}ln_f.weight", "output_norm.weight", ("hidden",)),
        Rule("{base}ln_f.bias", "output_norm.bias", ("hidden",)),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
    ),
    keys=(
        Key(("n_layer",), "block_count", "u32"),
        Key(("n_positions", "n_ctx"), "context_length", "u32"),
        Key(("n_embd",), "embedding_length", "u32"),
        Key(
            ("n_inner",),
            "feed_forward_length",
            "u32",
            default=four_times("n_embd"),
            implied=four_times("embedding_length"),
        ),
        Key(("n_head",), "attention.head_count", "u32"),
        Key(("layer_norm_epsilon",), "attention.layer_norm_epsilon", "f32", default=always(1e-5)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new"),
        Assumption("scale_attn_weights", (True,), True),
        Assumption("scale_attn_by_inverse_layer_idx", (False,), False),
        Assumption("add_cross_attention", (False,), False, written=False),
    ),
    ignored=(Ignored(r".*\.attn\.(bias|masked_bias)", "the causal mask, which is the same for every model"),),
    tied=True,
    half=F16,
)

_XL: Final = "{base}layers.{n}."
_QKV: Final = tuple(f"{_XL}self_attn.{part}_proj.{{kind}}" for part in "qkv")


def _joined_qkv(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    """Queries, keys and values of a layer as one matrix, and as one bias."""
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    base = next(base for base in ("model.", "") if base == "" or f"{base}embed_tokens.weight" in tensors)
    moves = []
    for n in range(sizes["layers"]):
        for kind, shape in (("weight", (sizes["hidden"], sizes["hidden"])), ("bias", (sizes["hidden"],))):
            names = [name.format(base=base, n=n, kind=kind) for name in _QKV]
            for name in names:
                if name not in tensors or tensors[name].shape != shape:
                    raise PlanError(f"tensor {name!r} (layer {n}) is missing, or not of the shape {list(shape)}")
            parts = Joined(tuple(Stored(tensors[name]) for name in names))
            moves.append(Move(f"blk.{n}.attn_qkv.{kind}", reshaped(parts, (3 * shape[0], *shape[1:]))))
    return ToGgml(moves=tuple(moves), used=frozenset(tensor.name for move in moves for tensor in move.inputs))


RUGPT3_XL: Final = Family(
    model_type="rugpt3xl",
    ggml="gpt2",
    classes=("RuGPT3XLForCausalLM", "RuGPT3XLModel"),
    headless=frozenset({"RuGPT3XLModel"}),
    bases=("model.", ""),
    rules=(
        Rule("{base}embed_tokens.weight", "token_embd.weight", ("vocab", "hidden")),
        Rule("{base}embed_positions.weight", "position_embd.weight", ("positions", "hidden")),
        *norm(_XL + "input_layernorm", "blk.{n}.attn_norm", bias=True),
        *module(_XL + "self_attn.o_proj", "blk.{n}.attn_output", ("hidden", "hidden")),
        *norm(_XL + "post_attention_layernorm", "blk.{n}.ffn_norm", bias=True),
        *module(_XL + "mlp.up_proj", "blk.{n}.ffn_up", ("ffn", "hidden")),
        *module(_XL + "mlp.down_proj", "blk.{n}.ffn_down", ("hidden", "ffn")),
        *norm("{base}norm", "output_norm", bias=True),
        Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
    ),
    keys=(
        Key(("num_hidden_layers",), "block_count", "u32"),
        Key(("max_position_embeddings",), "context_length", "u32"),
        Key(("hidden_size",), "embedding_length", "u32"),
        Key(("intermediate_size",), "feed_forward_length", "u32", default=four_times("hidden_size")),
        Key(("num_attention_heads",), "attention.head_count", "u32"),
        Key(("layer_norm_eps",), "attention.layer_norm_epsilon", "f32", default=always(1e-5)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("hidden_act", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new"),
        Assumption("sparse_mode", ("none", None), "none", loss="llama.cpp lets every layer attend to all"),
    ),
    irregular=(Irregular(_joined_qkv, lambda values, tensors, sizes: ToHf()),),
    besides=tuple(name.format(base="{base}", n="{n}", kind=kind) for name in _QKV for kind in ("weight", "bias")),
    claims=never,
    half=F16,
)

_SLOPES: Final = "relative_pe.slopes"
_BIAS: Final = "attention.max_alibi_bias"
#: What the embedding and the logits are multiplied by: the names of Jais 1's releases, and those of the later ones.
_EMBEDDED: Final = ("mup_embeddings_scale", "embeddings_scale")
_BY_WIDTH: Final = ("mup_width_scale", "width_scale")


def _either(config: Config, names: tuple[str, ...]) -> float:
    return next((number(config, name) for name in names if config.get(name) is not None), 1.0)


def _factors(config: Config) -> Mapping[str, float]:
    return {
        "embedding": _either(config, _EMBEDDED),
        "output": number(config, "mup_output_alpha", 1.0) * _either(config, _BY_WIDTH),
    }


def _slopes(heads: int, most: float) -> NDArray[np.float32]:
    """[heads]: what llama.cpp multiplies distances by, head by head."""
    whole = 1 << (heads.bit_length() - 1)
    powers = [*(n / whole for n in range(1, whole + 1)), *(n / whole / 2 for n in range(1, 2 * (heads - whole), 2))]
    return np.array([2.0 ** (-most * power) for power in powers], np.float32)


def _alibi(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    if not config.get("mup_scale_qk_dot_by_d", config.get("scale_qk_dot_by_d", False)):
        raise PlanError("config.json: mup_scale_qk_dot_by_d is not true; llama.cpp divides by the width of a head")
    stored = next((tensor for tensor in checkpoint.tensors if tensor.name.endswith(_SLOPES)), None)
    heads, most, used = sizes["heads"], 8.0, frozenset[str]()
    if stored is not None:
        slopes, used = few(stored).ravel(), frozenset({stored.name})
        if len(slopes) != heads or not ((slopes > 0) & (slopes < 1)).all():
            raise PlanError(f"tensor {stored.name!r} has not {heads} numbers between 0 and 1")
        most = float(-round(math.log2(slopes[0]) * (1 << (heads.bit_length() - 1))))
        if not np.allclose(slopes, _slopes(heads, most), rtol=4e-3, atol=0):  # of bfloat16
            raise PlanError(f"tensor {stored.name!r} is no ALiBi of llama.cpp's: slopes that halve from head to head")
    losses = []
    if config.get("alibi_scaling") is not None:
        detail = "llama.cpp leaves ALiBi as it is where a text is longer than those of training"
        losses.append(Loss(LossKind.METADATA_DROPPED, "alibi_scaling", detail))
    return ToGgml({_BIAS: Typed("f32", most)}, used=used, losses=tuple(losses))


def _alibi_back(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    heads = sizes["heads"]
    data = Memory(_slopes(heads, positive(values, _BIAS, 8.0)).astype("<f4").tobytes())
    slopes = Tensor(f"transformer.{_SLOPES}", (heads, 1), F32, {"data": data})
    ones: dict[str, Json] = dict.fromkeys((_EMBEDDED[0], _BY_WIDTH[0], "mup_output_alpha"), 1.0)
    return ToHf(
        {**ones, "mup_scale_qk_dot_by_d": True},
        keys=frozenset({_BIAS}),
        moves=(Move(slopes.name, Stored(slopes)),),
    )


JAIS: Final = replace(
    GPT2,
    model_type="jais",
    ggml="jais",
    classes=("JAISLMHeadModel", "JAISModel"),
    headless=frozenset({"JAISModel"}),
    upright="",
    rules=(
        *(
            replace(rule, times=(Times(("embedding" if rule.ggml.startswith("token") else "output",)),))
            if rule.ggml in ("token_embd.weight", "output.weight")
            else rule
            for rule in GPT2.rules
            if rule.ggml != "position_embd.weight"
        ),
        *_layer("mlp.c_fc2", "ffn_gate", ("hidden", "ffn"), "ffn", Order.TRANSPOSED),
    ),
    assumptions=(
        Assumption("activation_function", ("swiglu",), "gelu_new"),
        Assumption("position_embedding_type", ("alibi",), "learned"),
        Assumption("scale_attn_weights", (True,), True),
        Assumption("scale_attn_by_inverse_layer_idx", (False,), False),
        Assumption("add_cross_attention", (False,), False, written=False),
    ),
    irregular=(Irregular(_alibi, _alibi_back),),
    besides=(f"{{base}}{_SLOPES}",),
    factors=_factors,
)
