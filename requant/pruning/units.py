"""Which rows and columns of a model's tensors belong to which kind of unit, by the names that transformers gives them.

Matrices are spoken of as [out, in], however they lie. Rows or columns without an axis stay whole. Facts: the modules of
transformers 5.23.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from requant.errors import PlanError
from requant.merging.model import Model, layer_of
from requant.printable import printable


class Axis(Enum):
    """What rows or columns are: of the states between layers, of query heads, of heads for keys and values, of
    queries, keys and values together, of a feed-forward layer, of experts, and of one expert's feed-forward layer."""

    HIDDEN = "hidden"
    HEADS = "heads"
    KV_HEADS = "kv-heads"
    QKV = "qkv"
    FFN = "ffn"
    EXPERTS = "experts"
    EXPERT_FFN = "expert-ffn"


_Role = tuple[Axis | None, Axis | None]
_H, _Q, _KV, _F, _E, _EF = Axis.HIDDEN, Axis.HEADS, Axis.KV_HEADS, Axis.FFN, Axis.EXPERTS, Axis.EXPERT_FFN

#: What stands after a layer's number, or the whole name -> what rows and columns are; of vectors there are rows only.
_ROLES: Final[Mapping[str, _Role]] = {
    # llama and what has its names
    r"(?:.*\.)?embed_tokens\.weight|lm_head\.weight": (None, _H),
    r"lm_head\.bias": (None, None),
    r"(?:.*\.)?norm\.(?:weight|bias)": (_H, None),
    r"(?:input|post_attention|pre_feedforward|post_feedforward)_layernorm\.(?:weight|bias)": (_H, None),
    r"self_attn\.q_proj\.(?:weight|bias)": (_Q, _H),
    r"self_attn\.[kv]_proj\.(?:weight|bias)": (_KV, _H),
    r"self_attn\.o_proj\.(?:weight|bias)": (_H, _Q),
    r"self_attn\.[qk]_norm\.weight": (None, None),
    r"mlp\.(?:gate|up)_proj\.(?:weight|bias)": (_F, _H),
    r"mlp\.down_proj\.(?:weight|bias)": (_H, _F),
    r"(?:mlp|block_sparse_moe)\.gate\.weight": (_E, _H),
    r"(?:mlp|block_sparse_moe)\.experts\.\d+\.(?:gate_proj|up_proj|w1|w3)\.weight": (_EF, _H),
    r"(?:mlp|block_sparse_moe)\.experts\.\d+\.(?:down_proj|w2)\.weight": (_H, _EF),
    r"mlp\.shared_expert\.(?:gate_proj|up_proj)\.weight|mlp\.shared_expert_gate\.weight": (None, _H),
    r"mlp\.shared_expert\.down_proj\.weight": (_H, None),
    # GPT-2
    r"(?:transformer\.)?wt?[ep]e?\.weight": (None, _H),
    r"(?:transformer\.)?ln_[12f]\.(?:weight|bias)": (_H, None),
    r"attn\.c_attn\.(?:weight|bias)": (Axis.QKV, _H),
    r"attn\.c_proj\.(?:weight|bias)": (_H, _Q),
    r"mlp\.c_fc\.(?:weight|bias)": (_F, _H),
    r"mlp\.c_proj\.(?:weight|bias)": (_H, _F),
    # BERT
    r"(?:bert\.)?embeddings\.(?:word|position|token_type)_embeddings\.weight": (None, _H),
    r"(?:(?:bert\.)?embeddings|attention\.output|output)\.LayerNorm\.(?:weight|bias)": (_H, None),
    r"attention\.self\.(?:query|key|value)\.(?:weight|bias)": (_Q, _H),
    r"attention\.output\.dense\.(?:weight|bias)": (_H, _Q),
    r"intermediate\.dense\.(?:weight|bias)": (_F, _H),
    r"output\.dense\.(?:weight|bias)": (_H, _F),
    r"(?:bert\.)?pooler\.dense\.(?:weight|bias)": (_H, _H),
}
_COMPILED: Final = tuple((re.compile(regex, re.ASCII), role) for regex, role in _ROLES.items())
_EXPERT: Final = re.compile(r"(.*\.experts\.)(\d+)(\..+)", re.ASCII)
#: axis -> what config.json calls how many there are.
KEYS: Final[Mapping[Axis, tuple[str, ...]]] = {
    Axis.HIDDEN: ("hidden_size", "n_embd"),
    Axis.HEADS: ("num_attention_heads", "n_head"),
    Axis.KV_HEADS: ("num_key_value_heads",),
    Axis.FFN: ("intermediate_size", "n_inner"),
    Axis.EXPERTS: ("num_experts", "num_local_experts", "n_routed_experts"),
    Axis.EXPERT_FFN: ("moe_intermediate_size",),
}
#: Model types whose width is HEADS times the size of a head, and cannot be said otherwise.
TIED_WIDTH: Final = frozenset({"gpt2", "bert"})
#: Model types whose embeddings are multiplied by the root of the width.
ROOTED: Final = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text"})
#: And those whose norms are stored as offsets from one.
OFFSET: Final = ROOTED
#: Model types in which nothing else depends on the width.
_WIDTHS: Final = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "mixtral", "olmoe", *TIED_WIDTH, *ROOTED}
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is: what its rows and columns are, in which layer (-1: in none), of which expert (-1: of none)."""

    rows: Axis | None
    columns: Axis | None
    layer: int
    expert: int


def place_of(name: str) -> Place:
    """Raises `PlanError` for a tensor of which it is not known what depends on what."""
    layered = layer_of(name)
    role = name if layered is None else layered[2]
    for regex, (rows, columns) in _COMPILED:
        if regex.fullmatch(role):
            expert = _EXPERT.fullmatch(name)
            vector = name.endswith(".bias")
            return Place(
                rows,
                None if vector else columns,
                -1 if layered is None else layered[1],
                -1 if expert is None else int(expert[2]),
            )
    raise PlanError(
        f"units cannot be cut out of this model: which rows and columns of {printable(name)} are theirs is not known",
        hint="whole layers can be left out: --drop-layers; weights can become zero: --sparsity",
    )


def renamed(name: str, layer: int, expert: int) -> str:
    """A tensor's name in another layer, and of another expert."""
    layered = layer_of(name)
    if layered is not None:
        name = f"{layered[0]}.{layer}.{layered[2]}"
    match = _EXPERT.fullmatch(name)
    return name if match is None else f"{match[1]}{expert}{match[3]}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many units of each kind a model has; 0 of those it has not. head: columns of a head."""

    hidden: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    experts: int
    expert_ffn: int

    @classmethod
    def of(cls, model: Model) -> Sizes:
        """As config.json says, and the tensors where it does not."""
        found = {axis: _number(model, *keys) for axis, keys in KEYS.items()}
        hidden, heads = found[Axis.HIDDEN], found[Axis.HEADS]
        if not hidden or not heads:
            raise PlanError(f"config.json does not say how many {'heads' if hidden else 'columns'} the model has")
        experts = found[Axis.EXPERTS]
        ffn = found[Axis.FFN] or 4 * hidden
        kind = str(model.value("model_type"))
        return cls(
            hidden,
            heads,
            found[Axis.KV_HEADS] or heads,
            _number(model, "head_dim") or hidden // heads,
            0 if experts and kind == "mixtral" else ffn,
            experts,
            (found[Axis.EXPERT_FFN] or ffn) if experts else 0,
        )

    def units(self, axis: Axis) -> int:
        """How many there are."""
        return {
            Axis.HIDDEN: self.hidden,
            Axis.HEADS: self.heads,
            Axis.KV_HEADS: self.kv_heads,
            Axis.QKV: 3 * self.heads,
            Axis.FFN: self.ffn,
            Axis.EXPERTS: self.experts,
            Axis.EXPERT_FFN: self.expert_ffn,
        }[axis]

    def width(self, axis: Axis) -> int:
        """Rows or columns of a unit."""
        return self.head if axis in (Axis.HEADS, Axis.KV_HEADS, Axis.QKV) else 1


def _number(model: Model, *keys: str) -> int:
    values = (model.value(key) for key in keys)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), 0)


def check_width(model: Model) -> None:
    """Raises `PlanError` where it is not known what else depends on the width."""
    kind = str(model.value("model_type"))
    if kind not in _WIDTHS:
        raise PlanError(
            f"the width of {kind} cannot be cut: what else depends on it is not known",
            hint="heads, neurons and experts can be: --heads, --ffn, --experts",
        )
