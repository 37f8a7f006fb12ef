"""`requant requantize`: the arguments of llama-quantize."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import click

from requant import formats
from requant.cli import options
from requant.cli.execution import carry_out
from requant.digits import whole
from requant.errors import PlanError
from requant.formats import FORMATS
from requant.losses import LossKind
from requant.recipes import RECIPES, Recipe, layers_to_prune, override_kv, recipe_named

_EXAMPLES: Final = """\b
Examples:
  requant requantize model-f16.gguf model-q4.gguf Q4_K_M
  requant requantize model-f16.gguf model-iq2.gguf IQ2_XS --imatrix imatrix.gguf
  requant requantize model-f16.gguf mine.gguf --like theirs.gguf
  requant requantize --dry-run model-f16.gguf Q4_K_M
"""


@click.command(cls=options.RoundingCommand, epilog=_EXAMPLES)
@click.argument("source", metavar="IN.gguf", type=click.Path(path_type=Path))
@click.argument("rest", metavar="[OUT.gguf] TYPE [THREADS]", nargs=-1)
@click.option("--allow-requantize", is_flag=True, help="Rounding for a second time is no loss for --fail-on-loss.")
@options.rounding_options
@click.option("--like", type=click.Path(exists=True, path_type=Path), help="Copy the types of another GGUF's tensors.")
@click.option("--prune-layers", metavar="L0,L1,...", help="Leave these layers out and number the rest anew.")
@click.option(
    "--override-kv",
    "key_values",
    multiple=True,
    metavar="KEY=TYPE:VALUE",
    help="Set metadata; TYPE is int, float, bool or str. Repeatable.",
)
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
    keep_split: bool,
    max_buffer_size: int | None,
    choices: options.Choices,
    how: options.RunOptions,
) -> None:
    """Change the quantization types of a GGUF, with the arguments of llama-quantize.

    TYPE is a name such as Q4_K_M, in any case, or its number; `requant types` lists what they are made of. Without
    OUT.gguf the result is ggml-model-TYPE.gguf beside the input. Buffers are always small; --max-buffer-size is taken
    and changes nothing.
    """
    from requant.operations.requantize import Request, plan_requantization

    model = formats.open(source)
    words = arguments(source, rest, has_like=like is not None)
    how = replace(how, threads=words.threads or how.threads)
    request = Request(
        words.recipe.name,
        choices.overrides(),
        choices.importance(),
        tuple(override_kv(text) for text in key_values),
        layers_to_prune(prune_layers) if prune_layers else (),
        None if like is None else formats.open(like),
        keep_split,
        rehearsal=how.dry_run,
    )
    if not how.dry_run and words.destination.exists() and words.destination.samefile(source):
        raise PlanError(f"{source} is both input and output", hint="write to another name")
    options.refuse_to_overwrite(words.destination, how.force or how.dry_run)
    tolerated = frozenset({LossKind.REQUANTIZED} if allow_requantize else ())
    carry_out(
        plan_requantization(model, FORMATS["gguf"], words.destination, request), how, measure=True, tolerated=tolerated
    )


@dataclass(frozen=True, slots=True)
class Arguments:
    """What follows the input file."""

    destination: Path
    recipe: Recipe
    threads: int | None = None


def arguments(source: Path, words: tuple[str, ...], *, has_like: bool = False) -> Arguments:
    """`[OUT.gguf] TYPE [THREADS]`, told apart as llama-quantize does: the first word is a type if it names one.

    With --like the type may be left out; tensors that the other file lacks then stay as they are.
    """
    destination: Path | None = None
    left = list(words)
    if left and _recipe(left[0]) is None:
        destination = Path(left.pop(0))
    recipe = _recipe(left[0]) if left else None
    if recipe is not None:
        left.pop(0)
    elif has_like and not left:
        recipe = RECIPES["COPY"]
    if recipe is None:
        if left:
            recipe_named(left[0])  # says which names there are
        raise click.UsageError("TYPE is missing, such as Q4_K_M")
    threads = whole(left[0]) if left else None
    if len(left) > 1 or (left and not threads):
        raise click.UsageError(f"after TYPE comes at most a number of threads, not {' '.join(left)!r}")
    threads = min(threads, options.MAX_THREADS) if threads else None
    return Arguments(destination or source.with_name(f"ggml-model-{recipe.name}.gguf"), recipe, threads)


def _recipe(word: str) -> Recipe | None:
    try:
        return recipe_named(word)
    except PlanError:
        return None
