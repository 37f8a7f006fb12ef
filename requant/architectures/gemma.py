"""Gemma 1 and 2: norms stored as offsets from one, tied heads.

Facts: llama.cpp's conversion/gemma.py and src/models/gemma.cpp, gemma2.cpp (which knows Gemma 2 27B by its 46 layers,
and scales its attention by hidden size over heads).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.decoders import (
    LAYER,
    SIZES,
    TIED,
    decoder,
    norm,
    rms_norm_eps,
    shifted,
    trunk,
)
from requant.architectures.llama import MLP, NORMS, head_width_implied
from requant.architectures.numbers import number
from requant.architectures.rope import Rope
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Irregular,
    Key,
    Sizes,
    ToGgml,
    ToHf,
    always,
    same_as,
)
from requant.architectures.windows import Windows
from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor

_LAYERS_27B: Final = 46

_HEAD: Final = (
    Key(("head_dim",), "attention.key_length", "u32", default=always(256), implied=head_width_implied),
    Key((), "attention.value_length", "u32", default=same_as("head_dim"), implied=same_as("attention.key_length")),
)
_NO_BIAS: Final = Assumption("attention_bias", (False,), False)
_CAUSAL: Final = Assumption("use_bidirectional_attention", (None, False), None, written=False)

GEMMA: Final[Family] = decoder(
    "Gemma",
    "gemma",
    "gemma",
    shifted((*trunk(), *NORMS, *MLP)),
    (*SIZES, rms_norm_eps(1e-6), *_HEAD),
    (Rope(theta=10000.0).pair(),),
    # `hidden_act: gelu` of the first release is a mistake that transformers corrects; `hidden_activation` overrides it
    assumptions=(
        Assumption("hidden_act", ("gelu_pytorch_tanh", "gelu"), "gelu_pytorch_tanh"),
        Assumption("hidden_activation", (None, "gelu_pytorch_tanh"), None, written=False),
        _NO_BIAS,
        _CAUSAL,
        TIED,
    ),
    tied=True,
    outgrows_f16=True,
)


def _scalar(sizes: Sizes) -> int:
    """What llama.cpp takes for `query_pre_attn_scalar`."""
    return sizes["hidden"] // sizes["heads"] if sizes["layers"] == _LAYERS_27B else sizes["head"]


def _scale_to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    scalar = number(config, "query_pre_attn_scalar", 256)
    if scalar != _scalar(sizes):
        raise PlanError(
            f"config.json: query_pre_attn_scalar is {scalar:g}; llama.cpp scales attention by {_scalar(sizes)} here"
        )
    return ToGgml()


def _scale_to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf({"query_pre_attn_scalar": _scalar(sizes)})


GEMMA2: Final[Family] = decoder(
    "Gemma2",
    "gemma2",
    "gemma2",
    shifted(
        (
            *trunk(),
            *norm(LAYER + "input_layernorm", "blk.{n}.attn_norm"),
            *norm(LAYER + "post_attention_layernorm", "blk.{n}.post_attention_norm"),
            *norm(LAYER + "pre_feedforward_layernorm", "blk.{n}.ffn_norm"),
            *MLP,
            *norm(LAYER + "post_feedforward_layernorm", "blk.{n}.post_ffw_norm"),
        )
    ),
    (
        *SIZES,
        rms_norm_eps(1e-6),
        *_HEAD,
        # llama.cpp's own values where a GGUF says nothing are transformers' too
        Key(("attn_logit_softcapping",), "attn_logit_softcapping", "f32", always(50.0), always(50.0)),
        Key(("final_logit_softcapping",), "final_logit_softcapping", "f32", always(30.0), always(30.0)),
    ),
    (Rope(theta=10000.0).pair(), Windows(2, 4096, always=True).pair(), Irregular(_scale_to_ggml, _scale_to_hf)),
    assumptions=(
        Assumption("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh"),
        _NO_BIAS,
        _CAUSAL,
        TIED,
    ),
    tied=True,
    outgrows_f16=True,
)
