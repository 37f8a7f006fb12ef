"""`requant requantize`: the arguments of llama-quantize."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import options, values, writing
from requant.cli.allocating import (
    RECIPE,
    AllocationOptions,
    allocation_options,
    plan_of_size,
    question,
    say_frontier,
)
from requant.cli.correcting import FeedbackOptions, feedback_options, statistics_of
from requant.digits import whole
from requant.errors import PlanError

if TYPE_CHECKING:
    from requant.feedback import Smoothing
    from requant.importance import Importance
    from requant.ir import Checkpoint, Tensor
    from requant.operations.allocate import Question
    from requant.operations.requantize import Request
    from requant.plan import Plan
    from requant.recipes import Overrides, Recipe

_EXAMPLES: Final = """\b
Examples:
  requant requantize model-f16.gguf model-q4.gguf Q4_K_M
  requant requantize model-f16.gguf model-iq2.gguf IQ2_XS --imatrix imatrix.gguf
  requant requantize model-f16.gguf mine.gguf --like theirs.gguf
  requant requantize model-f16.gguf best.gguf --stats stats.gguf --target-size 4.2GB
  requant requantize model-f16.gguf --stats stats.gguf --frontier
  requant requantize model-f16.gguf better.gguf Q4_K_M --stats stats.gguf --feedback
  requant requantize --dry-run model-f16.gguf Q4_K_M
  requant requantize model-f16.gguf 'model-{}.gguf' Q4_K_M,Q6_K,Q8_0
  requant requantize model-f16.gguf model-q4.gguf Q4_K_M --ollama
  requant requantize model-f16.gguf ./publish/model-q4.gguf Q4_K_M --card
"""


@click.command(cls=writing.RoundingCommand, epilog=_EXAMPLES)
@click.argument("source", metavar="IN.gguf", type=click.Path(path_type=Path))
@click.argument("rest", metavar="[OUT.gguf] TYPE [THREADS]", nargs=-1, shell_complete=values.mixes)
@click.option("--allow-requantize", is_flag=True, help="Rounding for a second time is no loss for --fail-on-loss.")
@writing.rounding_options
@writing.gguf_options
@allocation_options
@feedback_options
@writing.prune_option
@writing.card_options
@click.option("--keep-split", is_flag=True, help="As many files as the input has, with the same tensors in each.")
@click.option("--max-buffer-size", type=click.IntRange(1), metavar="MiB", hidden=True)
@writing.run_options
def requantize(
    source: Path,
    rest: tuple[str, ...],
    allow_requantize: bool,
    keep_split: bool,
    max_buffer_size: int | None,
    prune: tuple[int, ...],
    gguf: writing.GgufOptions,
    wish: AllocationOptions,
    correcting: FeedbackOptions,
    choices: writing.Choices,
    card: writing.CardOptions,
    how: writing.RunOptions,
) -> None:
    """Change the quantization types of a GGUF, with the arguments of llama-quantize.

    TYPE is a name such as Q4_K_M, in any case, or its number; `requant types` lists what they are made of. Without
    OUT.gguf the result is ggml-model-TYPE.gguf beside the input. Buffers are always small; --max-buffer-size is taken
    and changes nothing.
    """
    from requant import formats
    from requant.cli.carded import Cards
    from requant.cli.execution import carry_out
    from requant.cli.several import carry_out_several
    from requant.formats import FORMATS
    from requant.losses import LossKind
    from requant.operations.requantize import Request, plan_requantization

    model = formats.open(source)
    words = arguments(source, rest, has_like=gguf.like is not None, has_target=wish.asked)
    how = replace(how, threads=words.threads or how.threads)
    example, overrides = gguf.liked(choices)
    statistics = statistics_of(wish.stats, choices)
    importance = choices.importance() if statistics is None else statistics.rounding
    request = Request(
        words.recipes[0].name,
        overrides,
        None if wish.asked else importance,
        gguf.metadata(),
        prune,
        example,
        keep_split,
        rehearsal=how.dry_run,
        feedback=correcting.of(statistics, None),
        smoothing=correcting.smoothing(statistics, importance),
    )
    _check_places(source, words.destinations, how)
    cards = Cards(card, model, str(source), request.importance, how.quiet)
    tolerated = frozenset({LossKind.REQUANTIZED} if allow_requantize else ())
    several = len(words.recipes) > 1
    if wish.asked and several:
        raise click.UsageError("a target is of one recipe")
    if wish.asked and (gguf.like or prune or choices.imatrix):
        raise click.UsageError("a target goes without --like, --prune-layers and --imatrix")

    def planned(name: str, place: Path) -> Plan:
        one = replace(request, recipe=name)
        plan = (
            plan_of_size(wish, _question(wish, model, place, one), how)
            if wish.asked
            else plan_requantization(model, FORMATS["gguf"], place, one)
        )
        return writing.beside(plan, gguf.ollama, several=several)

    places = [(recipe.name, place) for recipe, place in zip(words.recipes, words.destinations, strict=True)]
    if wish.frontier:
        say_frontier(wish, _question(wish, model, places[0][1], request), how)
    elif several:
        carry_out_several(places, planned, how, cards.added, measure=True, tolerated=tolerated)
    else:
        carry_out(cards.added_to(request.recipe, planned(*places[0])), how, measure=True, tolerated=tolerated)


def _check_places(source: Path, places: Sequence[Path], how: writing.RunOptions) -> None:
    """`PlanError` for what must not be written."""
    for place in places:
        if not how.dry_run and place.exists() and place.samefile(source):
            raise PlanError(f"{source} is both input and output", hint="write to another name")
        options.refuse_to_overwrite(place, how.force or how.dry_run)


def _question(wish: AllocationOptions, model: Checkpoint[Tensor], destination: Path, request: Request) -> Question:
    """What types are best for it."""
    from requant.formats import FORMATS
    from requant.ir import Naming
    from requant.operations.allocate import planner_with
    from requant.operations.requantize import plan_requantization

    def plan(
        recipe: str, overrides: Overrides, importance: Importance, rehearsal: bool, factors: Smoothing | None
    ) -> Plan:
        one = replace(request, recipe=recipe, overrides=overrides, importance=importance, smoothing=factors)
        one = replace(one, rehearsal=rehearsal or request.rehearsal)
        return plan_requantization(model, FORMATS["gguf"], destination, one)

    planner = planner_with(request.smoothing, plan)
    return question(wish, planner, request.recipe, request.overrides, Naming.GGML)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What follows the input file; a destination for each recipe."""

    destinations: tuple[Path, ...]
    recipes: tuple[Recipe, ...]
    threads: int | None = None


def arguments(source: Path, words: tuple[str, ...], *, has_like: bool = False, has_target: bool = False) -> Arguments:
    """`[OUT.gguf] TYPE [THREADS]`, told apart as llama-quantize does: the first word is a type if it names one.

    With --like the type may be left out; tensors that the other file lacks then stay as they are. With a target, too:
    then Q4_K_M says what is rounded. Several types are separated by commas.
    """
    from requant.recipes import RECIPES, recipe_named

    destination: Path | None = None
    left = list(words)
    if left and not _recipes(left[0]):
        destination = Path(left.pop(0))
    recipes = _recipes(left[0]) if left else ()
    if recipes:
        left.pop(0)
    elif has_like and not left:
        recipes = (RECIPES["COPY"],)
    elif has_target and not left:
        recipes = (RECIPES[RECIPE],)
    if not recipes:
        if left:
            recipe_named(left[0])  # says which names there are
        raise click.UsageError("TYPE is missing, such as Q4_K_M")
    threads = whole(left[0]) if left else None
    if len(left) > 1 or (left and not threads):
        raise click.UsageError(f"after TYPE comes at most a number of threads, not {' '.join(left)!r}")
    threads = min(threads, options.MAX_THREADS) if threads else None
    return Arguments(tuple(_places(source, destination, recipes)), recipes, threads)


def _places(source: Path, destination: Path | None, recipes: Sequence[Recipe]) -> Iterator[Path]:
    from requant.cli.destinations import MARK
    from requant.cli.several import destination_for

    for recipe in recipes:
        if destination is None:
            yield source.with_name(f"ggml-model-{recipe.name}.gguf")
        elif len(recipes) == 1:
            yield Path(str(destination).replace(MARK, recipe.name))
        else:
            yield destination_for(destination, recipe.name, source.stem, ".gguf")


def _recipes(word: str) -> tuple[Recipe, ...]:
    """The types that a word names; none if it is no such word."""
    from requant.cli.several import names_of
    from requant.recipes import recipe_named

    try:
        return tuple(recipe_named(name) for name in (names_of(word) if "," in word else (word,)))
    except PlanError:
        return ()
