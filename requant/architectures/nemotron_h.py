"""Nemotron-H and Nemotron 3: each layer is a mixer of Mamba 2, heads that look back, a network, or experts.

Queries and keys lie in ggml as those of a llama, though nothing is rotated. The experts may work in a narrower space.
Facts: llama.cpp's conversion/nemotron.py and src/models/nemotron-h.cpp; transformers' modeling_nemotron_h.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from requant.architectures.attending import ATTENDING, key_value_heads
from requant.architectures.decoders import LAYER, VOCABULARY_SIZE, norm
from requant.architectures.llama import attention, heads_of
from requant.architectures.mamba import UNLIMITED, grouped_scan
from requant.architectures.numbers import number, shown
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
    same_as,
)
from requant.architectures.states import width_of_heads
from requant.errors import PlanError
from requant.ir import Checkpoint, Json, Tensor

#: Kinds of layers: by the letter of the first releases, and as transformers 5 and its first drafts call them.
_LETTERS: Final = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
_WORDS: Final = {
    "mamba": "linear_attention",
    "attention": "full_attention",
    **{kind: kind for kind in _LETTERS.values()},
}
_USUAL: Final = ("linear_attention", "moe", "full_attention", "mlp")
_FFN: Final = "feed_forward_length"
_MIXER: Final = LAYER + "mixer."


def _kinds(config: Config) -> list[str]:
    listed = next((config[key] for key in ("layers_block_type", "layer_types") if config.get(key) is not None), None)
    pattern = config.get("hybrid_override_pattern")
    if isinstance(listed, list) and set(map(str, listed)) <= _WORDS.keys():
        return [_WORDS[str(item)] for item in listed]
    if listed is None and isinstance(pattern, str) and set(pattern) <= _LETTERS.keys():
        return [_LETTERS[letter] for letter in pattern]
    if listed is None and pattern is None:
        return [*_USUAL]
    raise PlanError(f"config.json: kinds of layers are {shown(pattern if listed is None else listed)}")


def _sparse(config: Config) -> bool:
    """Whether a layer has experts, of any config.json: one that is not understood is told when its layers are read."""
    with suppress(PlanError):
        return "moe" in _kinds(config)
    return False


def _widths(kind: str, name: str, absent: int) -> Callable[[Config], Json]:
    """Of each layer's network, 0 where there is none."""

    def listed(config: Config) -> Json:
        width = int(number(config, name, absent))
        return [width if kind == other else 0 for other in _kinds(config)]

    return listed


def _feeding(values: Config) -> Sequence[bool]:
    widths, layers = values.get(_FFN), values.get("block_count")
    if not isinstance(widths, list) or len(widths) != layers:
        raise PlanError(f"metadata: {_FFN} does not list the layers")
    return [bool(width) for width in widths]


def _scanning(values: Config) -> Sequence[bool]:
    pairs = zip(ATTENDING["attends"](values), _feeding(values), strict=True)
    return [not attends and not feeds for attends, feeds in pairs]


def _inner(config: Config) -> Json:
    return int(number(config, "mamba_num_heads", 128) * number(config, "mamba_head_dim", 64))


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    kinds = _kinds(config)
    if "moe" in kinds and "mlp" in kinds:
        raise PlanError(
            "config.json: some layers have experts and others a network; llama.cpp knows models of one kind"
        )
    return ToGgml()


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    forward = "moe" if sizes["experts"] else "mlp"
    layers = zip(ATTENDING["attends"](values), _feeding(values), strict=True)
    kinds: list[Json] = [
        "full_attention" if attends else forward if feeds else "linear_attention" for attends, feeds in layers
    ]
    config: dict[str, Json] = {
        "layers_block_type": kinds,
        "hybrid_override_pattern": "".join({v: k for k, v in _LETTERS.items()}[str(kind)] for kind in kinds),
        "mamba_head_dim": width_of_heads(sizes),
        "num_key_value_heads": sizes["kv_heads"],
    }
    if forward == "mlp":
        config["intermediate_size"] = sizes["ffn"]
    return ToHf(config)


_UNROTATED: Final = "rope.scaling.finetuned"
_RULES: Final = (
    Rule("{base}embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    *norm("{base}norm_f", "output_norm"),
    Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
    *norm(LAYER + "norm", "blk.{n}.attn_norm"),
    *grouped_scan(_MIXER, "scans"),
    *(replace(rule, hf=rule.hf.replace(".self_attn.", ".mixer."), when="attends") for rule in attention(Order.ROPE)),
)
_KEYS: Final = (
    Key(("num_hidden_layers",), "block_count", "u32", lambda config: len(_kinds(config))),
    Key(("max_position_embeddings",), "context_length", "u32", always(4096)),
    Key(("hidden_size",), "embedding_length", "u32", always(4096)),
    Key(("num_attention_heads",), "attention.head_count", "u32", always(32)),
    key_value_heads(
        lambda config: [kind == "full_attention" for kind in _kinds(config)],
        lambda config: config.get("num_key_value_heads", 8),
    ),
    Key(("layer_norm_epsilon", "rms_norm_eps"), "attention.layer_norm_epsilon", "f32", always(1e-5)),
    *heads_of(128),
    VOCABULARY_SIZE,
    Key((), "rope.dimension_count", "u32", same_as("head_dim"), same_as("attention.key_length")),
    Key((), _UNROTATED, "bool", always(False), always(False)),
    Key(("conv_kernel", "mamba_d_conv"), "ssm.conv_kernel", "u32", always(4)),
    Key(("ssm_state_size",), "ssm.state_size", "u32", always(128)),
    Key(("n_groups", "mamba_n_groups"), "ssm.group_count", "u32", always(8)),
    Key((), "ssm.inner_size", "u32", _inner),
    Key(("mamba_num_heads",), "ssm.time_step_rank", "u32", always(128)),
)

NEMOTRON_H: Final = Family(
    model_type="nemotron_h",
    ggml="nemotron_h",
    classes=("NemotronHForCausalLM", "NemotronHModel"),
    headless=frozenset({"NemotronHModel"}),
    bases=("backbone.", "model."),
    rules=(
        *_RULES,
        Rule(_MIXER + "up_proj.weight", "blk.{n}.ffn_up.weight", ("ffn", "hidden"), when="feeds"),
        Rule(_MIXER + "down_proj.weight", "blk.{n}.ffn_down.weight", ("hidden", "ffn"), when="feeds"),
    ),
    keys=(*_KEYS, Key((), _FFN, "[i32]", _widths("mlp", "intermediate_size", 21504))),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("mlp_hidden_act", ("relu2",), "relu2"),
        Assumption("mamba_hidden_act", ("silu",), "silu"),
        *(
            Assumption(name, (False,), False)
            for name in ("attention_bias", "mlp_bias", "use_bias", "mamba_proj_bias", "residual_in_fp32")
        ),
        Assumption("use_conv_bias", (True,), True),
        Assumption("sliding_window", (None,), None, written=False),
        UNLIMITED,
    ),
    layers={**ATTENDING, "feeds": _feeding, "scans": _scanning},
    ignored=(Ignored(r"mtp\..*", "what predicts more than one token ahead; the model itself does without", lost=True),),
    irregular=(Irregular(_to_ggml, _to_hf),),
    suits=lambda config: not _sparse(config),
)

_EXPERTS: Final = (
    Rule(_MIXER + "gate.weight", "blk.{n}.ffn_gate_inp.weight", ("experts", "hidden"), when="feeds"),
    Rule(_MIXER + "gate.e_score_correction_bias", "blk.{n}.exp_probs_b.bias", ("experts",), when="feeds"),
    Rule(_MIXER + "experts.{e}.up_proj.weight", "blk.{n}.ffn_up_exps.weight", ("expert_ffn", "latent"), when="feeds"),
    Rule(
        _MIXER + "experts.{e}.down_proj.weight", "blk.{n}.ffn_down_exps.weight", ("latent", "expert_ffn"), when="feeds"
    ),
    Rule(
        _MIXER + "shared_experts.up_proj.weight",
        "blk.{n}.ffn_up_shexp.weight",
        ("shared_ffn", "hidden"),
        when="feeds",
    ),
    Rule(
        _MIXER + "shared_experts.down_proj.weight",
        "blk.{n}.ffn_down_shexp.weight",
        ("hidden", "shared_ffn"),
        when="feeds",
    ),
    Rule(
        _MIXER + "fc1_latent_proj.weight", "blk.{n}.ffn_latent_down.weight", ("latent", "hidden"), when="feeds+narrow"
    ),
    Rule(_MIXER + "fc2_latent_proj.weight", "blk.{n}.ffn_latent_up.weight", ("hidden", "latent"), when="feeds+narrow"),
)
NEMOTRON_H_MOE: Final = replace(
    NEMOTRON_H,
    ggml="nemotron_h_moe",
    rules=(*_RULES, *_EXPERTS),
    keys=(
        *_KEYS,
        Key((), _FFN, "[i32]", _widths("moe", "moe_intermediate_size", 7688)),
        Key(("n_routed_experts", "num_local_experts"), "expert_count", "u32", always(8)),
        Key(("num_experts_per_tok",), "expert_used_count", "u32", always(2)),
        Key(("moe_intermediate_size",), "expert_feed_forward_length", "u32", always(7688)),
        Key(("moe_shared_expert_intermediate_size",), "expert_shared_feed_forward_length", "u32", always(7688)),
        Key(("n_shared_experts",), "expert_shared_count", "u32", always(1)),
        Key(("norm_topk_prob",), "expert_weights_norm", "bool", always(True)),
        Key(("routed_scaling_factor",), "expert_weights_scale", "f32", always(1.0)),
        Key(("n_group",), "expert_group_count", "u32", always(1), always(1)),
        Key(("topk_group",), "expert_group_used_count", "u32", always(1), always(1)),
        Key(("moe_latent_size",), "moe_latent_size", "u32", always(None), always(None)),
    ),
    present={"narrow": r"\.fc1_latent_proj\.weight"},
    suits=_sparse,
)
