"""`requant student`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from requant.cli import options, outputs, values, writing
from requant.merging.layers import MAPPINGS

_EXAMPLES: Final = """\b
Examples:
  requant student ./bert-base ./student --like distilbert
  requant student ./SmolLM2-135M ./student --layers 15 --mapping uniform
  requant student ./SmolLM2-135M ./student --layers 10 --hidden 384 --ffn 1024 --kv-heads 2
  requant student teacher-Q8_0.gguf ./student --layers 12 --to BF16 --dry-run
"""
_LIKE: Final = ("distilbert", "tinybert")
_COUNT: Final = click.IntRange(1)


@click.command(cls=writing.RoundingCommand, epilog=_EXAMPLES)
@click.argument("teacher")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--like", type=click.Choice(_LIKE), help="Depth and width as a student of the literature.")
@click.option("--layers", type=_COUNT, help="How many layers of the teacher's.")
@click.option("--mapping", type=click.Choice(tuple(MAPPINGS)), help="Which of them (default: uniform).")
@click.option("--hidden", type=_COUNT, help="The width of the states between layers.")
@click.option("--heads", type=_COUNT, help="Attention heads.")
@click.option("--kv-heads", type=_COUNT, help="Groups of keys and values, with their heads.")
@click.option("--ffn", type=_COUNT, help="Neurons of each feed-forward layer.")
@click.option("--experts", type=_COUNT, help="Experts of each layer.")
@click.option("--expert-ffn", type=_COUNT, help="Neurons of each expert.")
@click.option(
    "--to", "recipe", metavar="RECIPE", shell_complete=values.recipes, help="BF16, F32, ...; without it as it is."
)
@outputs.format_option
@writing.run_options
def student(
    teacher: str,
    destination: Path,
    like: str | None,
    layers: int | None,
    mapping: str | None,
    hidden: int | None,
    heads: int | None,
    kv_heads: int | None,
    ffn: int | None,
    experts: int | None,
    expert_ffn: int | None,
    recipe: str | None,
    format_name: str | None,
    how: writing.RunOptions,
) -> None:
    """Write what a student of TEACHER begins with to DESTINATION: some of its layers, perhaps narrower ones.

    --mapping chooses layers: uniform (the first, the last, others at equal distances), ends (the last of each of equal
    stretches), alternating, top-heavy, first, last. Of heads, neurons, experts and columns those stay whose weights are
    largest. Models are named as for `convert`; docs/training.md trains the student.
    """
    from requant.cli.execution import carry_out, measuring
    from requant.cli.references import opened_reference
    from requant.merging.reference import Reference
    from requant.operations.convert import Request
    from requant.pruning.structure import Wanted
    from requant.students import LIKE, Student, plan_student

    units = Wanted(None, hidden, heads, kv_heads, ffn, experts, expert_ffn)
    if like is not None and (layers or mapping or units.cuts_units):
        raise click.UsageError("--like says depth and width; leave out the other options of them")
    if mapping is not None and layers is None:
        raise click.UsageError("--mapping goes with --layers")
    target = outputs.format_for(destination, format_name)
    options.refuse_to_overwrite(destination, how.force or how.dry_run)
    model = opened_reference(Reference(teacher), how.quiet, headers=how.dry_run)
    asked = LIKE[like](model) if like is not None else Student(layers, mapping or "uniform", units)
    with measuring(how.quiet):
        plan = plan_student(model, asked, target, destination, Request(recipe))
    carry_out(plan, how)
