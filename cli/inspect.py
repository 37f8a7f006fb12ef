"""`requant inspect`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from requant.cli.documents import say_document
from requant.cli.execution import telling_of_compilation
from requant.cli.inspection import About, metadata_text, plain, summary
from requant.cli.options import html_option, located
from requant.cli.stages import byte_bar
from requant.cli.tensor_table import Row, csv_text, ordered, tensor_table
from requant.cli.terminal import remark, say
from requant.errors import PlanError
from requant.formats import opened
from requant.ir import Checkpoint, Tensor
from requant.operations.inspect import report
from requant.operations.placed import Placed
from requant.operations.running import USUAL_BANDWIDTH, Asked
from requant.patterns import of_the_user
from requant.printable import printable
from requant.sources import check_unchanged

_EXAMPLES: Final = """\b
Examples:
  requant inspect model.gguf
  requant inspect ./SmolLM2-135M --tensors 'layers.0.*proj' --metadata
  requant inspect model.gguf --values --sort kurtosis
  requant inspect model.gguf --csv --columns tensor,type,offset > tensors.csv
  requant inspect model.gguf --json | jq .bits_per_weight
  requant inspect model.gguf --html model.html
"""


@click.command(epilog=_EXAMPLES)
@click.argument("model", metavar="PATH")
@click.option(
    "--tensors", "pattern", metavar="REGEX", help="List the tensors whose name contains a match ('.' for all)."
)
@click.option("--values", is_flag=True, help="Read the tensors, and tell what their numbers are like.")
@click.option("--columns", metavar="A,B,…", help="Columns of the list of tensors: tensor, layer, role, shape, …")
@click.option("--sort", metavar="COLUMN", help="Order the list: largest or A first; -COLUMN for the other way.")
@click.option("--metadata", is_flag=True, help="Show the metadata (GGUF keys, config.json, __metadata__).")
@html_option
@click.option("--ctx", type=click.IntRange(1, 1 << 30), help="Tokens of context that memory is told of.")
@click.option(
    "--bandwidth",
    type=click.FloatRange(0, min_open=True),
    default=USUAL_BANDWIDTH / 1e9,
    show_default=True,
    metavar="GB/S",
    help="Of the memory that weights are read from, for the bound on the speed.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the list of tensors alone, as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def inspect(
    model: str,
    pattern: str | None,
    values: bool,
    columns: str | None,
    sort: str | None,
    metadata: bool,
    html: Path | None,
    ctx: int | None,
    bandwidth: float,
    as_csv: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show what PATH (a model file or folder, or one of the Hugging Face Hub) consists of.

    Architecture, parameters, size, true bits per weight, how the bits are spread over tensor roles and layers, and
    the memory needed to run it. Only headers are read, unless --values asks for what the numbers are like.
    """
    order = ordered(columns, sort)
    if as_json and (as_csv or columns):
        raise click.UsageError("--json has every column; --csv and --columns do not go with it")
    if html is not None:
        from requant.cli.pages.writing import check_page

        check_page(html)
    values = values or order.needs_values
    path = located(model, quiet)
    found, checkpoint = opened(path, as_stored=True)
    result = report(checkpoint, found.name, Asked(ctx, bandwidth * 1e9))
    rows = [Row(one) for one in _chosen(result.placed, pattern, path.name)]
    oddities: list[str] = []
    if values:
        rows, oddities = _looked_at(rows, quiet)
        check_unchanged(checkpoint.opened)
    rows = order.rows(rows)
    about = About.of(checkpoint)
    document: dict[str, object] = {**result.to_json(), **about.to_json(), "notices": [*checkpoint.notices, *oddities]}
    if as_csv:
        for oddity in oddities:
            remark(f"note: {printable(oddity, 1000)}")
        say(csv_text(rows, order, values=values))
    elif as_json:
        tensors = [row.placed.to_json(row.figures) for row in rows]
        say_document("inspection", {**document, "tensors": tensors, **(_metadata(checkpoint) if metadata else {})})
    else:
        say(summary(result, about, oddities))
        if pattern is not None or values or columns or sort:
            say("\n" + tensor_table(rows, order, values=values))
        if metadata:
            say("\n" + metadata_text(result))
    if html is not None:
        from requant.cli.pages.inspection import inspection_page
        from requant.cli.pages.writing import write_page

        # all tensors and all metadata, whatever was asked for on the terminal
        figures = {row.tensor.name: row.figures for row in rows}
        every = [one.to_json(figures.get(one.tensor.name)) for one in result.placed]
        remark(write_page(html, inspection_page({**document, "tensors": every, **_metadata(checkpoint)})))


def _metadata(checkpoint: Checkpoint[Tensor]) -> dict[str, object]:
    """What `--metadata` adds."""
    metadata = {key: plain(field.value) for key, field in checkpoint.metadata.items()}
    return {"config": dict(checkpoint.config), "metadata": metadata}


def _chosen(tensors: Sequence[Placed], pattern: str | None, name: str) -> Sequence[Placed]:
    """Those whose name contains a match; raises `PlanError` where none does."""
    if pattern is None:
        return tensors
    try:
        wanted = of_the_user(pattern)
    except re.error as error:
        raise click.BadParameter(f"not a regular expression: {error}", param_hint="--tensors") from error
    found = [one for one in tensors if wanted.search(one.tensor.name)]
    if not found:
        raise PlanError(
            f"{name}: no name of its {len(tensors)} tensors contains a match for {pattern!r}",
            hint="--tensors . lists them all",
        )
    return found


def _looked_at(rows: Sequence[Row], quiet: bool) -> tuple[list[Row], list[str]]:
    """The rows with the figures of their tensors, and what is strange about these."""
    from requant.inspection.figures import oddities, surveyed

    tensors = [row.tensor for row in rows]
    with byte_bar(sum(tensor.nbytes for tensor in tensors), "reading", quiet) as bar, telling_of_compilation(quiet):
        figures = list(surveyed(tensors, bar.update))
    return [Row(row.placed, found) for row, found in zip(rows, figures, strict=True)], oddities(tensors, figures)
