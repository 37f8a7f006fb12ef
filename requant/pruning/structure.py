"""Units cut out of a model: layers, heads, groups of heads, neurons, experts, width; with all that depends on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Final

from requant.errors import PlanError
from requant.expressions import Affine, Chosen, Columns, Node
from requant.ir import Json
from requant.merging.model import Model, is_embedding, is_head, layer_of
from requant.merging.modules import config_of, main_stack, stacks_of
from requant.pruning.masks import Squares
from requant.pruning.units import (
    KEYS,
    OFFSET,
    ROOTED,
    TIED_WIDTH,
    Axis,
    Place,
    Sizes,
    check_width,
    place_of,
    renamed,
)

#: Units that are kept, by axis, layer (-1: of all) and expert (-1: of none).
Kept = Mapping[tuple[Axis, int, int], tuple[int, ...]]
#: Matrices of GPT-2 that lie as [in, out].
_CONV: Final = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many units of each kind the result has; None keeps all. layers: which, in order."""

    layers: tuple[int, ...] | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    experts: int | None = None
    expert_ffn: int | None = None

    @property
    def cuts_units(self) -> bool:
        """Whether anything but whole layers is cut."""
        return replace(self, layers=None) != Wanted()


@dataclass(frozen=True, slots=True)
class Cut:
    """A model without some of its units.

    squares: of its tensors, by their new names. origins: by these names, which tensor of the whole model it was, and
    which of its columns it has, None for all. told: what was cut, in words.
    """

    tensors: Mapping[str, Node]
    config: Mapping[str, Json]
    squares: Squares
    origins: Mapping[str, tuple[str, tuple[int, ...] | None]]
    told: tuple[str, ...]


def depth_of(model: Model) -> int:
    """How many layers its main stack has."""
    return stacks_of(model.tensors).get(main_stack(model.tensors) or "", 0)


def is_turned(name: str) -> bool:
    """Whether a matrix lies as [in, out]."""
    return name.endswith(_CONV)


def sizes_wanted(model: Model, wanted: Wanted) -> tuple[Sizes, Sizes]:
    """The sizes before and after; raises `PlanError` for what the model has not, and for what would not load."""
    before = Sizes.of(model)
    kv = wanted.kv_heads
    if before.kv_heads == before.heads and wanted.heads is not None:
        if kv not in (None, wanted.heads):
            raise PlanError(f"each head has keys and values of its own: --heads {wanted.heads} and --kv-heads {kv}")
        kv = wanted.heads
    kv = before.kv_heads if kv is None else kv
    heads = wanted.heads if wanted.heads is not None else before.heads // before.kv_heads * kv
    after = Sizes(
        before.hidden if wanted.hidden is None else wanted.hidden,
        heads,
        kv,
        before.head,
        before.ffn if wanted.ffn is None else wanted.ffn,
        before.experts if wanted.experts is None else wanted.experts,
        before.expert_ffn if wanted.expert_ffn is None else wanted.expert_ffn,
    )
    for axis in sorted(KEYS, key=lambda axis: axis is Axis.HEADS):  # which may follow from groups
        had, left = before.units(axis), after.units(axis)
        if not 1 <= left <= had and left != had:
            raise PlanError(f"--{axis.value} {left}: the model has {had or 'none'}")
    if heads % kv or heads // kv > before.heads // before.kv_heads:
        most = before.heads // before.kv_heads * kv
        raise PlanError(
            f"--heads {heads}: {kv} groups of keys and values need as many heads each",
            hint=f"a multiple of {kv}, up to {most}",
        )
    used = model.value("num_experts_per_tok")
    if isinstance(used, int) and before.experts and after.experts < used:
        raise PlanError(f"--experts {after.experts}: each token goes to {used} of them")
    _check_loads(model, before, after)
    return before, after


def _check_loads(model: Model, before: Sizes, after: Sizes) -> None:
    kind = str(model.value("model_type"))
    if after.hidden != before.hidden:
        check_width(model)
    if kind in TIED_WIDTH and after.hidden != after.heads * before.head:
        raise PlanError(
            f"{kind} has no word for the size of a head: its width is that of all heads, {before.head} columns each",
            hint=f"cut both: --heads {after.heads} --hidden {after.heads * before.head}",
        )


def cut(model: Model, wanted: Wanted, kept: Kept, squares: Squares) -> Cut:
    """The model with these units only. squares: of the whole model's tensors."""
    stack = main_stack(model.tensors)
    count = depth_of(model)
    layers = tuple(range(count)) if wanted.layers is None else wanted.layers
    sizes = Sizes.of(model)
    tensors: dict[str, Node] = {}
    measured, origins = {}, {}
    for name, node in model.tensors.items():
        layered = layer_of(name)
        number = -1 if layered is None or layered[0] != stack else layered[1]
        if number >= 0 and number not in layers:
            continue
        place = place_of(name) if wanted.cuts_units else Place(None, None, number, -1)
        expert = place.expert
        if expert >= 0:
            staying = kept.get((Axis.EXPERTS, number, -1))
            if staying is not None and expert not in staying:
                continue
            expert = expert if staying is None else staying.index(expert)
        new = name if number < 0 else renamed(name, layers.index(number), expert)
        columns = _members(place.columns, place, kept, sizes)
        if kept:
            node = _cut_node(name, node, _members(place.rows, place, kept, sizes), columns)
            node = _rescaled(name, node, kept, model, sizes)
        tensors[new] = node
        origins[new] = (name, columns)
        if name in squares:
            measured[new] = squares[name] if columns is None else squares[name][:, list(columns)]
    order = sorted(tensors, key=_by_layer) if wanted.layers is not None else list(tensors)
    config = _config(model, wanted, layers, stack)
    return Cut(
        {name: tensors[name] for name in order}, config, measured, origins, tuple(_told(model, wanted, layers, count))
    )


def _by_layer(name: str) -> int:
    """Tensors of no layer keep their places before or behind, as sorting is stable."""
    layered = layer_of(name)
    return 0 if layered is None else layered[1]


def _cut_node(name: str, node: Node, rows: tuple[int, ...] | None, columns: tuple[int, ...] | None) -> Node:
    """With these rows and columns only; None for all."""
    if len(node.shape) == 1:
        node = node if rows is None else Columns(node, _run(rows))
    else:
        first, last = (columns, rows) if is_turned(name) else (rows, columns)
        node = node if first is None else Chosen(node, first)
        node = node if last is None else Columns(node, _run(last))
    return node


def _members(axis: Axis | None, place: Place, kept: Kept, sizes: Sizes) -> tuple[int, ...] | None:
    """Numbers of the rows or columns that are kept; None for all."""
    if axis is None:
        return None
    expert = place.expert if axis is Axis.EXPERT_FFN else -1
    layer = -1 if axis is Axis.HIDDEN else place.layer
    units = kept.get((Axis.HEADS if axis is Axis.QKV else axis, layer, expert))
    if units is None:
        return None
    if axis is Axis.QKV:
        units = tuple(unit + third * sizes.heads for third in range(3) for unit in units)
    width = sizes.width(axis)
    return tuple(unit * width + n for unit in units for n in range(width))


def _run(numbers: Sequence[int]) -> range | tuple[int, ...]:
    """As a range where they follow each other."""
    found = range(numbers[0], numbers[-1] + 1)
    return found if len(found) == len(numbers) else tuple(numbers)


def _rescaled(name: str, node: Node, kept: Kept, model: Model, sizes: Sizes) -> Node:
    """Where a model multiplies its embeddings by the root of its width, they are divided by what that changes; a head
    that is tied to them has it made good by the norm before it."""
    left, kind = kept.get((Axis.HIDDEN, -1, -1)), str(model.value("model_type"))
    if left is None or kind not in ROOTED:
        return node
    factor = sqrt(sizes.hidden / len(left))
    if is_embedding(name):
        return Affine(node, factor)
    if model.head is None and layer_of(name) is None and name.endswith("norm.weight") and not is_head(name):
        return Affine(node, 1 / factor, 1 / factor - 1 if kind in OFFSET else 0.0)
    return node


def _config(model: Model, wanted: Wanted, layers: Sequence[int], stack: str | None) -> dict[str, Json]:
    made = {stack: [(model.config, n) for n in layers]} if stack is not None else {}
    config = config_of(model.config, model.tensors, made) if wanted.layers is not None else dict(model.config)
    if not wanted.cuts_units:
        return config
    before, after = sizes_wanted(model, wanted)
    found: dict[str, Json] = {}
    for axis, keys in KEYS.items():
        if after.units(axis) != before.units(axis):
            known = [key for key in keys if model.value(key) is not None] or keys[-1:]
            found |= dict.fromkeys(known, after.units(axis))
    kind = str(model.value("model_type"))
    if kind not in TIED_WIDTH and (after.heads, after.hidden) != (before.heads, before.hidden):
        found["head_dim"] = before.head
    if after.hidden != before.hidden and "n_inner" not in found and kind == "gpt2":
        found["n_inner"] = after.ffn
    text = config.get("text_config")
    if isinstance(text, dict):
        return {**config, "text_config": {**text, **found}}
    return {**config, **found}


def _told(model: Model, wanted: Wanted, layers: Sequence[int], count: int) -> list[str]:
    said = []
    if wanted.layers is not None:
        said.append(f"layers {count} -> {len(layers)}")
    if wanted.cuts_units:
        before, after = sizes_wanted(model, wanted)
        pairs = ((axis.value, before.units(axis), after.units(axis)) for axis in KEYS)
        said += [f"{name} {had} -> {left}" for name, had, left in pairs if had != left]
    return said
