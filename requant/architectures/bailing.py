"""BailingMoE (Ling lite), BailingMoE 2 (Ling and Ring 2.0), Sarvam-MoE: queries, keys and values in one matrix.

llama.cpp takes the mean of Sarvam's correction from it, as its makers do when they load it: it changes no choice of
experts, and does not come back. Facts: llama.cpp's conversion/bailingmoe.py and src/models/bailingmoe.cpp,
bailingmoe2.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from requant.architectures import mixture
from requant.architectures.decoders import LAYER, SIZES, VOCABULARY_SIZE, decoder, fused, norm, rms_norm_eps
from requant.architectures.few import few
from requant.architectures.llama import BUFFERS, HEAD_KEYS, NORMS, SILU, head_width, head_width_implied
from requant.architectures.names import base_of
from requant.architectures.numbers import number
from requant.architectures.qwen import EXPERTS
from requant.architectures.rope import Rope, rotary
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
    ToGgml,
    ToHf,
    always,
    never,
    unsaid,
)
from requant.encodings import F32
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor
from requant.sources import Memory

_TRUNK: Final = (
    Rule("{base}word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    Rule("{base}norm.weight", "output_norm.weight", ("hidden",)),
    Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
)
_QKV: Final = LAYER + "attention.query_key_value.weight"
_DENSE: Final = Rule(LAYER + "attention.dense.weight", "blk.{n}.attn_output.weight", ("hidden", "q"))
_NO_BIAS: Final = (
    SILU,
    Assumption("use_bias", (False,), False),
    Assumption("use_qkv_bias", (False,), False),
)
_COUNTS: Final = (
    Key(("num_experts",), "expert_count", "u32"),
    Key(("num_experts_per_tok",), "expert_used_count", "u32"),
    Key(("moe_intermediate_size",), "expert_feed_forward_length", "u32"),
    Key(("num_shared_experts",), "expert_shared_count", "u32"),
    Key(("norm_topk_prob",), "expert_weights_norm", "bool", always(False), always(False)),
)

BAILING_MOE: Final[Family] = replace(
    decoder(
        "BailingMoe",
        "bailing_moe",
        "bailingmoe",
        (
            *_TRUNK,
            *NORMS,
            *fused(_QKV, Order.ROPE),
            _DENSE,
            *EXPERTS,
            *(replace(rule, when="") for rule in mixture.shared_expert("shared_experts")),
        ),
        (
            *SIZES,
            rms_norm_eps(1e-6),
            *HEAD_KEYS,
            VOCABULARY_SIZE,
            Key((), "rope.dimension_count", "u32", default=head_width, implied=head_width_implied),
            *_COUNTS,
            Key((), "expert_weights_scale", "f32", always(1.0), always(1.0)),
            Key(("first_k_dense_replace",), mixture.LEADING, "u32", always(0), always(0)),
        ),
        (Rope(theta=10000.0).pair(),),
        assumptions=(
            *_NO_BIAS,
            Assumption("first_k_dense_replace", (0,), 0, written=False),
            Assumption(
                "norm_head",
                (False,),
                False,
                loss="each row of the head is divided by its length in this model, and would be written as it is",
            ),
        ),
    ),
    headless=frozenset({"BailingMoeModel"}),
)


def _shared_width(config: Config) -> Json:
    said = config.get("moe_shared_expert_intermediate_size")
    if said is not None:
        return said
    return int(number(config, "moe_intermediate_size")) * int(number(config, "num_shared_experts", 1))


def _score(config: Config) -> Json:
    """llama.h's number of the function that makes scores of logits."""
    return {"softmax": 1, "sigmoid": 2}.get(str(config.get("score_function", "sigmoid")))


def _written(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    softmax = values.get("expert_gating_func") == 1
    return ToHf(
        {
            "score_function": "softmax" if softmax else "sigmoid",
            "moe_shared_expert_intermediate_size": sizes["shared_ffn"],
        }
    )


_BIAS: Final = mixture.correction("mlp.gate.expert_bias")

BAILING_MOE2: Final[Family] = replace(
    decoder(
        "BailingMoeV2",
        "bailing_moe_v2",
        "bailingmoe2",
        (
            *_TRUNK,
            *NORMS,
            Rule(_QKV, "blk.{n}.attn_qkv.weight", ("qkv", "hidden")),
            _DENSE,
            *norm(LAYER + "attention.query_layernorm", "blk.{n}.attn_q_norm", "head"),
            *norm(LAYER + "attention.key_layernorm", "blk.{n}.attn_k_norm", "head"),
            *mixture.DENSE_MLP,
            *mixture.SPARSE_EXPERTS,
            _BIAS,
            *mixture.shared_expert("shared_experts"),
        ),
        (
            *SIZES,
            rms_norm_eps(1e-6),
            *HEAD_KEYS,
            VOCABULARY_SIZE,
            Key((), "rope.dimension_count", "u32", default=rotary(0.5)),
            *_COUNTS,
            Key((), "expert_shared_feed_forward_length", "u32", _shared_width),
            Key((), "expert_gating_func", "u32", _score),
            Key(("routed_scaling_factor",), "expert_weights_scale", "f32", always(1.0), always(1.0)),
            Key(("first_k_dense_replace",), mixture.LEADING, "u32", always(0), always(0)),
            Key(("n_group",), "expert_group_count", "u32", always(None), always(None)),
            Key(("topk_group",), "expert_group_used_count", "u32", always(None), always(None)),
        ),
        (Rope(theta=10000.0, in_part=0.5).pair(), Irregular(unsaid, _written)),
        assumptions=(*_NO_BIAS, Assumption("use_qk_norm", (True,), True)),
    ),
    layers=mixture.dense_layers(),
    ignored=(
        *BUFFERS,
        Ignored(r"model\.layers\..*", "a layer that predicts ahead, which this conversion leaves out", True, True),
    ),
)


def _centred(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    """The corrections without their mean; a few numbers, read now."""
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    base, found, used = base_of(SARVAM_MOE, tensors), [], set[str]()
    for n in range(int(number(config, "first_k_dense_replace", 0)), sizes["layers"]):
        name = _BIAS.hf.format(base=base, n=n)
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != (sizes["experts"],):
            raise PlanError(f"tensor {name!r} is missing, or no vector of {sizes['experts']} numbers")
        numbers = few(tensor)
        data = (numbers - numbers.mean(dtype=np.float32)).astype("<f4").tobytes()
        found.append(Tensor(_BIAS.ggml.format(n=n), tensor.shape, F32, {"data": Memory(data)}))
        used.add(name)
    return ToGgml(tensors=tuple(found), used=frozenset(used))


#: A GGUF of it is one of a BailingMoE 2.
SARVAM_MOE: Final[Family] = replace(
    BAILING_MOE2,
    model_type="sarvam_moe",
    classes=("SarvamMoEForCausalLM", "modeling_sarvam_moe.SarvamMoEForCausalLM"),
    headless=frozenset(),
    rules=tuple(rule for rule in BAILING_MOE2.rules if rule is not _BIAS),
    keys=tuple(
        Key((), key.ggml, "u32", default=head_width) if key.ggml == "rope.dimension_count" else key
        for key in BAILING_MOE2.keys
    ),
    irregular=(*BAILING_MOE2.irregular, Irregular(_centred, lambda values, tensors, sizes: ToHf())),
    alone=("BailingMoeV2ForCausalLM", "bailing_moe_v2"),
    claims=never,
)
