"""`requant requantize`: the arguments of llama-quantize."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import options, paths, values
from requant.cli.allocating import RECIPE, AllocationOptions, allocation_options, kind_of, plan_of_size, say_frontier
from requant.digits import whole
from requant.errors import PlanError

if TYPE_CHECKING:
    from requant.importance import Importance
    from requant.plan import Plan
    from requant.recipes import Overrides, Recipe

_EXAMPLES: Final = """\b
Examples:
  requant requantize model-f16.gguf model-q4.gguf Q4_K_M
  requant requantize model-f16.gguf model-iq2.gguf IQ2_XS --imatrix imatrix.gguf
  requant requantize model-f16.gguf mine.gguf --like theirs.gguf
  requant requantize model-f16.gguf best.gguf --stats stats.gguf --target-size 4.2GB
  requant requantize model-f16.gguf --stats stats.gguf --frontier
  requant requantize --dry-run model-f16.gguf Q4_K_M
  requant requantize model-f16.gguf 'model-{}.gguf' Q4_K_M,Q6_K,Q8_0
  requant requantize model-f16.gguf model-q4.gguf Q4_K_M --ollama
  requant requantize model-f16.gguf ./publish/model-q4.gguf Q4_K_M --card
"""


@click.command(cls=options.RoundingCommand, epilog=_EXAMPLES)
@click.argument("source", metavar="IN.gguf", type=click.Path(path_type=Path))
@click.argument("rest", metavar="[OUT.gguf] TYPE [THREADS]", nargs=-1, shell_complete=values.mixes)
@click.option("--allow-requantize", is_flag=True, help="Rounding for a second time is no loss for --fail-on-loss.")
@options.rounding_options
@click.option("--like", type=paths.ANYTHING, help="Copy the types of another GGUF's tensors, or of a recipe .txt.")
@allocation_options
@click.option("--prune-layers", metavar="L0,L1,...", help="Leave these layers out and number the rest anew.")
@options.override_kv_option
@options.ollama_option
@options.card_options
@click.option("--keep-split", is_flag=True, help="As many files as the input has, with the same tensors in each.")
@click.option("--max-buffer-size", type=click.IntRange(1), metavar="MiB", hidden=True)
@options.run_options
def requantize(
    source: Path,
    rest: tuple[str, ...],
    allow_requantize: bool,
    like: Path | None,
    prune_layers: str | None,
    key_values: tuple[str, ...],
    ollama: bool,
    keep_split: bool,
    max_buffer_size: int | None,
    wish: AllocationOptions,
    choices: options.Choices,
    card: options.CardOptions,
    how: options.RunOptions,
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
    from requant.ir import Naming
    from requant.losses import LossKind
    from requant.operations.requantize import Request, plan_requantization
    from requant.recipes import layers_to_prune

    model = formats.open(source)
    chosen = wish.asked
    words = arguments(source, rest, has_like=like is not None, has_target=chosen)
    how = replace(how, threads=words.threads or how.threads)
    example, types = options.liked(like)
    overrides = choices.overrides()
    request = Request(
        words.recipes[0].name,
        replace(overrides, tensor_types=(*overrides.tensor_types, *types)),
        choices.importance(),
        options.metadata_of(key_values),
        layers_to_prune(prune_layers) if prune_layers else (),
        example,
        keep_split,
        rehearsal=how.dry_run,
    )
    cards = Cards(card, model, str(source), request.importance, how.quiet)
    for place in words.destinations:
        if not how.dry_run and place.exists() and place.samefile(source):
            raise PlanError(f"{source} is both input and output", hint="write to another name")
        options.refuse_to_overwrite(place, how.force or how.dry_run)
    tolerated = frozenset({LossKind.REQUANTIZED} if allow_requantize else ())
    if len(words.recipes) > 1:
        if chosen:
            raise click.UsageError("a target is of one recipe")
        carry_out_several(
            [(recipe.name, place) for recipe, place in zip(words.recipes, words.destinations, strict=True)],
            lambda name, place: options.beside(
                plan_requantization(model, FORMATS["gguf"], place, replace(request, recipe=name)), ollama, several=True
            ),
            how,
            cards.added,
            measure=True,
            tolerated=tolerated,
        )
        return
    (destination,) = words.destinations
    if chosen and (like or prune_layers or choices.imatrix):
        raise click.UsageError("a target goes without --like, --prune-layers and --imatrix")

    def planner(recipe: str, overrides: Overrides, importance: Importance, rehearsal: bool) -> Plan:
        asked = replace(
            request, recipe=recipe, overrides=overrides, importance=importance, rehearsal=rehearsal or how.dry_run
        )
        return plan_requantization(model, FORMATS["gguf"], destination, asked)

    if wish.frontier:
        say_frontier(wish, planner, request.recipe, request.overrides, how, kind_of(request.recipe, Naming.GGML))
        return
    plan = (
        plan_of_size(wish, planner, request.recipe, request.overrides, how, kind_of(request.recipe, Naming.GGML))
        if chosen
        else plan_requantization(model, FORMATS["gguf"], destination, request)
    )
    carry_out(cards.added_to(request.recipe, options.beside(plan, ollama)), how, measure=True, tolerated=tolerated)


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
