"""What `requant convert` does with what it was given."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from requant import formats
from requant.cli import options
from requant.cli.allocating import RECIPE, AllocationOptions, kind_of, plan_of_size, say_frontier
from requant.cli.carded import Cards
from requant.cli.destinations import MARK, named_by, stem_of
from requant.cli.execution import carry_out, measuring
from requant.cli.several import carry_out_several, destination_for, names_of
from requant.cli.terminal import remark
from requant.errors import Error, PlanError
from requant.formats import FORMATS
from requant.ir import Checkpoint, Naming, Tensor, Typed
from requant.layout import Format, LayoutOptions
from requant.plan import Plan
from requant.printable import printable

if TYPE_CHECKING:
    from requant.importance import Importance
    from requant.operations.allocate import Planner
    from requant.operations.convert import Request
    from requant.recipes import Overrides


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of the command that are its own; see its help."""

    source: str
    destination: Path | None
    recipe: str | None
    format_name: str | None
    gptq_format: str | None
    base: str | None
    projector: bool
    vocabulary: bool
    key_values: tuple[tuple[str, Typed], ...]
    cut: LayoutOptions
    card: options.CardOptions
    like: Path | None
    ollama: bool
    wish: AllocationOptions


def carry_out_conversion(wanted: Wanted, choices: options.Choices, how: options.RunOptions) -> None:
    """Plan it, and carry it out."""
    from requant.operations.convert import Request

    name, chosen = wanted.format_name, wanted.wish.asked
    recipe = RECIPE if chosen and wanted.recipe is None else wanted.recipe
    recipes = names_of(recipe) if recipe else ()
    several = recipes if len(recipes) > 1 else ()
    destination = wanted.destination or named_by(wanted.source, recipes, name, projector=wanted.projector)
    if wanted.destination is None and not how.quiet:
        names = (str(destination).replace(MARK, one) for one in recipes)
        remark(f"no DESTINATION is given: {printable(', '.join(names), None)}")
    if len(recipes) == 1:
        destination = Path(str(destination).replace(MARK, recipes[0]))
    target = format_for(destination, name) if not several else _format_of(destination, name, several)
    like, types = options.liked(wanted.like)
    overrides = choices.overrides()
    request = Request(
        recipe,
        replace(overrides, tensor_types=(*overrides.tensor_types, *types)),
        choices.importance(),
        wanted.key_values,
        cut=wanted.cut,
        vocabulary=wanted.vocabulary,
        projector=wanted.projector,
        like=like,
    )
    if chosen:
        _check_target(wanted, choices, several)
    if wanted.key_values and target.naming is not Naming.GGML:
        raise PlanError(
            "--override-kv sets metadata of a GGUF; a Hugging Face folder has config.json",
            hint="edit config.json, or let the destination's name end in .gguf",
        )
    if wanted.ollama and (target.naming is not Naming.GGML or wanted.projector):
        raise PlanError("--ollama is for a text model that becomes a GGUF", hint="let the destination end in .gguf")
    if not several:
        options.refuse_to_overwrite(destination, how.force or how.dry_run)
    copied = recipe is None and wanted.gptq_format is None and target.naming is Naming.HF
    _, model = formats.opened(options.located(wanted.source, how.quiet, headers=how.dry_run), as_stored=copied)
    cards = Cards(wanted.card, model, wanted.source, request.importance, how.quiet)
    if _is_adapter(model, target, wanted.base):
        if several:
            raise PlanError("an adapter becomes one file", hint="give --to one type")
        if wanted.ollama:
            raise PlanError("--ollama is for a model; an adapter needs one", hint="requant merge makes one of both")
        if request != Request(recipe) or wanted.gptq_format is not None:
            raise PlanError(
                "of an adapter, --to, --base, --card and how to run can be chosen; every other option is of a model",
                hint="leave it out",
            )
        cards = replace(cards, adapter=True)
        carry_out(
            cards.added_to(recipe, _adapter_plan(model, wanted.base, target, destination, recipe, how.quiet)), how
        )
        return
    if wanted.gptq_format is not None:
        from requant.operations.gptq_format import read_as

        model = read_as(model, wanted.gptq_format)
    if chosen and recipe is not None:
        planner, kind = _planner(model, target, destination, request), kind_of(recipe, target.naming)
        if wanted.wish.frontier:
            say_frontier(wanted.wish, planner, recipe, request.overrides, how, kind)
            return
        plan = plan_of_size(wanted.wish, planner, recipe, request.overrides, how, kind)
        carry_out(cards.added_to(recipe, options.beside(plan, wanted.ollama)), how)
        return
    if not several:
        plan = _plan(model, target, destination, request, how.quiet)
        carry_out(cards.added_to(recipe, options.beside(plan, wanted.ollama)), how)
        return
    suffix = {"gguf": ".gguf"}.get(target.name, "")
    stem = stem_of(wanted.source)
    carry_out_several(
        [(one, destination_for(destination, one, stem, suffix)) for one in several],
        lambda one, place: options.beside(
            _plan(model, target, place, replace(request, recipe=one), how.quiet), wanted.ollama, several=True
        ),
        how,
        cards.added,
    )


def _format_of(destination: Path, name: str | None, recipes: tuple[str, ...]) -> Format:
    """As `format_for`; of a folder for several, what the recipes are of: GGUF, or Hugging Face folders."""
    from requant.encodings import Blocks
    from requant.recipes import ALIASES, RECIPES

    if name is None and not destination.suffix and MARK not in destination.name:
        known = (RECIPES.get(ALIASES.get(one, one)) for one in recipes)
        return FORMATS["gguf" if any(one and isinstance(one.main, Blocks) for one in known) else "safetensors"]
    return format_for(destination, name)


def _plan(model: Checkpoint[Tensor], target: Format, destination: Path, request: Request, quiet: bool) -> Plan:
    """The conversion; where planning measures, its progress is shown."""
    from requant.operations.convert import check_vocabulary, plan_conversion

    check_vocabulary(request, model.naming, target)
    with measuring(quiet) if _measures(request.recipe, target) else nullcontext():
        return plan_conversion(model, target, destination, request)


def _check_target(wanted: Wanted, choices: options.Choices, several: Sequence[str]) -> None:
    """Raises `UsageError` for what goes not with a target."""
    if several:
        raise click.UsageError("a target is of one recipe")
    if wanted.like or choices.imatrix or wanted.projector:
        raise click.UsageError("a target goes without --like, --imatrix and --mmproj")


def _planner(model: Checkpoint[Tensor], target: Format, destination: Path, request: Request) -> Planner:
    """The same conversion with other types."""
    from requant.operations.convert import check_vocabulary, plan_conversion

    check_vocabulary(request, model.naming, target)

    def planner(recipe: str, overrides: Overrides, importance: Importance, rehearsal: bool) -> Plan:
        asked = replace(request, recipe=recipe, overrides=overrides, importance=importance)
        return plan_conversion(model, target, destination, asked)

    return planner


def _is_adapter(model: Checkpoint[Tensor], target: Format, base: str | None) -> bool:
    """Whether SOURCE is an adapter of PEFT that becomes a GGUF."""
    from requant.adapters.recognized import CONFIG, is_adapter

    if CONFIG in model.files and is_adapter(model) and target.naming is Naming.GGML:
        return True
    if base is not None:
        raise click.UsageError(f"--base is the model of an adapter, and {model.path} is not one that becomes a GGUF")
    return False


def _adapter_plan(
    source: Checkpoint[Tensor], base: str | None, target: Format, destination: Path, recipe: str | None, quiet: bool
) -> Plan:
    """The GGUF that llama.cpp loads beside a model."""
    from requant.adapters.peft import peft_adapter
    from requant.adapters.written import Base, plan_adapter
    from requant.merging.model import model_of
    from requant.merging.reference import Reference

    adapter = peft_adapter(source)
    name = base or adapter.base
    if not name:
        raise PlanError(f"{source.path}: which model it is for is not said", hint="--base MODEL")
    try:
        model = model_of(Reference(name), formats.open(options.located(name, quiet)))
    except Error as error:
        hint = error.hint if base else f"--base MODEL, if it lies elsewhere than its adapter says ({name})"
        raise type(error)(str(error), hint=hint) from None
    return plan_adapter(adapter, Base(model.tensors, model.config), target, destination, recipe)


def _measures(recipe: str | None, target: Format) -> bool:
    """Whether planning reads weights, which takes its time."""
    if recipe is None or target.naming is not Naming.HF:
        return False
    from requant.schemes import scheme_named

    scheme = scheme_named(recipe)
    return scheme is not None and scheme.measures


def format_for(destination: Path, name: str | None) -> Format:
    """The format asked for, or the one the destination's name means."""
    if name is not None:
        return FORMATS[name]
    suffix = destination.suffix.lower()
    if suffix == ".gguf":
        return FORMATS["gguf"]
    if suffix in (".bin", ".pt", ".pth", ".onnx", ".ggml"):
        raise PlanError(f"{destination}: such files are not written", hint="use .gguf, .safetensors or a folder")
    return FORMATS["safetensors"]
