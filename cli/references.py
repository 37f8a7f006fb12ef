"""Models that are named for merging: a model, or a model and an adapter on it (`BASE+ADAPTER`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from requant.cli.options import located

if TYPE_CHECKING:
    from requant.ir import Checkpoint, Tensor
    from requant.merging.model import Model
    from requant.merging.reference import Reference
    from requant.passes.graft import Graft


def opened_reference(reference: Reference, quiet: bool, *, headers: bool, stream: bool | None = None) -> Model:
    """What lies there; headers, stream: see `located`."""
    from requant import formats
    from requant.adapters.opening import adapter_of
    from requant.merging.model import model_of, with_adapter

    model = model_of(reference, formats.open(located(reference.model, quiet, headers=headers, stream=stream)))
    if reference.lora is None:
        return model
    adapter = located(reference.lora, quiet, headers=headers, stream=stream)
    return with_adapter(model, adapter_of(formats.open(adapter)))


def opened_to_compare(name: str, quiet: bool, *, headers: bool) -> tuple[tuple[str, Checkpoint[Tensor]], Graft | None]:
    """The name of the format and the model; of a model with an adapter on it, also what computes its tensors."""
    from requant.formats import opened
    from requant.merging.reference import Reference

    reference = Reference.parse(name)
    if reference.lora is None or Path(name).exists():
        found, source = opened(located(name, quiet, headers=headers), as_stored=True)
        return (found.name, source), None
    from requant.cli.merge_recipe import merge_of_one
    from requant.operations.merge import described

    source, graft = described(merge_of_one(name), lambda one: opened_reference(one, quiet, headers=headers))
    return ("safetensors", source), graft
