"""RWKV 7, as flash-linear-attention names it: no attention, but a state that every token changes.

What each token is mixed with of the one before, six vectors, is one tensor in ggml. The first layer gives its values to
the others and has no mixing of values; llama.cpp asks for its matrices all the same, without using them, and gets those
of the rate of learning. Facts: llama.cpp's conversion/rwkv.py and src/models/rwkv7.cpp, rwkv7-base.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from requant.architectures.decoders import LAYER, norm
from requant.architectures.mamba import ENDLESS
from requant.architectures.numbers import number
from requant.architectures.rules import (
    Assumption,
    Config,
    Default,
    Family,
    Ignored,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
)
from requant.errors import PlanError
from requant.expressions import Joined, Slice, Stored, reshaped
from requant.ir import Checkpoint, Json, Tensor
from requant.plan import Move

_MIX: Final = LAYER + "attn."
#: What is mixed, in the order of the tensor.
_MIXED: Final = ("r", "w", "k", "v", "a", "g")
_FUSED: Final = "blk.{n}.time_mix_lerp_fused.weight"
#: The epsilon of llama.cpp's norm of heads.
_EPSILON: Final = 64e-5


def _low_rank(letter: str, size: str, when: str = "", *, bias: bool = True) -> tuple[Rule, ...]:
    """Two matrices with few rows between them, and what is added."""
    hf, ggml = f"{_MIX}{letter}_lora.lora.", f"blk.{{n}}.time_mix_{letter}"
    matrices = (
        Rule(hf + "0.weight", f"{ggml}1.weight", (size, "hidden"), when=when),
        Rule(hf + "2.weight", f"{ggml}2.weight", ("hidden", size), when=when),
    )
    return (*matrices, Rule(hf + "2.bias", f"{ggml}0.weight", ("hidden",), when=when)) if bias else matrices


def _rank(name: str, power: float, times: float) -> Default:
    """A rank that config.json may leave to the width of the model."""

    def rank(config: Config) -> Json:
        said = config.get(name)
        return max(1, round(number(config, "hidden_size") ** power * times / 32)) * 32 if said is None else said

    return rank


def _first(values: Config) -> Sequence[bool]:
    layers = values.get("block_count")
    return [n == 0 for n in range(min(layers, 1 << 16))] if isinstance(layers, int) else []


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    head = sizes.get("wkv_head", 0)
    if not head or sizes["hidden"] % head:
        raise PlanError(f"config.json: hidden_size is {sizes['hidden']}, which are no heads of {head}")
    if abs(head * number(config, "norm_eps", 1e-5) - _EPSILON) > 1e-9:
        raise PlanError(f"config.json: head_dim times norm_eps is not {_EPSILON:g}, which llama.cpp has for heads")
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    base = "model." if "model.embeddings.weight" in tensors else ""
    moves, used = list[Move](), set[str]()
    for n in range(sizes["layers"]):
        names = [f"{_MIX.format(base=base, n=n)}x_{letter}" for letter in _MIXED]
        missing = [name for name in names if name not in tensors or tensors[name].shape[-1] != sizes["hidden"]]
        if missing:
            raise PlanError(f"tensor {missing[0]!r} of {sizes['hidden']} numbers is missing")
        rows = tuple(reshaped(Stored(tensors[name]), (1, sizes["hidden"])) for name in names)
        moves.append(Move(_FUSED.format(n=n), reshaped(Joined(rows), (len(rows), 1, 1, sizes["hidden"]))))
        used |= set(names)
    for part, name in (("1", "0.weight"), ("2", "2.weight"), ("0", "2.bias")):
        source = tensors.get(f"{_MIX.format(base=base, n=0)}a_lora.lora.{name}")
        if source is not None:  # else the table tells that it is missing
            moves.append(Move(f"blk.0.time_mix_v{part}.weight", Stored(source)))
    return ToGgml(moves=tuple(moves), used=frozenset(used))


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    moves, used = list[Move](), {f"blk.0.time_mix_v{part}.weight" for part in "012"} & tensors.keys()
    for n in range(sizes["layers"]):
        name = _FUSED.format(n=n)
        if name not in tensors or tensors[name].shape != (len(_MIXED), 1, 1, sizes["hidden"]):
            raise PlanError(f"tensor {name!r} of {len(_MIXED)} vectors of {sizes['hidden']} numbers is missing")
        rows = reshaped(Stored(tensors[name]), (len(_MIXED), sizes["hidden"]))
        for row, letter in enumerate(_MIXED):
            part = reshaped(Slice(rows, row, row + 1), (1, 1, sizes["hidden"]))
            moves.append(Move(f"{_MIX.format(base='model.', n=n)}x_{letter}", part))
        used.add(name)
    config: dict[str, Json] = {"num_heads": sizes["hidden"] // sizes["wkv_head"]}
    return ToHf(config, tensors=frozenset(used), moves=tuple(moves))


_FORWARD: Final = LAYER + "ffn."
_RULES: Final = (
    Rule("{base}embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    *norm("{base}layers.0.pre_norm", "token_embd_norm", bias=True),
    *norm("{base}norm", "output_norm", bias=True),
    Rule("lm_head.weight", "output.weight", ("vocab", "hidden"), when="untied"),
    *norm(LAYER + "attn_norm", "blk.{n}.attn_norm", bias=True),
    *norm(LAYER + "ffn_norm", "blk.{n}.attn_norm_2", bias=True),
    *_low_rank("w", "decay_rank"),
    *_low_rank("a", "iclr_rank"),
    *_low_rank("v", "value_rank", when="!first"),
    *_low_rank("g", "gate_rank", bias=False),
    Rule(_MIX + "k_k", "blk.{n}.time_mix_k_k.weight", ("hidden",)),
    Rule(_MIX + "k_a", "blk.{n}.time_mix_k_a.weight", ("hidden",)),
    Rule(_MIX + "r_k", "blk.{n}.time_mix_r_k.weight", ("wkv_heads", "wkv_head"), flat=("hidden",)),
    Rule(_MIX + "k_proj.weight", "blk.{n}.time_mix_key.weight", ("hidden", "hidden")),
    Rule(_MIX + "v_proj.weight", "blk.{n}.time_mix_value.weight", ("hidden", "hidden")),
    Rule(_MIX + "r_proj.weight", "blk.{n}.time_mix_receptance.weight", ("hidden", "hidden")),
    *norm(_MIX + "g_norm", "blk.{n}.time_mix_ln", bias=True),
    Rule(_MIX + "o_proj.weight", "blk.{n}.time_mix_output.weight", ("hidden", "hidden")),
    Rule(_FORWARD + "x_k", "blk.{n}.channel_mix_lerp_k.weight", ("hidden",)),
    Rule(_FORWARD + "key.weight", "blk.{n}.channel_mix_key.weight", ("ffn", "hidden")),
    Rule(_FORWARD + "value.weight", "blk.{n}.channel_mix_value.weight", ("hidden", "ffn")),
)


def _wide(config: Config) -> Json:
    return 4 * int(number(config, "hidden_size"))


RWKV7: Final = Family(
    model_type="rwkv7",
    ggml="rwkv7",
    classes=("RWKV7ForCausalLM", "Rwkv7ForCausalLM", "RWKV7Model"),
    headless=frozenset({"RWKV7Model"}),
    bases=("model.", ""),
    rules=_RULES,
    keys=(
        ENDLESS,
        Key(("hidden_size",), "embedding_length", "u32"),
        Key(("num_hidden_layers",), "block_count", "u32"),
        Key(("norm_eps",), "attention.layer_norm_epsilon", "f32", always(1e-5)),
        Key(("head_dim",), "wkv.head_size", "u32", always(64)),
        Key(("decay_low_rank_dim",), "attention.decay_lora_rank", "u32", _rank("decay_low_rank_dim", 0.5, 1.8)),
        Key(("a_low_rank_dim",), "attention.iclr_lora_rank", "u32", _rank("a_low_rank_dim", 0.5, 1.8)),
        Key(("v_low_rank_dim",), "attention.value_residual_mix_lora_rank", "u32", _rank("v_low_rank_dim", 0.5, 1.3)),
        Key(("gate_low_rank_dim",), "attention.gate_lora_rank", "u32", _rank("gate_low_rank_dim", 0.8, 0.6)),
        Key(("intermediate_size",), "feed_forward_length", "u32", _wide),
        Key((), "attention.head_count", "u32", always(0)),
    ),
    embedding="token_embd.weight",
    assumptions=(
        Assumption("hidden_act", ("sqrelu",), "sqrelu"),
        Assumption("norm_bias", (True,), True),
        Assumption("norm_first", (True,), True),
        Assumption("attn", (None,), None),
    ),
    layers={"first": _first},
    ignored=(Ignored(r"(model\.)?layers\.0\.attn\.v_lora\..*", "the first layer mixes no values"),),
    irregular=(Irregular(_to_ggml, _to_hf),),
    besides=tuple(f"{_MIX}x_{letter}" for letter in _MIXED),
)
