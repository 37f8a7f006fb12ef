"""`requant prune`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli import options, outputs, paths, writing

if TYPE_CHECKING:
    from requant.merging.model import Model
    from requant.pruning.masks import Masks

_EXAMPLES: Final = """\b
Examples:
  requant prune ./SmolLM2-135M ./sparse --sparsity 50%
  requant prune ./SmolLM2-135M ./sparse --sparsity 2:4 --method wanda --stats stats.gguf
  requant prune ./SmolLM2-135M sparse-q4.gguf --sparsity 50% --scope model --to Q4_K_M
  requant prune model-Q8_0.gguf ./sparse --sparsity 0.6 --skip 'layers\\.0\\.' --skip down_proj
  requant prune ./SmolLM2-135M ./sparse --sparsity 2:4 --dry-run --tensors
  requant prune ./SmolLM2-135M ./smaller --kv-heads 2 --ffn 1024 --hidden 512 --stats stats.gguf
  requant prune ./SmolLM2-135M ./shallower --layers 24 --stats stats.gguf
  requant prune ./SmolLM2-135M smaller-q8.gguf --drop-layers 20-23 --sparsity 2:4 --to Q8_0
"""
_METHODS: Final = ("magnitude", "wanda", "sparsegpt")
_SCOPES: Final = ("row", "tensor", "model")
_KINDS: Final = ("magnitude", "activation")
_COUNT: Final = click.IntRange(1)


@click.command(cls=writing.RoundingCommand, epilog=_EXAMPLES)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--sparsity", metavar="SHARE|N:M", help="Zeros: 0.5 or 50%; or N kept of every M neighbours: 2:4.")
@click.option("--method", type=click.Choice(_METHODS), default="magnitude", show_default=True, help="What is kept.")
@click.option("--scope", type=click.Choice(_SCOPES), help="What is compared: in a row (wanda), tensor, or the model.")
@click.option("--layers", type=_COUNT, help="Layers that are left: those that change most what goes through them.")
@click.option("--keep-layers", metavar="LIST", help="These layers only: 0-3,8,12.")
@click.option("--drop-layers", metavar="LIST", help="All layers but these.")
@click.option("--heads", type=_COUNT, help="Attention heads that are left, as many of each group.")
@click.option("--kv-heads", type=_COUNT, help="Whole groups that are left: keys and values, and their heads.")
@click.option("--ffn", type=_COUNT, help="Neurons that are left of each feed-forward layer.")
@click.option("--experts", type=_COUNT, help="Experts that are left in each layer.")
@click.option("--expert-ffn", type=_COUNT, help="Neurons that are left of each expert.")
@click.option("--hidden", type=_COUNT, help="The width that is left of the states between layers.")
@click.option("--importance", type=click.Choice(_KINDS), help="What chooses units (with --stats: activation).")
@click.option("--stats", type=paths.FILE, help="What `requant calibrate` has measured of this model.")
@click.option("--skip", multiple=True, metavar="REGEX", help="Leave tensors as they are whose name has a match.")
@click.option("--owl", is_flag=True, help="Prune layers less in which more weights stand out (OWL).")
@click.option(
    "--owl-outliers", type=options.Number(1), default=5.0, show_default=True, help="Times the mean of a layer."
)
@click.option(
    "--owl-spread", type=options.Number(0, 0.5), default=0.08, show_default=True, help="How far shares differ."
)
@click.option(
    "--sparsity-file",
    type=paths.FILE,
    help="REGEX=SHARE or REGEX=N:M, a line each: of tensors whose name has a match; the first that matches counts.",
)
@outputs.recipe_option
@outputs.format_option
@outputs.shard_size_option
@outputs.no_vocab_option
@writing.rounding_options
@writing.run_options
def prune(
    source: str,
    destination: Path,
    sparsity: str | None,
    method: str,
    scope: str | None,
    layers: int | None,
    keep_layers: str | None,
    drop_layers: str | None,
    heads: int | None,
    kv_heads: int | None,
    ffn: int | None,
    experts: int | None,
    expert_ffn: int | None,
    hidden: int | None,
    importance: str | None,
    stats: Path | None,
    skip: tuple[str, ...],
    owl: bool,
    owl_outliers: float,
    owl_spread: float,
    sparsity_file: Path | None,
    recipe: str | None,
    format_name: str | None,
    max_shard_size: str | None,
    no_vocab: bool,
    choices: writing.Choices,
    how: writing.RunOptions,
) -> None:
    """Make weights of SOURCE zero, or cut out units of it, and write it to DESTINATION.

    Units are cut out first, those that count least, with every row, column, norm and router that depends on them. Both
    models are named as for `convert`. Names that --skip and --sparsity-file match are those of Hugging Face, whatever
    the source: model.layers.0.mlp.down_proj.weight.
    """
    from requant.cli.execution import carry_out, measuring
    from requant.cli.references import opened_reference
    from requant.formats.imatrix import read_imatrix
    from requant.formats.imatrix.statistics import read_statistics
    from requant.merging.reference import Reference
    from requant.operations.convert import Request
    from requant.operations.prune import Options, plan_prune
    from requant.pruning.owl import Owl
    from requant.pruning.structure import Wanted

    units = Wanted(None, hidden, heads, kv_heads, ffn, experts, expert_ffn)
    chosen = {"--layers": layers, "--keep-layers": keep_layers, "--drop-layers": drop_layers}
    named = [name for name, value in chosen.items() if value is not None]
    if len(named) > 1:
        raise click.UsageError(f"{named[0]} and {named[1]} cannot be used together")
    cuts = units.cuts_units or bool(named)
    masks = _masks(sparsity, method, scope, skip, sparsity_file, cuts)
    if owl and masks is not None:
        masks = replace(masks, owl=Owl(owl_outliers, owl_spread))
    elif owl:
        raise click.UsageError("--owl goes with --sparsity")
    kind = importance or ("magnitude" if stats is None else "activation")
    if stats is None and (method != "magnitude" or kind == "activation"):
        raise click.UsageError(
            f"{f'--method {method}' if method != 'magnitude' else '--importance activation'} needs --stats; "
            f"requant calibrate{' --hessians' if method == 'sparsegpt' else ''} makes them"
        )
    if layers is not None and stats is None:
        raise click.UsageError("--layers needs --stats, which `requant calibrate` makes; --keep-layers takes numbers")
    if importance is not None and not units.cuts_units:
        raise click.UsageError("--importance chooses heads, neurons, experts and width, of which none is cut")
    measures = owl or method != "magnitude" or layers is not None or (units.cuts_units and kind == "activation")
    if stats is not None and not measures:
        raise click.UsageError("--stats says nothing of magnitudes; choose --method wanda")
    target = outputs.format_for(destination, format_name)
    options.refuse_to_overwrite(destination, how.force or how.dry_run)
    model = opened_reference(Reference(source), how.quiet, headers=how.dry_run)
    request = Request(
        recipe,
        choices.overrides(),
        choices.importance(),
        cut=outputs.cut(max_shard_size, None),
        vocabulary=not no_vocab,
    )
    units = replace(units, layers=_layers(model, keep_layers, drop_layers))
    measured = None if stats is None else read_imatrix(stats)
    asked = Options(units, kind == "magnitude", layers, masks, measured, conversion=request)
    if stats is not None and (method == "sparsegpt" or layers is not None):
        found = read_statistics(stats)
        asked = replace(asked, hessians=found.hessians, influences=found.influences)
    with measuring(how.quiet):
        plan = plan_prune(model, target, destination, asked)
    carry_out(plan, how)


def _layers(model: Model, keep: str | None, drop: str | None) -> tuple[int, ...] | None:
    """The layers that are left; None for all."""
    from requant.merging.layers import layers_left
    from requant.pruning.structure import depth_of

    if keep is None and drop is None:
        return None
    if keep is not None:
        return layers_left(keep, depth_of(model), "--keep-layers", keeps=True)
    left = layers_left(drop or "", depth_of(model), "--drop-layers", keeps=False)
    if not left:
        raise click.UsageError("--drop-layers leaves no layer")
    return left


def _masks(
    sparsity: str | None, method: str, scope: str | None, skip: tuple[str, ...], file: Path | None, cuts: bool
) -> Masks | None:
    """What becomes zero; None where units are cut out only."""
    from requant.pruning.masks import Masks
    from requant.pruning.sparsity import Sparsity, sparsity_from

    if sparsity is None and file is None:
        idle = [name for name, value in (("scope", scope), ("skip", skip)) if value]
        if idle or method != "magnitude":
            raise click.UsageError(f"--{idle[0] if idle else 'method'} goes with --sparsity or --sparsity-file")
        if cuts:
            return None
        raise click.UsageError("nothing is pruned: --sparsity 50%, or 2:4, --drop-layers, --kv-heads, --ffn, ...")
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
