"""`requant split`: a model in several files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from requant.cli import options, outputs, writing
from requant.errors import PlanError

#: Where neither limit is given, as llama-gguf-split has it.
_TENSORS: Final = 128

_EXAMPLES: Final = """\b
Examples:
  requant split model.gguf model-parts --max-size 4G
  requant split model.gguf model-parts --max-tensors 100 --no-tensor-first-split
  requant split ./folder ./folder-of-shards --max-size 5G
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--max-size", metavar="SIZE", help="Bytes of tensors in a file at most, such as 500M or 4G.")
@click.option(
    "--max-tensors",
    type=click.IntRange(1),
    help=f"Tensors in a file at most (default, without --max-size: {_TENSORS}).",
)
@click.option("--no-tensor-first-split", "bare_first", is_flag=True, help="The first GGUF has the metadata alone.")
@writing.run_options
def split(
    source: str,
    destination: Path,
    max_size: str | None,
    max_tensors: int | None,
    bare_first: bool,
    how: writing.RunOptions,
) -> None:
    """Cut SOURCE into several files; every tensor stays as it is.

    The parts of a GGUF are DESTINATION-00001-of-00003.gguf and so on, byte for byte as llama-gguf-split writes them;
    those of a Hugging Face folder lie in the folder DESTINATION, with their index.
    """
    from requant import formats
    from requant.cli.execution import carry_out
    from requant.formats import FORMATS
    from requant.ir import Naming
    from requant.operations.convert import Request, plan_conversion

    _, model = formats.opened(options.located(source, how.quiet, headers=how.dry_run), as_stored=True)
    of_gguf = model.naming is Naming.GGML
    if bare_first and not of_gguf:
        raise click.UsageError("--no-tensor-first-split is of GGUF files; the index of a folder has no metadata")
    cut = outputs.cut(max_size, max_tensors or (None if max_size else _TENSORS), "--max-size")
    cut = replace(cut, numbered=True, bare_first=bare_first)
    options.refuse_to_overwrite(destination, how.force or how.dry_run or of_gguf)
    if not of_gguf and destination.suffix == ".safetensors":
        raise PlanError(f"{destination}: the shards of a folder lie in a folder", hint="name a folder")
    target = FORMATS["gguf" if of_gguf else "safetensors"]
    carry_out(plan_conversion(model, target, destination, Request(cut=cut)), how)
