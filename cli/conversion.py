"""What `requant convert` does with what it was given."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from requant import formats
from requant.cli import options, writing
from requant.cli.allocating import (
    RECIPE,
    AllocationOptions,
    plan_of_size,
    question,
    say_frontier,
)
from requant.cli.carded import Cards
from requant.cli.correcting import FeedbackOptions, statistics_of
from requant.cli.destinations import MARK, named_by, stem_of
from requant.cli.execution import carry_out, measuring
from requant.cli.outputs import format_for
from requant.cli.several import carry_out_several, destination_for, names_of
from requant.cli.terminal import remark
from requant.errors import Error, PlanError
from requant.formats import FORMATS
from requant.ir import Checkpoint, Naming, Tensor
from requant.layout import Format, LayoutOptions
from requant.plan import Plan
from requant.printable import printable

if TYPE_CHECKING:
    from requant.feedback import Smoothing
    from requant.importance import Importance
    from requant.operations.allocate import Question
    from requant.operations.convert import Request
    from requant.recipes import Overrides


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command was given; see its help."""

    source: str
    destination: Path | None
    to: str | None
    format_name: str | None
    gptq_format: str | None
    base: str | None
    projector: bool
    beside: Path | None
    vocabulary: bool
    cut: LayoutOptions
    prune: tuple[int, ...]
    gguf: writing.GgufOptions
    wish: AllocationOptions
    correcting: FeedbackOptions
    choices: writing.Choices
    card: writing.CardOptions
    stream: bool
    how: writing.RunOptions

    @property
    def recipe(self) -> str | None:
        """What `--to` says; of types that are chosen, what is rounded at all."""
        return RECIPE if self.to is None and self.wish.asked else self.to

    @property
    def recipes(self) -> tuple[str, ...]:
        """The names in it."""
        return names_of(self.recipe) if self.recipe else ()

    def request(self) -> Request:
        """What is asked of the plan."""
        from requant.operations.convert import Request

        like, overrides = self.gguf.liked(self.choices)
        statistics = statistics_of(self.wish.stats, self.choices)
        importance = self.choices.importance() if statistics is None else statistics.rounding
        return Request(
            self.recipe,
            overrides,
            None if self.wish.asked else importance,
            self.gguf.metadata(),
            cut=self.cut,
            vocabulary=self.vocabulary,
            projector=self.projector,
            mmproj=None if self.beside is None else formats.open(self.beside),
            like=like,
            prune=self.prune,
            feedback=self.correcting.of(statistics, self.recipe),
            smoothing=self.correcting.smoothing(statistics, importance),
        )


def carry_out_conversion(asked: Asked) -> None:
    """Plan it, and carry it out."""
    recipes, how = asked.recipes, asked.how
    destination = _destination(asked)
    target = _format_of(destination, asked.format_name, recipes)
    request = asked.request()
    several = len(recipes) > 1
    if asked.wish.asked:
        _check_wish(asked, several=several)
    asked.gguf.check(target, asked.projector)
    if not several:
        options.refuse_to_overwrite(destination, how.force or how.dry_run)
    copied = asked.recipe is None and asked.gptq_format is None and target.naming is Naming.HF
    if asked.stream and Path(asked.source).exists():
        raise PlanError(f"{asked.source} is here: --stream is for models of the Hub", hint="leave it out")
    path = options.located(asked.source, how.quiet, headers=how.dry_run, stream=asked.stream)
    _, model = formats.opened(path, as_stored=copied)
    cards = Cards(asked.card, model, asked.source, request.importance, how.quiet)
    if _is_adapter(model, target, asked.base):
        _check_adapter(asked, request, several=several)
        cards = replace(cards, adapter=True)
        carry_out(cards.added_to(asked.recipe, _adapter_plan(model, asked, target, destination)), how)
        return
    if asked.gptq_format is not None:
        from requant.operations.gptq_format import read_as

        model = read_as(model, asked.gptq_format)
    if asked.wish.asked:
        _carry_out_wish(asked, _question(asked.wish, model, target, destination, request), cards)
        return

    def planned(recipe: str | None, place: Path) -> Plan:
        plan = _plan(model, target, place, replace(request, recipe=recipe), how.quiet)
        return writing.beside(plan, asked.gguf.ollama, several=several)

    if not several:
        carry_out(cards.added_to(asked.recipe, planned(asked.recipe, destination)), how)
        return
    suffix = {"gguf": ".gguf"}.get(target.name, "")
    stem = stem_of(asked.source)
    places = [(one, destination_for(destination, one, stem, suffix)) for one in recipes]
    carry_out_several(places, planned, how, cards.added)


def _carry_out_wish(asked: Asked, wanted: Question, cards: Cards) -> None:
    """Types for a size, or what sizes there are to choose from."""
    if asked.wish.frontier:
        say_frontier(asked.wish, wanted, asked.how)
        return
    plan = plan_of_size(asked.wish, wanted, asked.how)
    carry_out(cards.added_to(wanted.recipe, writing.beside(plan, asked.gguf.ollama)), asked.how)


def _destination(asked: Asked) -> Path:
    """The one that is given, or a name that tells of source and recipe; with one recipe, its name is in it."""
    destination, recipes = asked.destination, asked.recipes
    if destination is None:
        destination = named_by(asked.source, recipes, asked.format_name, projector=asked.projector)
        if not asked.how.quiet:
            names = (str(destination).replace(MARK, one) for one in recipes)
            remark(f"no DESTINATION is given: {printable(', '.join(names), None)}")
    return Path(str(destination).replace(MARK, recipes[0])) if len(recipes) == 1 else destination


def _check_wish(asked: Asked, *, several: bool) -> None:
    """Raises `UsageError` for what goes not with a target."""
    if several:
        raise click.UsageError("a target is of one recipe")
    if asked.gguf.like or asked.choices.imatrix or asked.projector or asked.prune:
        raise click.UsageError("a target goes without --like, --imatrix, --prune-layers and --mmproj")


def _check_adapter(asked: Asked, request: Request, *, several: bool) -> None:
    """`PlanError` for options that an adapter has no place for."""
    if several:
        raise PlanError("an adapter becomes one file", hint="give --to one type")
    if asked.gguf.ollama:
        raise PlanError("--ollama is for a model; an adapter needs one", hint="requant merge makes one of both")
    if request != type(request)(asked.recipe) or asked.gptq_format is not None or asked.wish.asked:
        raise PlanError(
            "of an adapter, --to, --base, --card and how to run can be chosen; every other option is of a model",
            hint="leave it out",
        )


def _format_of(destination: Path, name: str | None, recipes: Sequence[str]) -> Format:
    """As `format_for`; of a folder for several, what the recipes are of: GGUF, or Hugging Face folders."""
    from requant.encodings import Blocks
    from requant.recipes import ALIASES, RECIPES

    if len(recipes) > 1 and name is None and not destination.suffix and MARK not in destination.name:
        known = (RECIPES.get(ALIASES.get(one, one)) for one in recipes)
        return FORMATS["gguf" if any(one and isinstance(one.main, Blocks) for one in known) else "safetensors"]
    return format_for(destination, name)


def _plan(model: Checkpoint[Tensor], target: Format, destination: Path, request: Request, quiet: bool) -> Plan:
    """The conversion; where planning measures, its progress is shown."""
    from requant.operations.convert import check_vocabulary, plan_conversion

    check_vocabulary(request, model.naming, target)
    measures = request.smoothing is not None or _measures(request.recipe, target)
    with measuring(quiet) if measures else nullcontext():
        return plan_conversion(model, target, destination, request)


def _question(
    wish: AllocationOptions, model: Checkpoint[Tensor], target: Format, destination: Path, request: Request
) -> Question:
    """What types are best for the same conversion."""
    from requant.operations.allocate import planner_with
    from requant.operations.convert import check_vocabulary, plan_conversion

    check_vocabulary(request, model.naming, target)

    def plan(recipe: str, overrides: Overrides, importance: Importance, _: bool, factors: Smoothing | None) -> Plan:
        one = replace(request, recipe=recipe, overrides=overrides, importance=importance, smoothing=factors)
        return plan_conversion(model, target, destination, one)

    assert request.recipe is not None
    planner = planner_with(request.smoothing, plan)
    return question(wish, planner, request.recipe, request.overrides, target.naming)


def _is_adapter(model: Checkpoint[Tensor], target: Format, base: str | None) -> bool:
    """Whether SOURCE is an adapter of PEFT that becomes a GGUF."""
    from requant.adapters.recognized import CONFIG, is_adapter

    if CONFIG in model.files and is_adapter(model) and target.naming is Naming.GGML:
        return True
    if base is not None:
        raise click.UsageError(f"--base is the model of an adapter, and {model.path} is not one that becomes a GGUF")
    return False


def _adapter_plan(source: Checkpoint[Tensor], asked: Asked, target: Format, destination: Path) -> Plan:
    """The GGUF that llama.cpp loads beside a model."""
    from requant.adapters.peft import peft_adapter
    from requant.adapters.written import Base, plan_adapter
    from requant.cli.references import opened_reference
    from requant.merging.reference import Reference

    adapter = peft_adapter(source)
    name = asked.base or adapter.base
    if not name:
        raise PlanError(f"{source.path}: which model it is for is not said", hint="--base MODEL")
    try:
        model = opened_reference(Reference(name), asked.how.quiet, headers=False)
    except Error as error:
        hint = error.hint if asked.base else f"--base MODEL, if it lies elsewhere than its adapter says ({name})"
        raise type(error)(str(error), hint=hint) from None
    return plan_adapter(adapter, Base(model.tensors, model.config), target, destination, asked.recipe)


def _measures(recipe: str | None, target: Format) -> bool:
    """Whether planning reads weights, which takes its time."""
    if recipe is None or target.naming is not Naming.HF:
        return False
    from requant.schemes import scheme_named

    scheme = scheme_named(recipe)
    return scheme is not None and scheme.measures
