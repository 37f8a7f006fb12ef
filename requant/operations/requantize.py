"""A GGUF with other types, as llama-quantize makes it: the same tensors in the same order, the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from requant.encodings import Encoding
from requant.errors import PlanError
from requant.importance import Importance
from requant.ir import Checkpoint, Naming, Tensor, TensorSpec, Typed
from requant.layout import Format, LayoutOptions
from requant.operations.companions import multiplied_output
from requant.operations.steps import rounded_twice, steps_for
from requant.plan import Loss, LossKind, Move, Plan
from requant.recipes import (
    Facts,
    Overrides,
    Wanted,
    check_importance,
    choose_encodings,
    file_order,
    ggml_shape,
    overridden,
    pruned_metadata,
    pruned_names,
    quantized_metadata,
    recipe_named,
    unused_overrides,
)
from requant.sources import FileSlice


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for besides source and destination.

    recipe: a name as users type it. importance: by the names of the source's tensors. key_values: metadata to set.
    prune: layers to leave out. like: a GGUF whose tensors' types are copied; what it has not follows the recipe.
    keep_split: as many files as the source has, with the same tensors in each. cut: else, how to cut the output.
    rehearsal: the plan will not be run, so that it may lack importance data.
    """

    recipe: str
    overrides: Overrides = Overrides()
    importance: Importance | None = None
    key_values: tuple[tuple[str, Typed], ...] = ()
    prune: tuple[int, ...] = ()
    like: Checkpoint[Tensor] | None = None
    keep_split: bool = False
    cut: LayoutOptions = LayoutOptions()
    rehearsal: bool = False


def plan_requantization(source: Checkpoint[Tensor], target: Format, destination: Path, request: Request) -> Plan:
    """Decide how the GGUF `source` becomes the GGUF `destination`; raises `PlanError` for whatever cannot be."""
    if source.naming is not Naming.GGML or target.naming is not Naming.GGML:
        raise PlanError(
            f"{source.path} is no GGUF file; requantize goes from one GGUF to another",
            hint="`requant convert` takes any checkpoint to any format",
        )
    moves = _moves(source, request)
    wanted = [Wanted(move.name, move.shape, move.inputs[0].encoding) for move in moves]
    encodings, losses = _choices(source, wanted, moves, request)
    moves, encodings, more = multiplied_output(moves, encodings)
    losses += more
    steps = steps_for(moves, encodings, _renamed(request.importance, moves), anew=True)
    described: Checkpoint[TensorSpec] = Checkpoint(
        Naming.GGML, source.architecture, tuple(step.target for step in steps), metadata=_metadata(source, request)
    )
    losses += [Loss(LossKind.SUSPECT, source.path.name, notice) for notice in source.notices] + rounded_twice(steps)
    return Plan(tuple(steps), target.layout(described, destination, _cut(moves, request)), tuple(losses))


def _moves(source: Checkpoint[Tensor], request: Request) -> list[Move]:
    """Tensors in the order of the output, under the names they will have."""
    by_name = {tensor.name: tensor for tensor in source.tensors}
    names = pruned_names(by_name, request.prune) if request.prune else {name: name for name in file_order(by_name)}
    if request.keep_split:
        # llama.cpp's order would mix the files
        names = {tensor.name: names[tensor.name] for tensor in _as_stored(source.tensors) if tensor.name in names}
    return [Move(new, ggml_shape(by_name[old].shape), (by_name[old],)) for old, new in names.items()]


def _cut(moves: Sequence[Move], request: Request) -> LayoutOptions:
    """How the tensors are cut into files."""
    if not request.keep_split:
        return request.cut
    files = [_place(move.inputs[0])[0] for move in moves]
    return replace(request.cut, shard_counts=tuple(len(list(group)) for _, group in groupby(files)))


def _as_stored(tensors: Sequence[Tensor]) -> list[Tensor]:
    return sorted(tensors, key=_place)


def _place(tensor: Tensor) -> tuple[str, int]:
    """The file a tensor lies in and where: the names of shards sort as their numbers do."""
    slice_ = tensor.sources["data"]
    return (slice_.path.name, slice_.offset) if isinstance(slice_, FileSlice) else ("", 0)


def _choices(
    source: Checkpoint[Tensor], wanted: list[Wanted], moves: Sequence[Move], request: Request
) -> tuple[list[Encoding], list[Loss]]:
    recipe = recipe_named(request.recipe)
    facts = Facts(source.architecture, overridden(source.metadata, request.key_values))
    overrides = request.overrides
    if request.like is not None:
        overrides = replace(overrides, like={tensor.name: tensor.encoding for tensor in request.like.tensors})
    importance = _renamed(request.importance, moves)
    choices = choose_encodings(recipe, wanted, facts, overrides, importance, keep_split=request.keep_split)
    losses = [loss for want, choice in zip(wanted, choices, strict=True) if (loss := choice.loss(want.name))]
    losses += unused_overrides(request.overrides, wanted)
    losses += check_importance(recipe, wanted, choices, importance, rehearsal=request.rehearsal)
    return [choice.encoding for choice in choices], losses


def _renamed(importance: Importance | None, moves: Sequence[Move]) -> Importance | None:
    """Importance by the names of the output: layers that come after a pruned one are numbered anew."""
    if importance is None:
        return None
    names = {move.inputs[0].name: move.name for move in moves}
    return importance.renamed(names.get)


def _metadata(source: Checkpoint[Tensor], request: Request) -> dict[str, Typed]:
    recipe = recipe_named(request.recipe)
    before = [Wanted(tensor.name, tensor.shape, tensor.encoding) for tensor in source.tensors]
    metadata = quantized_metadata(source.metadata, recipe, before, request.key_values, request.importance)
    if request.like is not None and "general.file_type" in request.like.metadata:
        metadata["general.file_type"] = request.like.metadata["general.file_type"]
    return pruned_metadata(metadata, source.architecture, request.prune) if request.prune else metadata
