"""HunYuan, dense and with experts, and HY 3: norms of each head, and a rotation whose base `alpha` raises.

Facts: llama.cpp's conversion/hunyuan.py and src/models/hunyuan-dense.cpp; transformers' modeling_hunyuan_v1_dense.py.
llama.cpp's converter writes a context of 256 K for such a model whatever config.json says; here config.json is
believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures import mixture
from requant.architectures.decoders import ATTN, SIZES, decoder, head_norms, norm, rms_norm_eps, trunk
from requant.architectures.llama import (
    BUFFERS,
    HEAD_KEYS,
    MLP,
    NORMS,
    SILU,
    heads_of,
)
from requant.architectures.numbers import number, positive, shortest
from requant.architectures.qwen import EXPERTS
from requant.architectures.rope import Rope, parameters
from requant.architectures.rules import (
    Assumption,
    Config,
    Default,
    Family,
    Ignored,
    Irregular,
    Key,
    Sizes,
    ToGgml,
    ToHf,
    always,
    same_as,
)
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor, Typed

_ROPE: Final = Rope(theta=10000.0)


def _raised(theta: float, alpha: float, head: int) -> float:
    """The base that gives the same frequencies without `alpha`."""
    return float(theta * alpha ** (head / (head - 2)))


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    rope = parameters(config, _ROPE.theta)
    if rope["rope_type"] != "dynamic" or not rope.get("alpha"):
        return _ROPE.to_ggml(checkpoint, config, sizes)
    base = _raised(positive(rope, "rope_theta"), positive(rope, "alpha"), sizes["head"])
    return ToGgml(
        {
            "rope.freq_base": Typed("f32", base),
            "rope.scaling.type": Typed("str", "none"),
            "rope.scaling.factor": Typed("f32", 1.0),
        }
    )


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    said = _ROPE.to_hf(values, tensors, sizes)
    if values.get("rope.scaling.type") != "none" or values.get("rope.scaling.factor") != 1.0:
        return said
    # base and alpha cannot be told apart: the base of every release is taken
    raised = number(values, "rope.freq_base") / _ROPE.theta
    alpha = shortest(raised ** ((sizes["head"] - 2) / sizes["head"]))
    rope: dict[str, Json] = {"rope_type": "dynamic", "type": "dynamic", "alpha": alpha, "factor": 1.0}
    return replace(said, config={**said.config, "rope_theta": _ROPE.theta, "rope_scaling": rope})


HUNYUAN: Final[Family] = decoder(
    "HunYuanDenseV1",
    "hunyuan_v1_dense",
    "hunyuan-dense",
    (
        *trunk(),
        *NORMS,
        *norm(ATTN + "query_layernorm", "blk.{n}.attn_q_norm", "head"),
        *norm(ATTN + "key_layernorm", "blk.{n}.attn_k_norm", "head"),
        *MLP,
    ),
    (*SIZES, rms_norm_eps(1e-5), *HEAD_KEYS),
    (Irregular(_to_ggml, _to_hf),),
    assumptions=(SILU, Assumption("attention_bias", (False,), False)),
)


_SHARED, _COUNTED = mixture.shared_width("num_shared_experts", 1)

HY_V3: Final[Family] = replace(
    decoder(
        "HYV3",
        "hy_v3",
        "hy_v3",
        (
            *trunk(),
            *NORMS,
            *head_norms(),
            *mixture.DENSE_MLP,
            replace(mixture.SPARSE_EXPERTS[0], hf=mixture.MLP_ + "router.gate.weight", apart=()),
            *mixture.SPARSE_EXPERTS[1:],
            mixture.correction("mlp.expert_bias", "exp_probs_b"),
            *mixture.shared_expert("shared_mlp"),
        ),
        (
            *SIZES,
            rms_norm_eps(1e-5),
            *heads_of(128),
            *mixture.counts(192, 8, ffn=always(1536)),
            _SHARED,
            # unread by llama.cpp, which goes by the tensors; the way back would not know the dense layers without it
            Key((), mixture.LEADING, "u32", mixture.leading_dense(1)),
            mixture.gating(mixture.SIGMOID),
            Key(("router_scaling_factor",), "expert_weights_scale", "f32", always(2.826), always(1.0)),
            Key(("route_norm",), "expert_weights_norm", "bool", always(True), always(False)),
        ),
        (Rope(theta=11158840.0).pair(), mixture.LISTED, _COUNTED),
        assumptions=(
            SILU,
            Assumption("attention_bias", (False,), False),
            Assumption("mlp_bias", (False,), False),
        ),
    ),
    layers=mixture.dense_layers(1),
    ignored=(
        *BUFFERS,
        Ignored(r"model\.mtp.*", "a layer that predicts ahead, which this conversion leaves out", lost=True),
    ),
)


def _first(name: str, absent: int, *others: str) -> Default:
    """A number that config.json gives once, or the same for each layer."""

    def number_of(config: Config) -> Json:
        found = next((config[key] for key in (name, *others) if config.get(key) is not None), absent)
        if isinstance(found, list):
            if len({str(item) for item in found}) != 1:
                raise PlanError(f"config.json: {name} differs between layers; llama.cpp knows one for all")
            return found[0]
        return found

    return number_of


def _width(config: Config) -> Json:
    """Of an expert; that of the shared one where config.json does not say."""
    return _first("moe_intermediate_size", 0, "intermediate_size")(config)


def _lists(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    used = int(number(values, "expert_used_count"))
    layers: int = sizes["layers"]
    return ToHf(
        {
            "moe_topk": [used] * layers,
            "moe_intermediate_size": [sizes["expert_ffn"]] * layers,
            "num_shared_expert": [1] * layers,
        }
    )


HUNYUAN_MOE: Final[Family] = decoder(
    "HunYuanMoEV1",
    "hunyuan_v1_moe",
    "hunyuan-moe",
    (
        *trunk(),
        *NORMS,
        *norm(ATTN + "query_layernorm", "blk.{n}.attn_q_norm", "head"),
        *norm(ATTN + "key_layernorm", "blk.{n}.attn_k_norm", "head"),
        replace(EXPERTS[0], hf=mixture.MLP_ + "gate.wg.weight", apart=()),
        *EXPERTS[1:],
        *(replace(rule, when="") for rule in mixture.shared_expert("shared_mlp")),
    ),
    (
        *SIZES,
        rms_norm_eps(1e-5),
        *HEAD_KEYS,
        Key(("num_experts", "num_local_experts"), "expert_count", "u32"),
        Key((), "expert_used_count", "u32", _first("moe_topk", 1)),
        Key((), "expert_feed_forward_length", "u32", _width),
        Key((), "expert_shared_count", "u32", _first("num_shared_expert", 1)),
        Key((), "expert_shared_feed_forward_length", "u32", same_as("intermediate_size")),
    ),
    (Irregular(_to_ggml, _to_hf), Irregular(lambda checkpoint, config, sizes: ToGgml(), _lists)),
    assumptions=(SILU, Assumption("attention_bias", (False,), False), Assumption("use_mixed_mlp_moe", (True,), True)),
)
