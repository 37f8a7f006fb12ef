"""A model pruned, in any format to any format, planned as a conversion of a model not yet computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from requant.encodings import Dense, Encoding
from requant.expressions import Node
from requant.hessians import Hessian
from requant.importance import Importance
from requant.importance import Measured as Influence
from requant.ir import QUANTIZATION_FILES, Checkpoint, Naming, Tensor
from requant.layout import Format
from requant.merging.model import Model
from requant.operations.convert import LISTS, Request, check_vocabulary
from requant.passes import planned
from requant.passes.graft import named_by, stand_in, with_graft
from requant.plan import Plan, unchanged
from requant.pruning.choosing import Measured, chosen_units
from requant.pruning.influence import most_influential
from requant.pruning.masks import Masks, Outer, Squares, Thinned, thinned
from requant.pruning.squares import experts_of, hessians_of, squares_of
from requant.pruning.structure import Cut, Kept, Wanted, cut, depth_of
from requant.schemes.linear import TRANSPOSED

#: Files of a model that say what the result is not, or that are said anew.
_LEFT: Final = frozenset({"gguf_metadata.json", "model.safetensors.index.json", *QUANTIZATION_FILES})


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asks for.

    units: how many are left of each kind, the least important of which are cut out first. by_size: whether weights
    tell which these are, not what was measured. depth: how many layers are left, those with most influence. masks:
    weights that become zero. statistics, hessians, influences: what a calibration has measured, by names of GGML;
    influences of None are yet to be measured, and any layers are left. conversion: as for `convert`.
    """

    units: Wanted = field(default_factory=Wanted)
    by_size: bool = True
    depth: int | None = None
    masks: Masks | None = None
    statistics: Importance | None = None
    hessians: Mapping[str, tuple[Hessian | None, ...]] = field(default_factory=dict)
    influences: Mapping[str, Influence] | None = field(default_factory=dict)
    conversion: Request = field(default_factory=Request)


def plan_prune(model: Model, target: Format, destination: Path, options: Options) -> Plan:
    """Decide how `model` becomes `destination`; raises `PlanError` for whatever contradicts.

    Weights are read now where their sizes choose units, and for a bound over the whole model; everything else is
    computed when the plan is carried out.
    """
    hints: list[str] = []
    if options.depth is not None:
        layers = most_influential(options.influences, depth_of(model), options.depth)
        options = replace(options, units=replace(options.units, layers=layers))
        left_out = "those yet to be measured" if options.influences is None else _others(layers, depth_of(model))
        hints.append(f"left out as of least influence: layers {left_out}")
    losses = list(model.losses)
    squares = {} if options.statistics is None else squares_of(options.statistics, model)
    hessians = hessians_of(options.hessians, model) if options.hessians else {}
    outer: Outer = {name: (found, None) for name, found in hessians.items()}
    if options.units != Wanted():
        smaller = _cut(model, options, squares)
        model, squares = replace(model, tensors=smaller.tensors, config=smaller.config), dict(smaller.squares)
        outer = {
            name: (hessians[origin], columns)
            for name, (origin, columns) in smaller.origins.items()
            if origin in hessians
        }
        hints.append(f"cut: {', '.join(smaller.told)}")
    tensors = dict(model.tensors)
    if options.masks is not None:
        found = thinned(tensors, options.masks, squares, outer, transposed=model.value("model_type") in TRANSPOSED)
        tensors, losses = dict(found.tensors), [*losses, *found.losses]
        hints.append(_told(found))
    request = options.conversion
    own = model.dtype  # of what was quantized
    if target.naming is Naming.HF and request.recipe is None and any(map(_is_quantized, tensors.values())):
        request = replace(request, recipe=own.label)
        hints.append(f"the model was quantized; what is written is {own.label} (--to chooses)")
    source = _described(model, tensors, own, destination)
    check_vocabulary(request, Naming.HF, target)
    passes = with_graft(LISTS[Naming.HF, target.naming](request, target, destination), tensors)
    plan = planned(passes, unchanged(source))
    return replace(plan, losses=(*losses, *plan.losses), hints=(*hints, *plan.hints))


def _others(layers: Sequence[int], count: int) -> str:
    """The other ones, as --drop-layers takes them: `3,20-23`."""
    left = [n for n in range(count) if n not in layers]
    ends = [[n for n in left if n - 1 not in left], [n for n in left if n + 1 not in left]]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in zip(*ends, strict=True))


def _cut(model: Model, options: Options, squares: Squares) -> Cut:
    """The model without the units that count least."""
    kept: Kept = {}
    if options.units.cuts_units:
        measured = None
        if not options.by_size:
            experts = {} if options.statistics is None else experts_of(options.statistics)
            measured = Measured(squares, experts)
        kept = chosen_units(model, options.units, measured)
    return cut(model, options.units, kept, squares)


def _told(found: Thinned) -> str:
    """How many weights become zero, and who gains from it."""
    share = found.zeros / max(found.weights, 1)
    return (
        f"{found.zeros:,} of {found.weights:,} weights in {found.count} tensors become zero ({share:.1%}); stored as "
        f"dense numbers they take as much room and time as any others"
    )


def _is_quantized(node: Node) -> bool:
    return any(not isinstance(encoding, Dense) for encoding in node.encodings())


def _described(model: Model, tensors: Mapping[str, Node], own: Dense, destination: Path) -> Checkpoint[Tensor]:
    """The pruned model as a checkpoint of stand-ins."""
    stands = tuple(stand_in(name, node, _encoding(node, own)) for name, node in tensors.items())
    files = {name: source for name, source in model.files.items() if name not in _LEFT}
    architecture = str(model.value("model_type") or "")
    opened = model.source.opened
    return Checkpoint(
        Naming.HF, architecture, stands, model.config, {}, files, path=named_by(destination), opened=opened
    )


def _encoding(node: Node, own: Dense) -> Encoding:
    """How a tensor is stored unless the user asks for a type."""
    leaves = node.encodings()
    if len(leaves) == 1 and (node.verbatim is not None or node.holds(leaves[0])):
        return leaves[0]
    dense = [encoding for encoding in leaves if isinstance(encoding, Dense)]
    return dense[0] if len(dense) == len(leaves) == 1 else own
