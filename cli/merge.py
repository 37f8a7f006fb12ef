"""`requant merge`."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from requant.cli import options, outputs, values, writing
from requant.merging.layers import MAPPINGS

if TYPE_CHECKING:
    from requant.plan import Plan

_EXAMPLES: Final = """\b
Examples:
  requant merge recipe.yaml -o ./merged
  requant merge recipe.yaml -o merged-q4.gguf --to Q4_K_M
  requant merge ./a ./b --method slerp --t 0.5 -o ./merged
  requant merge a-Q8_0.gguf b-Q4_K_M.gguf --method linear --weight 0.6,0.4 -o merged.gguf --to Q4_K_M
  requant merge ./a ./b --method ties --base ./base --density 0.5 --weight 1 -o ./merged --dry-run
  requant merge ./base+./adapter -o ./merged
  requant merge base.gguf+./adapter -o merged-q4.gguf --to Q4_K_M
  requant merge --extract-lora ./base ./finetuned --rank 32 -o ./adapter
  requant merge ./model --keep-layers 0-7,16-23 -o ./smaller
  requant merge ./model --student 12 --mapping uniform -o ./student

\b
A recipe:
  merge_method: ties
  base_model: ./base
  models:
    - model: ./a
      parameters: {weight: 0.5, density: [0.4, 0.6]}    # from the first layer to the last
    - model: ./b
      parameters: {weight: [{filter: mlp, value: 0.3}, {value: 0.6}], density: 0.5}
  parameters: {normalize: true}
  dtype: bfloat16
"""


@click.command(cls=writing.RoundingCommand, epilog=_EXAMPLES)
@click.argument("sources", metavar="RECIPE.yaml | MODEL...", nargs=-1, required=True)
@click.option("-o", "--output", "destination", required=True, type=click.Path(path_type=Path), help="What is written.")
@click.option("--method", metavar="METHOD", help="Without a recipe: linear, slerp, ties, dare_ties, ...")
@click.option("--base", metavar="MODEL", help="The base model; by default the first, where a method needs one.")
@click.option("--weight", metavar="W[,W...]", help="Of every model, or of each (the base left out).")
@click.option("--density", metavar="D[,D...]", help="The share of differences that is kept, likewise.")
@click.option("--t", metavar="T[,T...]", help="0 is the base, 1 the other model; several are a gradient over layers.")
@click.option("--param", "parameters", multiple=True, metavar="NAME=VALUE", help="Any other parameter. Repeatable.")
@click.option("--dtype", metavar="DTYPE", help="Compute in float32, bfloat16 or float16 (default: as stored).")
@click.option("--tokenizer", metavar="union|base|MODEL", help="Whose tokens the result has.")
@click.option("--keep-layers", metavar="LIST", help="Of one model, these layers in this order: 0-3,8,8,12.")
@click.option("--drop-layers", metavar="LIST", help="Of one model, all layers but these.")
@click.option("--student", type=click.IntRange(1), metavar="N", help="Of one model, N layers to start a student with.")
@click.option(
    "--mapping", type=click.Choice(tuple(MAPPINGS)), help="How --student chooses its layers (default: uniform)."
)
@click.option("--extract-lora", is_flag=True, help="Of two models, make an adapter of the second's difference.")
@click.option("--rank", type=click.IntRange(1), help="Of the adapter that --extract-lora makes.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Of DARE and DELLA (default 0).")
@click.option("--allow-crimes", is_flag=True, help="Merge models of different families, if their tensors agree.")
@click.option(
    "--to",
    "recipe_name",
    metavar="TYPE",
    shell_complete=values.recipes,
    help="Q4_K_M, BF16, NF4, ...; without it as the recipe says.",
)
@outputs.format_option
@outputs.shard_size_option
@outputs.no_vocab_option
@writing.gguf_options
@writing.rounding_options
@writing.stream_option
@writing.run_options
def merge(
    sources: tuple[str, ...],
    destination: Path,
    extract_lora: bool,
    rank: int | None,
    seed: int | None,
    allow_crimes: bool,
    recipe_name: str | None,
    format_name: str | None,
    max_shard_size: str | None,
    no_vocab: bool,
    gguf: writing.GgufOptions,
    choices: writing.Choices,
    stream: bool,
    how: writing.RunOptions,
    **short: Any,
) -> None:
    """Merge models by a recipe as mergekit takes it, or by the options here.

    Models may be of any format that requant reads, and are named as for `convert`; so is the destination. Merging
    computes run by run in little memory, whatever the size.
    """
    from requant.cli.execution import carry_out
    from requant.cli.references import opened_reference
    from requant.merging.recipe import recipes_from
    from requant.merging.reference import Reference
    from requant.operations.convert import Request
    from requant.operations.merge import Options, plan_merge

    target = outputs.format_for(destination, format_name)
    gguf.check(target)
    options.refuse_to_overwrite(destination, how.force or how.dry_run)

    opened = partial(opened_reference, quiet=how.quiet, headers=how.dry_run, stream=stream)
    if extract_lora or rank is not None:
        _refuse_others()
        carry_out(_extraction(sources, destination, rank if extract_lora else None, how), how)
        return
    if len(sources) == 1 and sources[0].endswith((".yaml", ".yml")):
        given = [name for name, value in short.items() if value]
        if given:
            raise click.UsageError(f"--{given[0].replace('_', '-')} stands in the recipe, not beside it")
        recipes = recipes_from(options.read_text(Path(sources[0])), Path(sources[0]).name)
    else:
        from requant.cli.merge_recipe import recipe_text

        names = tuple(opened(Reference.parse(sources[0])).tensors) if len(sources) == 1 else ()
        recipes = recipes_from(recipe_text(sources, short, names), "the command line")
    if seed is not None and not any(recipe.method.draws for recipe in recipes):
        raise click.UsageError("--seed is of DARE and DELLA, which draw what they drop")
    like, overrides = gguf.liked(choices)
    request = Request(
        recipe_name,
        overrides,
        choices.importance(),
        gguf.metadata(),
        like=like,
        cut=outputs.cut(max_shard_size, None),
        vocabulary=not no_vocab,
    )
    plan = plan_merge(recipes, opened, target, destination, Options(seed or 0, allow_crimes, request))
    carry_out(writing.beside(plan, gguf.ollama), how)


def _refuse_others() -> None:
    """`UsageError` for options that the making of an adapter does not heed."""
    context = click.get_current_context()
    heeded = {"sources", "destination", "extract_lora", "rank", *(field.name for field in fields(writing.RunOptions))}
    for param in context.command.params:
        given = context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if given and param.name not in heeded:
            raise click.UsageError(f"{max(param.opts, key=len)} says nothing to --extract-lora")


def _extraction(sources: tuple[str, ...], destination: Path, rank: int | None, how: writing.RunOptions) -> Plan:
    """The adapter that makes the second model of the first, nearly."""
    from requant import formats
    from requant.adapters.extracted import plan_extraction
    from requant.cli.references import opened_reference
    from requant.merging.reference import Reference

    if rank is None or len(sources) != 2:
        raise click.UsageError("--extract-lora takes two models, the base first, and --rank")
    one, other = (opened_reference(Reference(name), how.quiet, headers=False) for name in sources)
    opened = (*one.source.opened, *other.source.opened)
    target = formats.FORMATS["safetensors"]
    return plan_extraction(one.tensors, other.tensors, rank, target, destination, sources[0], opened)
