"""`requant diff`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from requant.cli.options import MAX_THREADS, html_option
from requant.cli.saying import say_document
from requant.cli.stages import bars
from requant.cli.terminal import remark, say

if TYPE_CHECKING:
    from requant.operations.compare import Comparison

#: As the process ends where the models differ.
DIFFERENT: Final = 1

_EXAMPLES: Final = """\b
Examples:
  requant diff model-BF16.gguf model-Q4_K_M.gguf
  requant diff ./SmolLM2-135M smollm2.gguf --values
  requant diff ./base ./finetuned --values --only 'self_attn|mlp'
  requant diff ./base+./adapter ./merged --values
  requant diff a.gguf b.gguf --quiet && echo the same
  requant diff ./model model-Q4_K_M.gguf --values --html diff.html
  requant diff ./base ./finetuned --json | jq '.settings[].key'
"""


@click.command(epilog=_EXAMPLES)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--values", is_flag=True, help="Compare the numbers, too: every tensor of both is read once.")
@click.option("--tensors", is_flag=True, help="A line for each tensor, not for each kind of them; also for equal ones.")
@click.option("--only", "pattern", metavar="REGEX", help="Only tensors whose name contains a match.")
@click.option("--threads", "-t", type=click.IntRange(1, MAX_THREADS), help="Threads (default: all processors).")
@html_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing; the exit code tells.")
@click.pass_context
def diff(
    ctx: click.Context,
    a: str,
    b: str,
    values: bool,
    tensors: bool,
    pattern: str | None,
    threads: int | None,
    html: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare two models of any formats; exit code 1 when they differ, 0 when they are equal.

    A and B are models, or BASE+ADAPTER: a model with a LoRA on it, as `merge` would make it.

    Configuration and metadata are compared by what they mean, through the table of the model's family, so that a
    folder's config.json meets the keys of a GGUF; what only one of two formats can hold is told apart, and is no
    difference. Then tokenizers, and tensors by name: missing, of another shape, of another type.

    With --values the numbers, rows and experts in the same order, and what is encoded decoded: relative error (root of
    the squared error over the squares of A), largest error, cosine, signal to noise, signs that flipped, values that
    changed or are NaN on one side. Worst first.
    """
    from requant.cli.diff_text import comparison_text
    from requant.cli.references import opened_to_compare
    from requant.operations.compare import compare
    from requant.patterns import of_the_user

    try:
        only = of_the_user(pattern) if pattern is not None else None
    except re.error as error:
        raise click.BadParameter(f"not a regular expression: {error}", param_hint="--only") from error
    if html is not None:
        from requant.cli.pages.writing import check_page

        check_page(html)
    (one, first), (other, second) = (opened_to_compare(name, quiet, headers=not values) for name in (a, b))
    comparison = compare(one, other, only, (first, second))
    if values:
        comparison = with_values(comparison, threads, quiet)
    if as_json:
        say_document("diff", comparison.to_json())
    elif not quiet:
        say(comparison_text(comparison, every=tensors))
    if html is not None:
        _write_page(html, comparison, quiet)
    if not comparison.equal:
        ctx.exit(DIFFERENT)


def _write_page(path: Path, comparison: Comparison, quiet: bool) -> None:
    from requant.cli.pages.differences import differences_page
    from requant.cli.pages.writing import write_page

    said = write_page(path, differences_page(comparison.to_json()))
    if not quiet:
        remark(said)


def with_values(comparison: Comparison, threads: int | None, quiet: bool) -> Comparison:
    """With progress on stderr, as a share of the numbers."""
    from requant.cli.execution import telling_of_compilation
    from requant.operations.compare import comparable_values, with_numbers
    from requant.system import processors

    total, done = max(1, comparable_values(comparison)), 0
    with bars(quiet) as progress, telling_of_compilation(quiet):

        def tell(values: int) -> None:
            nonlocal done
            done += values
            progress("comparing", done / total)

        return with_numbers(comparison, threads or processors(), tell)
