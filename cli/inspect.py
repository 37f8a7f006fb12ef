"""`requant inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from requant.cli.options import Number, gathered, html_option
from requant.system import USUAL_BANDWIDTH

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


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be told of a model, and how."""

    pattern: str | None
    values: bool
    columns: str | None
    sort: str | None
    metadata: bool
    tokenizer: bool
    tokens: str | None
    template: bool
    against: str | None
    html: Path | None
    ctx: int | None
    bandwidth: float | None
    as_csv: bool
    as_json: bool
    quiet: bool

    def __post_init__(self) -> None:
        """`UsageError` for what does not go together."""
        if self.as_json and (self.as_csv or self.columns):
            raise click.UsageError("--json has every column; --csv and --columns do not go with it")
        beside = {**self.beside(), "--ctx": self.ctx, "--bandwidth": self.bandwidth}
        if self.as_csv and (given := next((option for option, value in beside.items() if value), None)):
            raise click.UsageError(f"--csv is the list of tensors alone; {given} does not go with it")

    def beside(self) -> dict[str, object]:
        """What is told besides a summary and tensors."""
        return {
            "--metadata": self.metadata,
            "--tokenizer": self.tokenizer,
            "--tokens": self.tokens,
            "--template": self.template,
            "--against": self.against,
        }


_options = gathered(
    "asked",
    Asked,
    click.option(
        "--tensors", "pattern", metavar="REGEX", help="List the tensors whose name contains a match ('.' for all)."
    ),
    click.option("--values", is_flag=True, help="Read the tensors, and tell what their numbers are like."),
    click.option("--columns", metavar="A,B,…", help="Columns of the list of tensors: tensor, layer, role, shape, …"),
    click.option("--sort", metavar="COLUMN", help="Order the list: largest or A first; -COLUMN for the other way."),
    click.option("--metadata", is_flag=True, help="Show the metadata (GGUF keys, config.json, __metadata__)."),
    click.option("--tokenizer", is_flag=True, help="Tell what its tokenizer is like."),
    click.option("--tokens", metavar="REGEX", help="List the tokens whose text contains a match ('.' for all)."),
    click.option("--template", is_flag=True, help="Show its chat templates, laid out to be read."),
    click.option("--against", metavar="MODEL", help="Of an importance matrix: tell how well it covers this model."),
    html_option,
    click.option("--ctx", type=click.IntRange(1, 1 << 30), help="Tokens of context that memory is told of."),
    click.option(
        "--bandwidth",
        type=Number(0, 1e9, min_open=True),
        metavar="GB/S",
        help="Of the memory that weights are read from, for the bound on the speed "
        f"(default: {USUAL_BANDWIDTH / 1e9:g}).",
    ),
    click.option("--csv", "as_csv", is_flag=True, help="Print the list of tensors alone, as CSV."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    click.option("--quiet", "-q", is_flag=True, help="No progress bar."),
)


@click.command(epilog=_EXAMPLES)
@click.argument("model", metavar="PATH")
@_options
def inspect(model: str, asked: Asked) -> None:
    """Show what PATH (a model file or folder, or one of the Hugging Face Hub) consists of.

    Architecture, parameters, size, true bits per weight, how the bits are spread over tensor roles and layers, and
    the memory needed to run it. Only headers are read, unless --values asks for what the numbers are like. PATH may
    also be an adapter, a projector, an importance matrix, or a folder of models, each of which gets a line.
    """
    from requant.cli.inspected import tell

    tell(model, asked)
