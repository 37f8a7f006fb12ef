"""`requant prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import options, paths, values
from requant.cli.convert import WRITABLE

if TYPE_CHECKING:
    from requant.pruning.masks import Masks

_EXAMPLES: Final = """\b
Examples:
  requant prune ./SmolLM2-135M ./sparse --sparsity 50%
  requant prune ./SmolLM2-135M ./sparse --sparsity 2:4 --method wanda --stats stats.gguf
  requant prune ./SmolLM2-135M sparse-q4.gguf --sparsity 50% --scope model --to Q4_K_M
  requant prune model-Q8_0.gguf ./sparse --sparsity 0.6 --skip 'layers\\.0\\.' --skip down_proj
  requant prune ./SmolLM2-135M ./sparse --sparsity 2:4 --dry-run --tensors
"""
_METHODS: Final = ("magnitude", "wanda")
_SCOPES: Final = ("row", "tensor", "model")


@click.command(cls=options.RoundingCommand, epilog=_EXAMPLES)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--sparsity", metavar="SHARE|N:M", help="Zeros: 0.5 or 50%; or N kept of every M neighbours: 2:4.")
@click.option("--method", type=click.Choice(_METHODS), default="magnitude", show_default=True, help="What is kept.")
@click.option("--scope", type=click.Choice(_SCOPES), help="What is compared: in a row (wanda), tensor, or the model.")
@click.option("--stats", type=paths.FILE, help="What `requant calibrate` has measured of this model.")
@click.option("--skip", multiple=True, metavar="REGEX", help="Leave tensors as they are whose name has a match.")
@click.option(
    "--sparsity-file",
    type=paths.FILE,
    help="REGEX=SHARE or REGEX=N:M, a line each: of tensors whose name has a match; the first that matches counts.",
)
@click.option(
    "--to",
    "recipe",
    metavar="RECIPE",
    shell_complete=values.recipes,
    help="Q4_K_M, BF16, NF4, ...; without it, exact stays exact.",
)
@click.option("--format", "format_name", type=click.Choice(WRITABLE), help="Default: by the destination's name.")
@click.option("--max-shard-size", metavar="SIZE", help="Split into files of at most SIZE, such as 5G.")
@click.option("--no-vocab", is_flag=True, help="Write a GGUF without tokenizer.")
@options.rounding_options
@options.run_options
def prune(
    source: str,
    destination: Path,
    sparsity: str | None,
    method: str,
    scope: str | None,
    stats: Path | None,
    skip: tuple[str, ...],
    sparsity_file: Path | None,
    recipe: str | None,
    format_name: str | None,
    max_shard_size: str | None,
    no_vocab: bool,
    choices: options.Choices,
    how: options.RunOptions,
) -> None:
    """Make weights of SOURCE zero, and write it to DESTINATION.

    Both are named as for `convert`. Names that --skip and --sparsity-file match are those of Hugging Face, whatever the
    source: model.layers.0.mlp.down_proj.weight.
    """
    from requant import formats
    from requant.cli.conversion import format_for
    from requant.cli.execution import carry_out, measuring
    from requant.formats.imatrix import read_imatrix
    from requant.merging.model import model_of
    from requant.merging.reference import Reference
    from requant.operations.convert import Request
    from requant.operations.prune import Options, plan_prune

    masks = _masks(sparsity, method, scope, skip, sparsity_file)
    if method == "wanda" and stats is None:
        raise click.UsageError("--method wanda needs --stats; requant calibrate makes them")
    if stats is not None and method == "magnitude":
        raise click.UsageError("--stats says nothing of magnitudes; choose --method wanda")
    target = format_for(destination, format_name)
    options.refuse_to_overwrite(destination, how.force or how.dry_run)
    model = model_of(Reference(source), formats.open(options.located(source, how.quiet, headers=how.dry_run)))
    request = Request(
        recipe,
        choices.overrides(),
        choices.importance(),
        cut=options.cut(max_shard_size, None),
        vocabulary=not no_vocab,
    )
    asked = Options(masks, None if stats is None else read_imatrix(stats), request)
    with measuring(how.quiet):
        plan = plan_prune(model, target, destination, asked)
    carry_out(plan, how)


def _masks(sparsity: str | None, method: str, scope: str | None, skip: tuple[str, ...], file: Path | None) -> Masks:
    """What becomes zero."""
    from requant.pruning.masks import Masks
    from requant.pruning.sparsity import Sparsity, sparsity_from

    if sparsity is None and file is None:
        raise click.UsageError("--sparsity is missing: a share such as 50%, or 2:4")
    each = []
    for number, line in enumerate(options.read_text(file).splitlines() if file else (), 1):
        regex, equals, text = line.strip().rpartition("=")
        if line.strip() and not line.strip().startswith("#"):
            if not equals:
                raise click.UsageError(f"{file}, line {number}: {line.strip()!r} is not REGEX=SHARE")
            each.append((_checked(regex, f"{file}, line {number}"), sparsity_from(text, f"{file}, line {number}")))
    skipped = tuple(_checked(regex, "--skip") for regex in skip)
    return Masks(Sparsity(0) if sparsity is None else sparsity_from(sparsity), method, scope, tuple(each), skipped)


def _checked(regex: str, where: str) -> str:
    import re

    try:
        re.compile(regex)
    except re.error as error:
        raise click.UsageError(f"{where}: {regex!r} is no regular expression: {error}") from None
    return regex
