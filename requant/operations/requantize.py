"""A GGUF with other types, as llama-quantize makes it: the same tensors in the same order, the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from requant.errors import PlanError
from requant.formats import format_named
from requant.importance import Importance
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.layout import Format, LayoutOptions
from requant.operations.convert import rounding
from requant.passes import Pass, planned
from requant.passes.agreement import Agreement
from requant.passes.claim import Claim
from requant.passes.companions import OutputScale
from requant.passes.layout import Place
from requant.passes.losses import Losses
from requant.passes.metadata import RequantizedMetadata
from requant.passes.names import FileOrder, PrunedMetadata
from requant.passes.recipe import Mix
from requant.passes.steps import Steps
from requant.plan import Plan, unchanged
from requant.recipes import Overrides

if TYPE_CHECKING:
    from requant.feedback import Feedback, Smoothing


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for besides source and destination.

    recipe: a name as users type it. importance: by the names of the source's tensors. key_values: metadata to set.
    prune: layers to leave out. like: a GGUF whose tensors' types are copied; what it has not follows the recipe.
    keep_split: as many files as the source has, with the same tensors in each. cut: else, how to cut the output.
    rehearsal: the plan will not be run, so that it may lack importance data. feedback: by the names of the source's
    tensors. smoothing: of inputs, by the importance.
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
    feedback: Feedback | None = None
    smoothing: Smoothing | None = None


def plan_requantization(
    source: Checkpoint[Tensor], target: Format | str, destination: Path | str, request: Request
) -> Plan:
    """Decide how the GGUF `source` becomes the GGUF `destination`; raises `PlanError` for whatever cannot be.

    target: `requant.FORMATS["gguf"]`, or "gguf".
    """
    target, destination = format_named(target), Path(destination)
    if source.naming is not Naming.GGML or target.naming is not Naming.GGML:
        raise PlanError(
            f"{source.path} is no GGUF file; requantize goes from one GGUF to another",
            hint="`requant convert` takes any checkpoint to any format",
        )
    counted = f"{source.architecture}.block_count"
    if request.prune and counted in dict(request.key_values):
        raise PlanError(f"{counted} follows from the layers that are left out", hint=f"leave {counted} out")
    return planned(requantized(request, target, destination), unchanged(source))


def requantized(request: Request, target: Format, destination: Path) -> list[Pass]:
    """A GGUF becomes one of other types, as llama-quantize makes it."""
    return [
        Claim(Naming.GGML),
        FileOrder(request.prune, request.keep_split),
        Mix(
            request.recipe,
            request.overrides,
            request.importance,
            request.key_values,
            request.like,
            request.keep_split,
            request.rehearsal,
        ),
        RequantizedMetadata(request.recipe, request.key_values, request.importance, request.like),
        *([PrunedMetadata(request.prune)] if request.prune else []),
        *([Agreement(request.key_values)] if request.key_values else []),
        OutputScale(),
        *rounding(request, [Steps(anew=True)], Naming.GGML),
        Place(target, destination, request.cut, request.keep_split),
        Losses(Naming.GGML),
    ]
