"""The steps of a plan: from moves and the encodings chosen for them; and what they round for a second time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from requant.encodings import BF16, F16, F32, Dense, Encoding
from requant.encodings.exactness import holds, integers_of
from requant.encodings.small_floats import small_floats_of
from requant.errors import PlanError
from requant.expressions import Form
from requant.importance import Importance
from requant.ir import TensorSpec
from requant.losses import Loss, LossKind
from requant.passes.passing import Fact
from requant.plan import Fidelity, Move, Step, Translation

if TYPE_CHECKING:
    from requant.feedback import Feedback


@dataclass(frozen=True, slots=True)
class Steps:
    """Every tensor has its step; if rounded, what is known of its columns.

    anew: see `Step`.
    """

    name: ClassVar = "steps"
    needs: ClassVar = frozenset({Fact.TYPED})
    ensures: ClassVar = frozenset({Fact.STEPPED})
    anew: bool = False

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for an encoding that a tensor cannot have."""
        steps = steps_for(said.moves, said.encodings, said.importance, anew=self.anew)
        smoothed = {name for one in said.smoothed for name in one.fold.consumers}
        steps = [replace(step, smoothed=True) if step.target.name in smoothed else step for step in steps]
        return replace(said, steps=tuple(steps if said.feedback is None else corrected(steps, said.feedback)))


def steps_for(
    moves: Sequence[Move], encodings: Iterable[Encoding], importance: Importance | None, *, anew: bool = False
) -> list[Step]:
    """One step for each move (`anew`: see `Step`); raises `PlanError` for an encoding it cannot have."""
    steps = []
    for move, encoding in zip(moves, encodings, strict=True):
        target = TensorSpec(move.name, move.shape, encoding)
        _ = target.parts  # an impossible shape is an error now
        _need_numbers(move, encoding)
        step = Step(move.values, target, anew=anew)
        if importance is not None and step.fidelity is Fidelity.ROUND:
            step = replace(step, importance=importance.weights_for(move.name, move.shape))
        steps.append(step)
    return steps


def corrected(steps: Iterable[Step], feedback: Feedback) -> Iterator[Step]:
    """The steps that round, with error feedback where their types take it and their inputs are known."""
    from requant.feedback import takes_feedback

    for step in steps:
        rounds = step.fidelity is Fidelity.ROUND and step.form is Form.VALUES
        if rounds and takes_feedback(step.target.encoding, feedback.options):
            step = replace(step, corrections=feedback.of(step.target.name, step.target.shape))
        yield step


def _need_numbers(move: Move, encoding: Encoding) -> None:
    """Integers are copied or refused; where weights belong, they are the parts of a quantization nobody knows."""
    for tensor in move.inputs:
        source = tensor.encoding
        if source != encoding and isinstance(source, Dense) and not source.dtype.is_float:
            raise PlanError(
                f"tensor {tensor.name!r} is {source.label}, which cannot become {encoding.label}",
                hint="weights stored as integers need the scales they were made with",
            )


def rounded_twice(steps: Sequence[Step]) -> list[Loss]:
    """What the steps round that has been rounded before."""
    return [Loss(LossKind.REQUANTIZED, step.target.name, _rounding(step)) for step in steps if step.rounds_twice]


def _rounding(step: Step) -> str:
    if step.keeps_codes:
        what = "zero * scale rounded to F16" if integers_of(step.sources[0]) else "the whole tensor's scale inverted"
        return f"{_labels(step)} to {step.target.encoding.label}: codes and scales kept, {what}"
    why = ": llama.cpp has no place for a scale of this whole tensor" if _loses_whole(step) else ""
    return f"{_labels(step)} rounded again to {step.target.encoding.label}{why}"


def _loses_whole(step: Step) -> bool:
    """Whether 4-bit floats are rounded only because their scale of the whole tensor has no place."""
    found, wanted = (small_floats_of(encoding) for encoding in (step.sources[0], step.target.encoding))
    return found is not None and wanted is not None and bool(found.whole) and replace(found, whole="") == wanted


def _labels(step: Step) -> str:
    return "+".join(dict.fromkeys(tensor.encoding.label for tensor in step.inputs))


def stored_encoding(move: Move) -> Encoding:
    """How a tensor's values are stored now; for several inputs, what holds the values of all of them."""
    encodings = [tensor.encoding for tensor in move.inputs]
    if encodings.count(encodings[0]) == len(encodings):  # compares where hashing would take half of planning
        return encodings[0]
    stored = tuple(dict.fromkeys(encodings))
    fitting = (one for one in (*stored, F16, BF16) if all(holds(other, one) for other in stored))
    return next(fitting, F32)
