"""`requant requantize`: the arguments of llama-quantize."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import options, paths, values
from requant.cli.terminal import remark
from requant.digits import whole
from requant.errors import PlanError

if TYPE_CHECKING:
    from requant.ir import Checkpoint, Tensor
    from requant.operations.requantize import Request
    from requant.plan import Plan
    from requant.recipes import Recipe

_EXAMPLES: Final = """\b
Examples:
  requant requantize model-f16.gguf model-q4.gguf Q4_K_M
  requant requantize model-f16.gguf model-iq2.gguf IQ2_XS --imatrix imatrix.gguf
  requant requantize model-f16.gguf mine.gguf --like theirs.gguf
  requant requantize model-f16.gguf best.gguf Q4_K_M --stats stats.gguf --target-size 4.2GB
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
@click.option("--like", type=paths.ANYTHING, help="Copy the types of another GGUF's tensors.")
@click.option("--stats", type=paths.FILE, help="Of `requant calibrate`.")
@click.option("--target-size", metavar="SIZE", help="Choose types so that the file has SIZE, such as 4.2GB.")
@click.option("--target-bpw", type=options.Number(0.5, 33), metavar="B", help="The same, in bits per weight.")
@click.option("--types", metavar="TYPE,...", help="With a target: what tensors may become.")
@click.option("--recipe-out", type=click.Path(path_type=Path), help="With a target: write the types chosen.")
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
    stats: Path | None,
    target_size: str | None,
    target_bpw: float | None,
    types: str | None,
    recipe_out: Path | None,
    prune_layers: str | None,
    key_values: tuple[str, ...],
    ollama: bool,
    keep_split: bool,
    max_buffer_size: int | None,
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
    from requant.losses import LossKind
    from requant.operations.requantize import Request, plan_requantization
    from requant.recipes import layers_to_prune

    model = formats.open(source)
    words = arguments(source, rest, has_like=like is not None)
    how = replace(how, threads=words.threads or how.threads)
    request = Request(
        words.recipes[0].name,
        choices.overrides(),
        choices.importance(),
        options.metadata_of(key_values),
        layers_to_prune(prune_layers) if prune_layers else (),
        None if like is None else formats.open(like),
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
        if target_size or target_bpw or stats or types or recipe_out:
            raise click.UsageError("a target size is of one recipe")
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
    if target_size or target_bpw:
        if like or prune_layers or choices.imatrix:
            raise click.UsageError("--target-size and --target-bpw go without --like, --prune-layers and --imatrix")
        chosen = _Target(stats, target_size, target_bpw, types, recipe_out)
        carry_out(
            cards.added_to(request.recipe, options.beside(chosen.plan(model, destination, request, how), ollama)),
            how,
            measure=True,
            tolerated=tolerated,
        )
        return
    if stats or types or recipe_out:
        raise click.UsageError("--stats, --types and --recipe-out go with --target-size or --target-bpw")
    carry_out(
        cards.added_to(
            request.recipe,
            options.beside(plan_requantization(model, FORMATS["gguf"], destination, request), ollama),
        ),
        how,
        measure=True,
        tolerated=tolerated,
    )


@dataclass(frozen=True, slots=True)
class _Target:
    """What is asked of a size."""

    stats: Path | None
    size: str | None
    bits: float | None
    types: str | None
    recipe_out: Path | None

    def plan(self, model: Checkpoint[Tensor], destination: Path, request: Request, how: options.RunOptions) -> Plan:
        """The types chosen, told, and written down if asked for."""
        from requant.cli.execution import measuring
        from requant.formats import FORMATS
        from requant.formats.imatrix.statistics import read_statistics
        from requant.operations.allocate import Size, plan_allocation

        if self.stats is None:
            raise click.UsageError("a target needs --stats, which `requant calibrate` makes")
        if self.size and self.bits:
            raise click.UsageError("--target-size and --target-bpw cannot be used together")
        if self.recipe_out is not None:
            options.refuse_to_overwrite(self.recipe_out, how.force or how.dry_run)
        size = Size(options.cut(self.size, None).shard_bytes if self.size else None, self.bits)
        names = tuple(_block_type(word) for word in self.types.split(",")) if self.types else ()
        with measuring(how.quiet):
            plan, found = plan_allocation(
                model, FORMATS["gguf"], destination, request, read_statistics(self.stats), size, names
            )
        if self.recipe_out is not None and not how.dry_run:
            self.recipe_out.write_text(found.recipe, "utf-8")
        if found.expected is None:
            remark(
                f"{self.stats} has no gradients: types chosen by each tensor's own error lose more than they need to"
            )
        else:
            remark(f"expected KL divergence {found.expected:.5f} at {plan.bits_per_weight:.4f} bits per weight")
        return plan


def _block_type(word: str) -> str:
    from requant.encodings import Blocks
    from requant.recipes import encoding_named

    encoding = encoding_named(word.strip())
    if not isinstance(encoding, Blocks):
        raise PlanError(f"--types: {encoding.label} is no type of blocks", hint="such as Q4_K, Q5_K or IQ4_XS")
    return encoding.label


@dataclass(frozen=True, slots=True)
class Arguments:
    """What follows the input file; a destination for each recipe."""

    destinations: tuple[Path, ...]
    recipes: tuple[Recipe, ...]
    threads: int | None = None


def arguments(source: Path, words: tuple[str, ...], *, has_like: bool = False) -> Arguments:
    """`[OUT.gguf] TYPE [THREADS]`, told apart as llama-quantize does: the first word is a type if it names one.

    With --like the type may be left out; tensors that the other file lacks then stay as they are. Several types are
    separated by commas.
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
