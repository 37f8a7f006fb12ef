"""`requant inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli.options import Number, html_option, located
from requant.cli.saying import say_document
from requant.cli.stages import byte_bar
from requant.cli.terminal import remark, say
from requant.errors import PlanError
from requant.printable import printable
from requant.system import USUAL_BANDWIDTH

if TYPE_CHECKING:
    from requant.cli.tensor_table import Row
    from requant.ir import Checkpoint, Tensor

_EXAMPLES: Final = """\b
Examples:
  requant inspect model.gguf
  requant inspect ./SmolLM2-135M --tensors 'layers.0.*proj' --metadata
  requant inspect model.gguf --values --sort kurtosis
  requant inspect model.gguf --tokenizer --tokens '^<.*>$' --template
  requant inspect imatrix.gguf --against model.gguf
  requant inspect ./models
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
@click.option("--tokenizer", is_flag=True, help="Tell what its tokenizer is like.")
@click.option("--tokens", metavar="REGEX", help="List the tokens whose text contains a match ('.' for all).")
@click.option("--template", is_flag=True, help="Show its chat templates, laid out to be read.")
@click.option("--against", metavar="MODEL", help="Of an importance matrix: tell how well it covers this model.")
@html_option
@click.option("--ctx", type=click.IntRange(1, 1 << 30), help="Tokens of context that memory is told of.")
@click.option(
    "--bandwidth",
    type=Number(0, 1e9, min_open=True),
    show_default=f"{USUAL_BANDWIDTH / 1e9:g}",
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
    tokenizer: bool,
    tokens: str | None,
    template: bool,
    against: str | None,
    html: Path | None,
    ctx: int | None,
    bandwidth: float | None,
    as_csv: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show what PATH (a model file or folder, or one of the Hugging Face Hub) consists of.

    Architecture, parameters, size, true bits per weight, how the bits are spread over tensor roles and layers, and
    the memory needed to run it. Only headers are read, unless --values asks for what the numbers are like. PATH may
    also be an adapter, a projector, an importance matrix, or a folder of models, each of which gets a line.
    """
    from requant.cli.inspection import About, metadata_text, summary
    from requant.cli.selection import chosen, model_or_imatrix
    from requant.cli.tensor_table import Row, csv_text, ordered, tensor_table
    from requant.inspection.imatrix import is_imatrix
    from requant.operations.inspect import report
    from requant.operations.inspect_folder import is_model
    from requant.operations.running import Asked
    from requant.sources import check_unchanged

    order = ordered(columns, sort)
    if as_json and (as_csv or columns):
        raise click.UsageError("--json has every column; --csv and --columns do not go with it")
    if html is not None:
        from requant.cli.pages.writing import check_page

        check_page(html)
    beside = {"--metadata": metadata, "--tokenizer": tokenizer, "--tokens": tokens, "--template": template}
    beside |= {"--against": against, "--ctx": ctx, "--bandwidth": bandwidth}
    if as_csv and (given := next((option for option, value in beside.items() if value), None)):
        raise click.UsageError(f"--csv is the list of tensors alone; {given} does not go with it")
    values = values or order.needs_values
    path = located(model, quiet, headers=not values)
    if path.is_dir() and not is_model(path):
        if html is not None:
            raise PlanError(f"--html: {path} is a folder of models", hint="a page is of one: name a model in it")
        if any((*beside.values(), pattern, values, columns, sort, as_csv)):
            raise PlanError(f"{path}: of a folder of models a line each is told", hint="name one of them for all else")
        from requant.cli.inspect_others import inspect_folder

        inspect_folder(path, as_json=as_json)
        return
    format_name, checkpoint = model_or_imatrix(path)
    if not Path(model).exists():  # one of the Hub is titled by the name asked for
        checkpoint = replace(checkpoint, path=Path(model))
    result = report(checkpoint, format_name, Asked(ctx, USUAL_BANDWIDTH if bandwidth is None else bandwidth * 1e9))
    rows = [Row(one) for one in chosen(result.placed, lambda one: one.tensor.name, pattern, "--tensors", path.name)]
    oddities: list[str] = []
    if values:
        rows, oddities = _looked_at(rows, quiet)
        check_unchanged(checkpoint.opened)
    rows = order.rows(rows)
    about = About.of(checkpoint)
    document: dict[str, object] = {**result.to_json(), **about.to_json(), "notices": [*checkpoint.notices, *oddities]}
    texts: list[str] = []
    first = summary(result, about, oddities)
    if is_imatrix(checkpoint):
        from requant.cli.inspect_others import importance_told

        document["importance"], first = importance_told(path, None if against is None else located(against, quiet))
    elif against is not None:
        raise PlanError(
            f"{path} is no importance matrix: --against says nothing", hint="`requant diff` compares models"
        )
    if tokenizer or tokens is not None:
        told, text = _tokenizer(checkpoint, tokens, facts=tokenizer)
        document |= told
        texts.append(text)
    if template:
        from requant.cli.inspect_tokens import templates_text
        from requant.inspection.templates import templates_of

        templates = templates_of(checkpoint)
        document["templates"] = templates
        texts.append(templates_text(templates) if templates else "no chat template")
    if as_csv:
        for oddity in oddities:
            remark(f"note: {printable(oddity, 1000)}")
        say(csv_text(rows, order, values=values))
    elif as_json:
        tensors = [row.placed.to_json(row.figures) for row in rows]
        say_document("inspection", {**document, "tensors": tensors, **(_metadata(checkpoint) if metadata else {})})
    else:
        say(first)
        if pattern is not None or values or columns or sort:
            say("\n" + tensor_table(rows, order, values=values))
        for text in texts:
            say("\n" + text)
        if metadata:
            say("\n" + metadata_text(result))
    if html is not None:
        from requant.cli.pages.inspection import inspection_page
        from requant.cli.pages.writing import write_page

        # all tensors and all metadata, whatever was asked for on the terminal
        figures = {row.tensor.name: row.figures for row in rows}
        every = [one.to_json(figures.get(one.tensor.name)) for one in result.placed]
        remark(write_page(html, inspection_page({**document, "tensors": every, **_metadata(checkpoint)})))


def _tokenizer(checkpoint: Checkpoint[Tensor], pattern: str | None, *, facts: bool) -> tuple[dict[str, object], str]:
    """What `--tokenizer` (facts) and `--tokens` add to the document, and what they say."""
    from requant.cli.inspect_tokens import tokenizer_text, tokens_table
    from requant.cli.selection import compiled
    from requant.inspection.tokens import tokenizer_of

    found = tokenizer_of(checkpoint)
    document: dict[str, object] = {"tokenizer": found.to_json()} if facts else {}
    texts = [tokenizer_text(found)] if facts else []
    if pattern is not None:
        matching = found.matching(compiled(pattern, "--tokens"))
        if not matching:
            raise PlanError(f"none of the {len(found.tokens)} tokens contains a match for {pattern!r}")
        document["tokens"] = [token.to_json() for token in matching]
        texts.append(tokens_table(matching, found))
    return document, "\n\n".join(texts)


def _metadata(checkpoint: Checkpoint[Tensor]) -> dict[str, object]:
    """What `--metadata` adds."""
    from requant.cli.inspection import plain
    from requant.formats.gguf.outline import outlines
    from requant.ir import Naming

    told: dict[str, object] = {"config": dict(checkpoint.config)}
    told["metadata"] = {key: plain(field.value) for key, field in checkpoint.metadata.items()}
    told["metadata_types"] = {key: field.kind for key, field in checkpoint.metadata.items()}
    if checkpoint.naming is Naming.GGML and checkpoint.opened:
        told["gguf"] = [one.to_json() for one in outlines(checkpoint)]
    return told


def _looked_at(rows: Sequence[Row], quiet: bool) -> tuple[list[Row], list[str]]:
    """The rows with the figures of their tensors, and what is strange about these."""
    from requant.cli.execution import telling_of_compilation
    from requant.cli.tensor_table import Row
    from requant.inspection.figures import oddities, surveyed

    tensors = [row.tensor for row in rows]
    with byte_bar(sum(tensor.nbytes for tensor in tensors), "reading", quiet) as bar, telling_of_compilation(quiet):
        figures = list(surveyed(tensors, bar.update))
    return [Row(row.placed, found) for row, found in zip(rows, figures, strict=True)], oddities(tensors, figures)
