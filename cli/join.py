"""`requant join`: a model in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from requant.cli import options, writing
from requant.errors import PlanError

_EXAMPLES: Final = """\b
Examples:
  requant join model-00001-of-00003.gguf model.gguf
  requant join ./folder-of-shards ./folder
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@writing.run_options
def join(source: str, destination: Path, how: writing.RunOptions) -> None:
    """Make one file of SOURCE, a model in several; every tensor stays as it is.

    SOURCE is any of the files of a split GGUF, or a Hugging Face folder of shards. What was split by `split` or
    llama-gguf-split is again the file it was, byte for byte.
    """
    from requant import formats
    from requant.cli.execution import carry_out
    from requant.formats import FORMATS
    from requant.ir import Naming
    from requant.operations.convert import Request, plan_conversion

    _, model = formats.opened(options.located(source, how.quiet, headers=how.dry_run), as_stored=True)
    of_gguf = model.naming is Naming.GGML
    if of_gguf != (destination.suffix.lower() == ".gguf"):
        raise PlanError(
            f"{destination}: {model.path} is {'a GGUF' if of_gguf else 'a Hugging Face folder'}, and stays one",
            hint="`requant convert` makes another format of it",
        )
    options.refuse_to_overwrite(destination, how.force or how.dry_run)
    carry_out(plan_conversion(model, FORMATS["gguf" if of_gguf else "safetensors"], destination, Request()), how)
