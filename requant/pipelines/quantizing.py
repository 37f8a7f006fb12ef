"""The stage that says how the output is stored: by a recipe, or by types that are chosen for a size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final

from requant.digits import size_in_bytes
from requant.encodings import Encoding
from requant.errors import PlanError
from requant.feedback import FeedbackOptions, Smoothing, feedback_by, smoothing_by, stands_for_feedback, usual_order
from requant.importance import Importance
from requant.layout import Format
from requant.merging.entry import Entry
from requant.operations.allocable import kind_for, type_named
from requant.operations.allocate import Measuring, Question, Target, plan_allocation, planner_with
from requant.operations.convert import Request
from requant.pipelines.flow import Flow
from requant.plan import Plan
from requant.recipes import Overrides, encoding_named, tensor_type
from requant.statistics import Statistics

_TYPES: Final = ("to", "tensor_type", "output_tensor_type", "token_embedding_type", "pure")
_TARGETS: Final = ("target_size", "target_bpw", "target_kl")
_CHOSEN: Final = ("types", "min_type", "keep")
_OTHERS: Final = ("weighing", "no_vocab", "feedback", "smooth")


@dataclass(frozen=True, slots=True)
class Quantize:
    """How the output is stored; options as of `requant convert`. What was measured of the model weighs its columns,
    unless `weighing: false`; its Hessians make up for errors where `feedback` or the recipe's name says so.

    smooth: whether columns with large inputs are multiplied (AWQ), and by which power, if it is not searched. target:
    the size or divergence that types are chosen for.
    """

    name: ClassVar[str] = "quantize"
    options: Mapping[str, Any]
    recipe: str
    overrides: Overrides = field(default_factory=Overrides)
    weighing: bool = True
    vocabulary: bool = True
    feedback: bool | None = None
    smooth: bool = False
    power: float | None = None
    target: Target | None = None

    @classmethod
    def of(cls, entry: Entry) -> Quantize:
        """From `{to: Q4_K_M, tensor_type: {attn_v: Q6_K}}`, or the recipe's name alone."""
        if isinstance(entry.value, str):
            entry = entry.at("", {"to": entry.value})
        said = entry.members((*_TYPES, *_TARGETS, *_CHOSEN, *_OTHERS))
        if "to" not in said:
            raise entry.wrong("says not how", "to: Q4_K_M")
        smooth, power = _smoothing(said.get("smooth"))
        weighing = "weighing" not in said or said["weighing"].flag()
        target = _target(entry, said)
        if not weighing and (smooth or target is not None):
            raise entry.wrong("smooth and targets go by what was measured, which weighing: false leaves out")
        return cls(
            entry.value,
            str(said["to"].value),
            Overrides(
                tensor_types=_types(said.get("tensor_type")),
                output=_encoding(said.get("output_tensor_type")),
                token_embedding=_encoding(said.get("token_embedding_type")),
                pure="pure" in said and said["pure"].flag(),
            ),
            weighing,
            not ("no_vocab" in said and said["no_vocab"].flag()),
            said["feedback"].flag() if "feedback" in said else None,
            smooth,
            power,
            target,
        )

    def apply(self, flow: Flow, tools: object) -> Flow:
        """The model as it is: `plan` is the last plan."""
        return flow

    def plan(self, flow: Flow, target: Format, output: Path, losses: Callable[[Statistics], Measuring]) -> Plan:
        """losses: gives what is known already of what types cost. Types are not chosen by statistics that are yet to be
        measured: it is told. Raises `PlanError` where there are no statistics, or none of the kind that it takes."""
        request, found, wanted = self.request(flow), flow.statistics, self.target
        if wanted is None:
            return flow.plan(target, output, request)
        if found is None:
            raise PlanError("quantize: a target needs statistics", hint="put `calibrate: {gradients: true}` before it")
        if not found.provenance.tokens:
            plan = flow.plan(target, output, request)
            told = f"types will be chosen by what is yet to be measured; these are those of {self.recipe}"
            return replace(plan, hints=(*plan.hints, told))

        def planned(
            recipe: str, overrides: Overrides, importance: Importance, _: bool, factors: Smoothing | None
        ) -> Plan:
            one = replace(request, recipe=recipe, overrides=overrides, importance=importance, smoothing=factors)
            return flow.plan(target, output, one)

        planner, kind = planner_with(request.smoothing, planned), kind_for(self.recipe, target.naming)
        question = Question(planner, self.recipe, self.overrides, found, kind, losses(found))
        plan, _ = plan_allocation(question, wanted)
        if found.has_gradients:
            return plan
        return replace(plan, hints=(*plan.hints, "with `calibrate: {gradients: true}` types are chosen better"))

    def request(self, flow: Flow) -> Request:
        """What the conversion is asked. Raises `PlanError` where there are no Hessians for what it says."""
        found = flow.statistics
        importance = found.rounding if found is not None and self.weighing else None
        request = Request(self.recipe, self.overrides, importance, vocabulary=self.vocabulary)
        if self.smooth and found is None:
            raise PlanError("quantize: smooth needs statistics", hint="put a stage `calibrate` before it")
        if self.smooth and found is not None and found.provenance.tokens:  # there is nothing to search by, otherwise
            request = replace(request, smoothing=smoothing_by(found, self.power))
        if not (stands_for_feedback(self.recipe) if self.feedback is None else self.feedback):
            return request
        if found is not None and found.hessians:
            options = FeedbackOptions(order=usual_order(self.recipe))
            return replace(request, feedback=feedback_by(found, options))
        if self.feedback:
            raise PlanError("quantize: feedback needs Hessians", hint="put `calibrate: {hessians: true}` before it")
        return request


def _smoothing(entry: Entry | None) -> tuple[bool, float | None]:
    """`true`, `false`, or a power."""
    if entry is None or isinstance(entry.value, bool):
        return entry is not None and entry.value, None
    if not isinstance(entry.value, int | float) or not 0 <= entry.value <= 1:
        raise entry.expected("true, or a power from 0 to 1")
    return True, float(entry.value)


def _target(entry: Entry, said: Mapping[str, Entry]) -> Target | None:
    """What types are chosen for, if they are."""
    named = [name for name in _TARGETS if name in said]
    if not named:
        if without := [name for name in _CHOSEN if name in said]:
            raise entry.wrong(f"{without[0]} goes with {', '.join(_TARGETS)}")
        return None
    if len(named) > 1:
        raise entry.wrong(f"{named[0]} and {named[1]} contradict each other")
    types = tuple(type_named(one.text()) for one in said["types"].items()) if "types" in said else ()
    keep = tuple(one.text() for one in said["keep"].items()) if "keep" in said else ()
    target = Target(types=types, least=_types(said.get("min_type")), keep=keep)
    one = said[named[0]]
    if named[0] == "target_size":
        nbytes = size_in_bytes(str(one.value))
        if nbytes is None:
            raise one.expected("a size such as 500MB or 4.2GB")
        return replace(target, nbytes=nbytes)
    if named[0] == "target_bpw":
        return replace(target, bits=one.number())
    return replace(target, divergence=one.number())


def _types(entry: Entry | None) -> tuple[tuple[str, Encoding], ...]:
    """`{attn_v: Q6_K}`."""
    if entry is None:
        return ()
    return tuple(tensor_type(f"{regex}={one.text()}") for regex, one in entry.named())


def _encoding(entry: Entry | None) -> Encoding | None:
    return None if entry is None else encoding_named(entry.text())
