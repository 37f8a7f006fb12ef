"""`requant extract`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from requant.cli import options, writing
from requant.errors import PlanError

_EXAMPLES: Final = """\b
Examples:
  requant extract model.gguf q.npy --only 'blk\\.0\\.attn_q'
  requant extract model.gguf layer0.safetensors --only '^blk\\.0\\.' --raw
  requant extract model.gguf ./tokenizer --tokenizer
  requant extract model.gguf chat.jinja --template
  requant extract model.gguf config.json --config
  requant extract imatrix.dat importance.safetensors --importance
"""
_PARTS: Final = ("tokenizer", "template", "config", "importance")


@click.command(epilog=_EXAMPLES)
@click.argument("model")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--only", "pattern", metavar="REGEX", help="Only tensors whose name contains a match.")
@click.option("--raw", is_flag=True, help="Tensors as they are stored: blocks as rows of bytes, else every array.")
@click.option("--tokenizer", is_flag=True, help="The tokenizer, as files of a Hugging Face folder.")
@click.option("--template", is_flag=True, help="The chat template; into a folder, all of them.")
@click.option("--config", is_flag=True, help="config.json; of a GGUF, as a conversion writes it.")
@click.option("--importance", is_flag=True, help="Of an importance matrix: the means that quantizers heed.")
@writing.run_options
def extract(
    model: str,
    destination: Path,
    pattern: str | None,
    raw: bool,
    tokenizer: bool,
    template: bool,
    config: bool,
    importance: bool,
    how: writing.RunOptions,
) -> None:
    """Write a part of MODEL to DESTINATION: its tensors, unless an option names another part.

    Tensors become a .npy file (one of them) or a .safetensors file: decoded to float32, or with --raw as they are
    stored. Integers stay integers, and NaN and infinities stay what they are. An importance matrix has tensors, too.
    """
    from requant.cli.execution import carry_out
    from requant.cli.selection import chosen, model_or_imatrix
    from requant.inspection.recognized import is_imatrix
    from requant.operations import extract as parts

    given = (tokenizer, template, config, importance)
    named = [name for name, asked in zip(_PARTS, given, strict=True) if asked]
    if len(named) > 1 or (named and (pattern is not None or raw)):
        raise click.UsageError("one thing at a time: tensors (--only, --raw), or one of --" + ", --".join(_PARTS))
    if named and how.replace_nan is not None:
        raise click.UsageError(f"--replace-nan is of tensors; --{named[0]} says nothing of them")
    path = options.located(model, how.quiet)
    options.refuse_to_overwrite(destination, how.force or how.dry_run)
    if importance:
        from requant.formats.imatrix import read_imatrix

        carry_out(parts.plan_importance(read_imatrix(path), destination), how, any_value=True)
        return
    _, source = model_or_imatrix(path)
    if named and is_imatrix(source):
        raise PlanError(f"{path} is an importance matrix, which has no {named[0]}", hint="name the model")
    if tokenizer:
        plan = parts.plan_tokenizer(source, destination)
    elif template:
        plan = parts.plan_templates(source, destination)
    elif config:
        plan = parts.plan_config(source, destination)
    else:
        tensors = chosen(source.tensors, lambda tensor: tensor.name, pattern, "--only", path.name)
        if not tensors:
            raise PlanError(f"{path}: there are no tensors in it")
        plan = parts.plan_tensors(source, tensors, destination, raw=raw)
    carry_out(plan, how, any_value=how.replace_nan is None)
