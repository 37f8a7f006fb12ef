"""`requant families`."""

from __future__ import annotations

from typing import Final

import click

from requant.cli.documents import FamilyRow, say_document
from requant.cli.tables import table
from requant.cli.terminal import say
from requant.errors import PlanError

_EXAMPLES: Final = """\b
Examples:
  requant families
  requant families qwen
  requant families Qwen3ForCausalLM
  requant families --json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("word", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def families(word: str, as_json: bool) -> None:
    """List the model families, from Hugging Face to GGUF and back: classes, architectures, and what is lost.

    WORD: only those whose architecture, model type or class has it in it. Every family goes both ways.
    """
    from requant.architectures import ARCHITECTURES
    from requant.architectures.overview import overview

    rows: list[FamilyRow] = [
        {
            "architecture": item.architecture,
            "model_type": item.model_type,
            "classes": [*item.classes],
            "back": item.back,
            "lost": [*item.lost],
        }
        for item in overview(ARCHITECTURES)
        if any(word.lower() in name.lower() for name in (item.architecture, item.model_type, *item.classes))
    ]
    if not rows:
        raise PlanError(f"no family has {word!r} in its name", hint="requant families lists them all")
    if as_json:
        say_document("families", {"families": rows})
        return
    heads = ["GGUF", "config.json", "classes"]
    body = [[row["architecture"], row["model_type"], " ".join(row["classes"])] for row in rows]
    notes = [note for row in rows for note in _notes(row)]
    say("\n".join([table([heads, *body]), *(["", *dict.fromkeys(notes)] if notes else [])]))


def _notes(row: FamilyRow) -> list[str]:
    """What is to be known of a family beside its names."""
    lost = [f"{row['architecture']}: lost: {text}" for text in row["lost"]]
    if row["back"] != row["classes"][0]:
        lost.append(f"{row['architecture']}: a GGUF becomes a {row['back']}, which computes the same of text")
    return lost
