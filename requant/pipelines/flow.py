"""What goes from one stage to the next: a model as expressions over files, of which nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from requant.errors import PlanError
from requant.formats import FORMATS
from requant.ir import Checkpoint, Naming, Tensor
from requant.layout import Format
from requant.merging.model import Model, model_of, with_adapter
from requant.merging.narrowed import as_stored
from requant.merging.reference import Reference
from requant.operations.convert import Request, check_vocabulary, plan_conversion
from requant.operations.merge import TOLD
from requant.operations.prune import Options, plan_prune
from requant.passes.graft import stand_in
from requant.plan import Plan
from requant.statistics import Statistics

#: What a stage calls the model that the stage before it has made.
PREVIOUS: Final = "previous"

#: The checkpoint, or the adapter, that a user names.
Opened = Callable[[str], Checkpoint[Tensor]]


@dataclass(frozen=True, slots=True)
class Flow:
    """model: as the stages so far have made it. source: the file it was opened from, as long as it is still that.

    statistics: what the last calibration has measured of it. told: what the stages have decided, in words.
    """

    model: Model | None
    source: Checkpoint[Tensor] | None = None
    statistics: Statistics | None = None
    told: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, name: str, opened: Opened) -> Flow:
        """A model as it lies somewhere."""
        reference = Reference.parse(name)
        source = opened(reference.model)
        if reference.lora is None:
            return cls(model_of(reference, source), source)
        return cls(resolved(reference, opened))

    @property
    def known(self) -> Model:
        """The model; `PlanError` where there is none yet."""
        if self.model is None:
            raise PlanError("the first stage is given no model", hint="model: ./folder")
        return self.model

    def plan(self, target: Format, destination: Path, request: Request) -> Plan:
        """It as a conversion: of the file itself, with all that it has, where nothing was changed."""
        if self.source is not None:
            check_vocabulary(request, self.source.naming, target)
            return plan_conversion(self.source, target, destination, request)
        return plan_prune(self.known, target, destination, Options(conversion=request))

    def then(self, plan: Plan, *told: str) -> Flow:
        """The model that a plan would write into a folder; what was measured of the one before is not said of it."""
        return Flow(model_from(plan), told=(*self.told, *told))


def dense(flow: Flow) -> Plan:
    """The model as a folder of float32, for what runs it; nothing of it is written."""
    return flow.plan(FORMATS["safetensors"], Path(PREVIOUS), Request("F32"))


def resolved(reference: Reference, opened: Opened, flow: Flow | None = None) -> Model:
    """The model that a reference means; `previous` is that of the stage before."""
    from requant.adapters.opening import adapter_of

    if flow is not None and reference.model == PREVIOUS:
        model = flow.known
    else:
        model = model_of(replace(reference, lora=None), opened(reference.model))
    if reference.lora is not None:
        model = with_adapter(model, adapter_of(opened(reference.lora)))
    return replace(model, reference=reference)


def model_from(plan: Plan) -> Model:
    """What a plan would write, as expressions over what it reads: numbers are rounded as they would be stored."""
    said = plan.passes[-1].after
    tensors = {step.target.name: as_stored(step.values, step.target.encoding) for step in plan.steps}
    stands = tuple(stand_in(step.target.name, step.values, step.target.encoding) for step in plan.steps)
    files = {name: source for name, source in said.files.items() if name not in TOLD}
    architecture = str(said.config.get("model_type") or "")
    source: Checkpoint[Tensor] = Checkpoint(
        Naming.HF, architecture, stands, said.config, {}, files, opened=plan.opened, path=Path(PREVIOUS)
    )
    return Model(Reference(PREVIOUS), source, said.config, files, tensors, plan.losses)
