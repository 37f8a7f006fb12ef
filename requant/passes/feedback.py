"""Error feedback: by the names of what is written, and what the output says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from requant.encodings import Dense
from requant.errors import PlanError
from requant.feedback import KEYS, ColumnOrder, Feedback, FeedbackOptions, described, takes_feedback
from requant.ir import Naming, Typed
from requant.losses import Loss, LossKind
from requant.passes.importance import places_in_hf_names
from requant.passes.passing import Fact
from requant.plan import Fidelity, Step, Translation


@dataclass(frozen=True, slots=True)
class Correct:
    """What columns have in common makes up for the errors of rounding.

    feedback: by names of GGML. naming: of the output.
    """

    name: ClassVar = "feedback"
    needs: ClassVar = frozenset({Fact.TYPED})
    ensures: ClassVar = frozenset[Fact]()
    feedback: Feedback
    naming: Naming

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for an order of columns that no type takes, and for statistics of another model."""
        options = self.feedback.options
        rounded = [encoding for encoding in said.encodings if not isinstance(encoding, Dense)]
        if rounded and not any(takes_feedback(encoding, options) for encoding in rounded):
            if takes_feedback(rounded[0], replace(options, order=ColumnOrder.STORED)):
                raise PlanError(
                    f"{rounded[0].label} has no place for columns in the order --act-order {options.order.value}",
                    hint="--act-order none, or GPTQ",
                )
            raise PlanError(f"{rounded[0].label} takes no error feedback", hint="leave out --feedback")
        metadata = {**said.metadata, **metadata_of(self.feedback)}
        renamed = in_ggml_names if self.naming is Naming.GGML else _in_hf_names
        feedback = renamed(self.feedback, said)
        return replace(said, feedback=feedback, metadata=metadata)


@dataclass(frozen=True, slots=True)
class UncorrectedTold:
    """What is rounded without feedback is told."""

    name: ClassVar = "feedback unused"
    needs: ClassVar = frozenset({Fact.STEPPED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """A loss for each tensor that is rounded and could be rounded better."""
        assert said.feedback is not None
        return said.losing(*_uncorrected(said.steps, said.feedback.options))


def _uncorrected(steps: Sequence[Step], options: FeedbackOptions) -> Iterator[Loss]:
    for step in steps:
        target = step.target
        if step.fidelity is not Fidelity.ROUND or isinstance(target.encoding, Dense) or step.corrections is not None:
            continue
        takes = takes_feedback(target.encoding, options)
        detail = "the statistics have no Hessian of it" if takes else f"{target.encoding.label} takes none"
        yield Loss(LossKind.IMPORTANCE_UNUSED, target.name, f"rounded without error feedback: {detail}")


def metadata_of(feedback: Feedback) -> dict[str, Typed]:
    """How weights were rounded, in metadata of either container: texts only, as safetensors have them."""
    said = {**described(feedback), "texts": ",".join(feedback.texts)}
    return {f"{KEYS}{key}": Typed("str", str(value)) for key, value in said.items()}


def in_ggml_names(feedback: Feedback, said: Translation) -> Feedback:
    """Layers that come after a pruned one are numbered anew."""
    if said.source.naming is not Naming.GGML:
        return feedback
    names = {move.name: move.inputs[0].name for move in said.moves}
    known = {new: feedback.hessians[old] for new, old in names.items() if old in feedback.hessians}
    return replace(feedback, hessians=known)


def _in_hf_names(feedback: Feedback, said: Translation) -> Feedback:
    hessians = {}
    for name, places in places_in_hf_names(said.source, said.moves):
        found = [feedback.of(place[0], place[1]) for place in places]
        if all(one is not None for one in found):
            hessians[name] = tuple(
                one.hessians[place[2]] for one, place in zip(found, places, strict=True) if one is not None
            )
    return replace(feedback, hessians=hessians)
