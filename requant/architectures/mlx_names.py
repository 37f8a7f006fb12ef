"""Families as mlx-lm stores them: what its `sanitize` makes of transformers' names, and which modules it quantizes.

Source: mlx-lm 0.32.2, `models/*.py` (`sanitize`, `quant_predicate`) and `quantize_model`. A family that is not listed
here is not written: what its classes do not find in a folder is an error in mlx-lm, or another model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from requant.errors import PlanError, UnsupportedError
from requant.expressions import Affine, Node, Stacked, reshaped
from requant.expressions.deinterleaved import Deinterleaved
from requant.ir import Json
from requant.plan import Move

#: Turns moves by transformers' names into moves by MLX's.
Change = Callable[[Sequence[Move], Mapping[str, Json]], Iterable[Move]]

_EXPERT: Final = re.compile(r"(?P<module>.*\.)experts\.(?P<e>\d+)\.(?P<name>\w+)\.(?P<kind>weight|bias)", re.ASCII)
#: How the classes end that mlx-lm has.
_PREDICTING: Final = ("ForCausalLM", "LMHeadModel")
#: Mixtral's names for gate, down and up, and everybody else's.
_PROJECTIONS: Final = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


@dataclass(frozen=True, slots=True)
class MlxFamily:
    """How mlx-lm has a family.

    changes: made to names and matrices, in order. dense: weights of which its class makes no linear layer. finer:
    modules that are 8 bits in groups of 64 where nothing else is asked for. left_out: tensors that it throws away.
    keeps_mxfp4: experts that are MXFP4 stay so whatever the others become.
    """

    changes: tuple[Change, ...] = ()
    dense: str = ""
    finer: str = ""
    left_out: str = ""
    keeps_mxfp4: bool = False

    def leaves(self, name: str) -> bool:
        """Whether a weight is no linear layer's."""
        return bool(self.dense) and re.search(self.dense, name) is not None

    def wants_finer(self, module: str) -> bool:
        """Whether the family asks for more bits for a module."""
        return bool(self.finer) and re.search(self.finer, module) is not None


def mlx_family(config: Mapping[str, Json]) -> MlxFamily:
    """The family of a config.json; raises `UnsupportedError` for one of which MLX's names are not known here."""
    model_type, classes = config.get("model_type"), config.get("architectures")
    if isinstance(classes, list) and classes and not any(str(name).endswith(_PREDICTING) for name in classes):
        raise UnsupportedError(
            f"mlx-lm loads models that predict tokens, and {classes[0]} does not", hint="choose another recipe"
        )
    if isinstance(model_type, str) and model_type in FAMILIES and not config.get("norm_head"):
        return FAMILIES[model_type]
    which = f"{model_type!r} with a normalized head" if model_type in FAMILIES else repr(model_type)
    raise UnsupportedError(
        f"how mlx-lm stores a model of type {which} is not known here",
        hint="known are " + ", ".join(sorted(FAMILIES)),
    )


def renamed(moves: Sequence[Move], config: Mapping[str, Json]) -> tuple[tuple[Move, ...], tuple[Move, ...]]:
    """`moves` by MLX's names, and those that MLX has no place for: further heads, and an output that is tied."""
    family = mlx_family(config)
    kept, dropped = list[Move](), list[Move]()
    for move in moves:
        (dropped if _left_out(move.name, family, config) else kept).append(move)
    made: Sequence[Move] = kept
    for change in family.changes:
        made = list(change(made, config))
    return tuple(made), tuple(dropped)


def _left_out(name: str, family: MlxFamily, config: Mapping[str, Json]) -> bool:
    if name == "lm_head.weight" and config.get("tie_word_embeddings") is True:
        return True
    if family.left_out and re.search(family.left_out, name):
        return True
    layers, number = config.get("num_hidden_layers"), re.match(r"model\.layers\.(\d+)\.", name, re.ASCII)
    return number is not None and isinstance(layers, int) and int(number[1]) >= layers


def _stacked(moves: Sequence[Move], config: Mapping[str, Json], *, into: str = "switch_mlp") -> Iterator[Move]:
    """The matrices of experts, one on the other, in the module `into`."""
    found: dict[str, dict[int, Node]] = {}
    ordered: list[Move | str] = []
    for move in moves:
        if (match := _EXPERT.fullmatch(move.name)) is None:
            ordered.append(move)
            continue
        name = f"{match['module']}{into}.{_PROJECTIONS.get(match['name'], match['name'])}.{match['kind']}"
        if name not in found:
            found[name] = {}
            ordered.append(name)
        found[name][int(match["e"])] = move.values
    experts = max(map(len, found.values()), default=0)
    for item in ordered:
        if isinstance(item, Move):
            yield item
            continue
        lacking = [e for e in range(experts) if e not in found[item]]
        if lacking:
            raise PlanError(f"expert {lacking[0]} of {item!r} is missing: there are {experts}")
        yield Move(item, Stacked(tuple(found[item][e] for e in range(experts))))


def _channels_last(moves: Sequence[Move], config: Mapping[str, Json]) -> Iterator[Move]:
    """Kernels of convolutions by channel, [channels, 1, length], are [channels, length, 1]."""
    for move in moves:
        is_kernel = len(move.shape) == 3 and move.shape[1] == 1 and "conv" in move.name
        yield Move(move.name, reshaped(move.values, (move.shape[0], move.shape[2], 1))) if is_kernel else move


def _heads_apart(moves: Sequence[Move], config: Mapping[str, Json]) -> Iterator[Move]:
    """`kv_b_proj` as two stacks of matrices by the head: of keys, turned, and of values."""
    for move in moves:
        module, found, rest = move.name.rpartition("kv_b_proj.weight")
        if not found or rest:
            yield move
            continue
        heads, nope, value = (_size(config, key) for key in ("num_attention_heads", "qk_nope_head_dim", "v_head_dim"))
        width = nope + value
        if move.shape[0] != heads * width:
            raise PlanError(f"{move.name!r} {list(move.shape)} is not {heads} heads of {nope} and {value} rows")
        starts = [head * width for head in range(heads)]
        keys = Stacked(tuple(move.values.section(at, at + nope) for at in starts))
        values = Stacked(tuple(move.values.section(at + nope, at + width) for at in starts))
        yield Move(f"{module}embed_q.weight", keys.turned())
        yield Move(f"{module}unembed_out.weight", values)


def _size(config: Mapping[str, Json], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PlanError(f"config.json: {key} is {value!r}, not a size")
    return value


def _halves_apart(moves: Sequence[Move], config: Mapping[str, Json]) -> Iterator[Move]:
    """Granite's `input_linear` of each expert is gate and up."""
    for move in moves:
        module, found, _ = move.name.partition("input_linear.weight")
        if found:
            experts, rows, columns = move.shape
            for part, name in enumerate(("gate_proj", "up_proj")):
                starts = (e * rows + part * (rows // 2) for e in range(experts))
                node = Stacked(tuple(move.values.section(at, at + rows // 2) for at in starts))
                yield Move(f"{module}switch_mlp.{name}.weight", reshaped(node, (experts, rows // 2, columns)))
        else:
            yield Move(move.name.replace("output_linear.weight", "switch_mlp.down_proj.weight"), move.values)


def _unwoven(moves: Sequence[Move], config: Mapping[str, Json]) -> Iterator[Move]:
    """gpt-oss: matrices upright, and gate and up, whose rows come in turn, apart."""
    for move in moves:
        module, found, name = move.name.partition("mlp.experts.")
        if not found:
            yield move
        elif name.endswith("_bias"):
            column, last = reshaped(move.values, (*move.shape, 1)), name.removesuffix("_bias")
            for part, node in _parts(last, column):
                yield Move(f"{module}{found}{part}.bias", reshaped(node, node.shape[:-1]))
        else:
            for part, node in _parts(name, move.values.turned()):
                yield Move(f"{module}{found}{part}.weight", node)


def _parts(name: str, node: Node) -> Iterator[tuple[str, Node]]:
    if name == "gate_up_proj":
        yield from (("gate_proj", Deinterleaved(node, 0)), ("up_proj", Deinterleaved(node, 1)))
    else:
        yield name, node


def _upright(moves: Sequence[Move], config: Mapping[str, Json]) -> Iterator[Move]:
    """GPT-2: matrices [out, in], under MLX's own prefix."""
    for move in moves:
        turned = re.search(r"\.c_(?:attn|proj|fc)\.weight$", move.name) is not None
        name = "model." + move.name.removeprefix("transformer.")
        yield Move(name, move.values.turned() if turned else move.values)


def _from_zero(moves: Sequence[Move], config: Mapping[str, Json]) -> Iterator[Move]:
    """Qwen3-Next: norms that are stored as what they differ from one are stored whole."""
    norm = re.compile(r"(?:.*\.(?:input_layernorm|post_attention_layernorm|q_norm|k_norm)|model\.norm)\.weight")
    for move in moves:
        yield Move(move.name, Affine(move.values, term=1.0)) if norm.fullmatch(move.name) else move


def _called(moves: Sequence[Move], config: Mapping[str, Json], *, pattern: str, name: str) -> Iterator[Move]:
    """Other names for what `pattern` fits."""
    for move in moves:
        yield Move(re.sub(pattern, name, move.name), move.values)


_PLAIN: Final = MlxFamily()
_EXPERTS: Final = (_stacked,)
_IN_PLACE: Final = (partial(_stacked, into="experts"),)
_ROUTER: Final = r"\.mlp\.gate\.weight$"
_GRANITE: Final = r"(?:self_attn\.o_proj|mlp\.down_proj)$|^lm_head$"
_LFM2_MOE: Final = (
    partial(_called, pattern=r"(feed_forward\.)w1\.", name=r"\1gate_proj."),
    partial(_called, pattern=r"(feed_forward\.)w2\.", name=r"\1down_proj."),
    partial(_called, pattern=r"(feed_forward\.)w3\.", name=r"\1up_proj."),
)

#: `model_type` of config.json -> what mlx-lm makes of it.
FAMILIES: Final[Mapping[str, MlxFamily]] = {
    **dict.fromkeys(
        (
            *(
                "llama",
                "mistral",
                "qwen2",
                "qwen3",
                "gemma",
                "gemma2",
                "gemma3_text",
                "phi",
                "phi3",
                "smollm3",
                "olmo2",
            ),
            *("olmo3", "cohere", "cohere2", "seed_oss", "nemotron", "starcoder2", "stablelm", "ernie4_5"),
            *("hunyuan_v1_dense", "glm", "glm4", "exaone", "exaone4", "ministral3", "xverse", "internlm2", "internlm3"),
            *("minicpm", "nanbeige", "iquestcoder"),
        ),
        _PLAIN,
    ),
    **dict.fromkeys(("mixtral", "phimoe", "qwen2_moe", "olmoe"), MlxFamily(_EXPERTS)),
    **dict.fromkeys(("qwen3_moe", "mellum"), MlxFamily(_EXPERTS, finer=r"\.mlp\.gate$")),
    "ernie4_5_moe": MlxFamily(
        _EXPERTS, left_out=r"\bmtp_(?:block|linear_proj|hidden_norm|emb_norm)\.|e_score_correction_bias"
    ),
    "afmoe": MlxFamily(_IN_PLACE, finer=r"\.router\.gate$"),
    "dots1": MlxFamily(_IN_PLACE, dense=_ROUTER),
    "deepseek_v2": MlxFamily(_EXPERTS, dense=_ROUTER),
    "glm4_moe": MlxFamily(_EXPERTS, dense=_ROUTER),
    **dict.fromkeys(("deepseek_v3", "glm4_moe_lite"), MlxFamily((_stacked, _heads_apart), dense=_ROUTER)),
    "bailing_moe": MlxFamily(
        (_stacked, partial(_called, pattern=r"(\.mlp\.gate)\.(weight|bias)$", name=r"\1.gate_proj.\2")),
        finer=r"\.mlp\.gate\.gate_proj$",
    ),
    "granite": MlxFamily(finer=_GRANITE),
    "granitemoe": MlxFamily((_halves_apart,), finer=rf"\.block_sparse_moe\.router\.layer$|{_GRANITE}"),
    "qwen3_next": MlxFamily(
        (_stacked, _channels_last, _from_zero),
        finer=r"\.mlp\.(?:gate|shared_expert_gate)$",
        left_out=r"^mtp\.",
    ),
    "lfm2": MlxFamily((_channels_last,)),
    "lfm2_moe": MlxFamily((_channels_last, _stacked, *_LFM2_MOE), finer=r"\.feed_forward\.gate$"),
    **dict.fromkeys(("mamba", "falcon_mamba"), MlxFamily((_channels_last,))),
    "gpt2": MlxFamily((_upright,)),
    "gpt_oss": MlxFamily((_unwoven,), finer=r"\.mlp\.router$", keeps_mxfp4=True),
}
