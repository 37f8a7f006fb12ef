"""Types for a model of a given size, chosen by what they are predicted to cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from requant.allocation import Knapsack, Option
from requant.divergence import Losses, check_statistics, losses_of
from requant.encodings import Encoding
from requant.errors import PlanError
from requant.expected import expected_of, in_nats, predicted_of
from requant.feedback import Smoothing
from requant.importance import Importance
from requant.operations.allocable import Kind
from requant.plan import Plan, Step
from requant.recipes import Overrides
from requant.recipes.options import compiled
from requant.smoothing import divided_statistics
from requant.statistics import Statistics

#: Plans the same with other types: (recipe, departures from it, importance, whether the plan will not be run). How
#: inputs are smoothed must be the same in all its plans.
Planner = Callable[[str, Overrides, Importance, bool], Plan]


def planner_with(
    smoothing: Smoothing | None, plan: Callable[[str, Overrides, Importance, bool, Smoothing | None], Plan]
) -> Planner:
    """plan: a `Planner` that is told besides how inputs are smoothed. Factors are searched by the first plan, and are
    those of all that come after it."""

    def planner(recipe: str, overrides: Overrides, importance: Importance, rehearsal: bool) -> Plan:
        nonlocal smoothing
        made = plan(recipe, overrides, importance, rehearsal, smoothing)
        smoothing = smoothing and replace(smoothing, found=made.passes[-1].after.smoothed)
        return made

    return planner


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for. nbytes: of all files together; bits: stored bits of one weight; divergence: at most, in nats
    per token. One of the three.

    types: what tensors may become; none are all that fit. least: (regular expression, encoding): tensors whose name
    has a match get no fewer bits. keep: tensors that stay as they are stored.
    """

    nbytes: int | None = None
    bits: float | None = None
    divergence: float | None = None
    types: tuple[str, ...] = ()
    least: tuple[tuple[str, Encoding], ...] = ()
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Allocation:
    """types: (name of a tensor, its encoding), as chosen. expected: the divergence that is predicted, nats per token;
    None without gradients or roles: tensors only compare. word: how a type is written."""

    types: tuple[tuple[str, Encoding], ...]
    expected: float | None
    word: Callable[[Encoding], str] = field(default=lambda encoding: encoding.label, compare=False)

    @property
    def patterns(self) -> tuple[tuple[str, Encoding], ...]:
        """For `Overrides.tensor_types`: expressions for whole names, in small letters as llama-quantize has them."""
        return tuple((f"^{re.escape(name).lower()}$", encoding) for name, encoding in self.types)

    @property
    def recipe(self) -> str:
        """As `--tensor-type-file` reads it, here and in llama-quantize."""
        return "".join(f"{pattern}={self.word(encoding)}\n" for pattern, encoding in self.patterns)


#: Gives what is known of tensors already, and takes what is found; see `requant.divergence_cache`.
Measuring = Callable[[Sequence[Step], Statistics, Sequence[Sequence[Encoding]]], list[Losses]]


@dataclass(frozen=True, slots=True)
class Question:
    """For what types are chosen, and by what. recipe, overrides: what is rounded, and what becomes of the rest."""

    planner: Planner
    recipe: str
    overrides: Overrides
    statistics: Statistics
    kind: Kind
    measure: Measuring = losses_of

    def plan(self, overrides: Overrides, *, rehearsal: bool, recipe: str | None = None) -> Plan:
        """The model with these departures, from this recipe or another."""
        return self.planner(recipe or self.recipe, overrides, self.statistics.rounding, rehearsal)


@dataclass(frozen=True)  # without slots, so that the knapsack is made once
class Choices:
    """What there is to choose from. before: the plan of the recipe itself, with these overrides. options: of the
    tensors of `names`, the smallest first. predicts: losses are divergences, and not shares of tensors' outputs."""

    question: Question
    before: Plan
    overrides: Overrides
    names: tuple[str, ...]
    options: tuple[tuple[Option, ...], ...]
    predicts: bool

    @property
    def fixed(self) -> int:
        """Bytes of all files but for the tensors that there is a choice for."""
        free = set(self.names)
        return self.before.layout.nbytes - sum(s.target.nbytes for s in self.before.steps if s.target.name in free)

    def allocation(self, target: Target) -> Allocation:
        """The best of that size, or of that divergence."""
        if target.divergence is not None:
            if not self.predicts:
                raise PlanError(
                    "statistics without gradients or roles predict no divergence that a target could be",
                    hint="requant calibrate --gradients, or --roles; or --target-bpw",
                )
            found = self.question.statistics
            asked = predicted_of(target.divergence, found)
            chosen = self.knapsack.reaching(asked, lambda loss: expected_of(loss, found))
        else:
            chosen = self.knapsack.within(self._budget(target))
        expected = self.expected(chosen) if self.predicts else None
        return Allocation(tuple((n, o.encoding) for n, o in zip(self.names, chosen, strict=True)), expected)

    def _budget(self, target: Target) -> int:
        """Bytes that are there for the tensors to choose for."""
        if target.bits is None:
            return (target.nbytes or 0) - self.fixed
        free = set(self.names)
        others = sum(step.target.nbytes for step in self.before.steps if step.target.name not in free)
        return int(target.bits * self.before.weights / 8) - others

    def of(self, plan: Plan) -> tuple[int, float] | None:
        """(bytes of all files, divergence) of another plan; None where it has a type that was not tried."""
        encodings = {step.target.name: step.target.encoding for step in plan.steps}
        found = [
            next((option for option in one if option.encoding == encodings[name]), None)
            for name, one in zip(self.names, self.options, strict=True)
        ]
        known = [option for option in found if option is not None]
        if len(known) < len(found):
            return None
        return plan.layout.nbytes, self.expected(known)

    def expected(self, chosen: Iterable[Option]) -> float:
        """The divergence of these together, as trials have it."""
        return expected_of(sum(option.loss for option in chosen), self.question.statistics)

    def frontier(self) -> list[tuple[int, float]]:
        """(bytes of all files, divergence) of the best there are, from small to large."""
        statistics = self.question.statistics
        return [(self.fixed + nbytes, expected_of(loss, statistics)) for nbytes, loss in self.knapsack.frontier()]

    @cached_property
    def knapsack(self) -> Knapsack:
        """What is to be chosen from."""
        return Knapsack(self.options)


def choices(question: Question, target: Target) -> Choices:
    """Every type of every tensor that the recipe would round and no option speaks of, with what it would cost.

    Raises `PlanError` for statistics that do not fit, before anything is rounded.
    """
    kind, overrides = question.kind, _keeping(question, target.keep)
    before = question.plan(overrides, rehearsal=True)
    free = [step for step in before.steps if kind.is_free(step) and not _is_named(step, overrides)]
    _check_patterns([name for name, _ in target.least], "--min-type", free)
    if not free:
        raise PlanError("the recipe rounds no tensor, so that there is nothing to choose")
    statistics = kind.statistics(before, question.statistics)
    check_statistics(free, statistics)
    statistics = divided_statistics(statistics, before.passes[-1].after.smoothed)
    types = [_candidates(kind, step, target, statistics) for step in free]
    names, losses = tuple(step.target.name for step in free), question.measure(free, statistics, types)
    measured = None if statistics.has_gradients else in_nats(names, losses, statistics)
    losses = measured or losses
    options = tuple(
        tuple(sorted(_options(kind, step, one, found, statistics), key=lambda option: option.nbytes))
        for step, one, found in zip(free, types, losses, strict=True)
    )
    return Choices(question, before, overrides, names, options, statistics.has_gradients or measured is not None)


def plan_allocation(question: Question, target: Target) -> tuple[Plan, Allocation]:
    """A plan of that size: the tensors that the recipe would round get one of `target.types` each.

    What the overrides name keeps its type. Raises `PlanError` for statistics that do not fit and for sizes that cannot
    be.
    """
    found, wanted = choices(question, target), target
    while True:
        allocation = found.allocation(wanted)
        types = (*found.overrides.tensor_types, *allocation.patterns)
        plan = question.plan(replace(found.overrides, tensor_types=types), rehearsal=False)
        over = 0 if target.nbytes is None else plan.layout.nbytes - target.nbytes
        if over <= 0:
            return replace(plan, expected_kl=allocation.expected), replace(allocation, word=question.kind.word)
        # config.json, which names every module that differs, has grown
        wanted = replace(wanted, nbytes=(wanted.nbytes or 0) - over)


def _options(
    kind: Kind, step: Step, types: Sequence[Encoding], losses: Mapping[str, float], statistics: Statistics
) -> list[Option]:
    """With what rounding of inputs costs besides."""
    shape, noise = step.target.shape, statistics.noise.get(step.target.name)
    return [
        Option(one, sum(part.nbytes for part in one.parts(shape).values()), losses[one.label] + kind.noise(one, noise))
        for one in types
    ]


def _keeping(question: Question, keep: Sequence[str]) -> Overrides:
    """The departures, and those that leave tensors as they are stored."""
    overrides = question.overrides
    if not keep:
        return overrides
    steps = question.plan(overrides, rehearsal=True).steps
    _check_patterns(keep, "--keep", steps)
    patterns = [compiled(pattern) for pattern in keep]
    kept = [
        (f"^{re.escape(step.target.name).lower()}$", step.sources[0])
        for step in steps
        if len(step.target.shape) > 1 and any(pattern.search(step.target.name) for pattern in patterns)
    ]
    return replace(overrides, tensor_types=(*overrides.tensor_types, *kept))


def _check_patterns(patterns: Sequence[str], option: str, steps: Sequence[Step]) -> None:
    """`PlanError` for what no tensor's name has a match of."""
    for pattern in patterns:
        if not any(compiled(pattern).search(step.target.name) for step in steps):
            raise PlanError(f"{option} {pattern}: no tensor to choose for has such a name")


def _candidates(kind: Kind, step: Step, target: Target, statistics: Statistics) -> list[Encoding]:
    """The types that a tensor may get."""
    fitting = kind.candidates(step, target.types, statistics)
    for pattern, least in target.least:
        if compiled(pattern).search(step.target.name):
            fitting = [one for one in fitting if _bits(one) >= _bits(least)] or [max(fitting, key=_bits)]
    return fitting


def _bits(encoding: Encoding) -> float:
    """Stored bits of a weight."""
    return sum(part.nbytes for part in encoding.parts((1, 4096)).values()) / 512


def _is_named(step: Step, overrides: Overrides) -> bool:
    """Whether an option speaks of a tensor."""
    name = step.target.name
    named = overrides.named(name) is not None
    named = named or (overrides.output is not None and name == "output.weight")
    return named or (overrides.token_embedding is not None and name == "token_embd.weight")
