"""`requant edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from requant.cli import options, outputs
from requant.errors import PlanError

_EXAMPLES: Final = """\b
Examples:
  requant edit model.gguf --set general.name="My model" --eos "<|im_end|>"
  requant edit model.gguf --template chat.jinja --reserve 64K
  requant edit model.gguf --rope-scaling yarn:4:32768 --dry-run
  requant edit model.gguf --delete general.url --rename a.b=a.c -o edited.gguf
  requant edit base.gguf --tokenizer-from tuned.gguf
  requant edit ./folder --set config.rope_theta=1000000 --eos "<|im_end|>"
"""


def _tokens(function: Any) -> Any:
    """An option for each special token."""
    from requant.editing.roles import ROLES

    for role, key in reversed(list(ROLES.items())):
        help = f"{key}: an id, a token's text, or none."
        function = click.option(f"--{role}", metavar="TOKEN", help=help)(function)
    return function


@click.command(epilog=_EXAMPLES)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="VALUE, TYPE:VALUE or @FILE. Repeatable.")
@click.option("--delete", "deletes", multiple=True, metavar="KEY", help="Remove a key. Repeatable.")
@click.option("--rename", "renames", multiple=True, metavar="OLD=NEW", help="Rename a key. Repeatable.")
@click.option("--set-from", "sources", multiple=True, metavar="FILE", help="Keys of a JSON object, or of another GGUF.")
@click.option("--keys", multiple=True, metavar="GLOB", help="With --set-from and a GGUF: which, such as 'general.*'.")
@click.option("--template", type=click.Path(path_type=Path), metavar="FILE", help="The chat template.")
@click.option("--tokenizer-from", metavar="MODEL", help="Tokenizer and template of another model, GGUF or folder.")
@_tokens
@click.option("--rope-scaling", metavar="TYPE:FACTOR[:CONTEXT]", help="yarn or linear, and the original context; none.")
@click.option("--rename-tensor", "tensors", multiple=True, metavar="OLD=NEW", help="Rename a tensor. Repeatable.")
@click.option("--reserve", metavar="BYTES", help="Leave so much room for the next edits, such as 64K.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="OUT", help="Write a copy; FILE stays.")
@click.option("--force", "-f", is_flag=True, help="Replace OUT; edit a file that has other names (hard links), too.")
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and how; nothing is written.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def edit(
    path: Path,
    sources: tuple[str, ...],
    keys: tuple[str, ...],
    template: Path | None,
    tokenizer_from: str | None,
    reserve: str | None,
    output: Path | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **words: Any,
) -> None:
    """Change what FILE says of itself; its weights stay as they are.

    FILE is a GGUF, a safetensors file, whose __metadata__ is changed, or a Hugging Face folder, whose JSON files are:
    there a key begins with its file, as in config.rope_theta or generation_config.temperature.

    The head is written in place where it fits: into padding, and room that --reserve has left. Otherwise the file
    system moves the data without reading it, where it can, or a copy takes the file's name. What llama.cpp would
    refuse is refused.
    """
    from requant.cli.edited import How, edit_gguf, refuse_links
    from requant.editing.metadata import Edits
    from requant.editing.roles import ROLES
    from requant.formats import detect

    if not any((*words.values(), sources, template, tokenizer_from, reserve, output)):
        raise click.UsageError("what shall be changed? --set, --template, --eos and the like say it")
    path = options.located(str(path), quiet)
    refuse_links([path] if not path.is_dir() else [])
    how = How(path, output, force, dry_run, as_json, quiet, _room(reserve))
    jinja = None if template is None else options.read_text(template)
    tokens = tuple((role, words[role]) for role in ROLES if words[role] is not None)
    kind = detect(path).name
    if kind == "gguf":
        edits = Edits(
            words["sets"],
            words["deletes"],
            words["renames"],
            template=jinja,
            tokens=tokens,
            rope_scaling=words["rope_scaling"],
        )
        edit_gguf(how, edits, words["tensors"], sources, keys, tokenizer_from)
        return
    if kind != "safetensors":
        raise PlanError(f"{path}: GGUF and safetensors files are edited, and folders of the latter")
    if words["tensors"] or keys:
        raise click.UsageError("--rename-tensor and --keys are for GGUF files")
    from requant.cli.edited_folder import Words, edit_folder, edit_safetensors

    said = Words(
        words["sets"], words["deletes"], words["renames"], sources, jinja, tokens, words["rope_scaling"], tokenizer_from
    )
    (edit_folder if path.is_dir() else edit_safetensors)(how, said)


def _room(reserve: str | None) -> int:
    if reserve is None:
        return 0
    size = outputs.size_of(reserve, "--reserve")
    if size > 32 << 20:
        raise click.BadParameter("more than 32 MiB of room", param_hint="--reserve")
    return size
