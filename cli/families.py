"""`requant families`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from requant.cli import values
from requant.cli.saying import say_document
from requant.cli.tables import table
from requant.cli.terminal import say
from requant.errors import PlanError

if TYPE_CHECKING:
    from requant.cli.documents.tables import FamilyRow, ProjectorRow

_EXAMPLES: Final = """\b
Examples:
  requant families
  requant families qwen
  requant families Qwen3ForCausalLM
  requant families --json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("word", default="", shell_complete=values.families)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def families(word: str, as_json: bool) -> None:
    """List the model families, from Hugging Face to GGUF and back: classes, architectures, and what is lost.

    Then the projectors that --mmproj writes for models that see or hear, and what --with-mmproj makes of them again.

    WORD: only those whose architecture, model type or class has it in it. Every text model goes both ways.
    """
    rows, projectors = _families(word.lower()), _projectors(word.lower())
    if not rows and not projectors:
        from requant.architectures.index import TABLE
        from requant.nearest import did_you_mean

        names = [name for *_, names in TABLE for name in names.split()]
        hint = did_you_mean(word, names, "requant families lists them all")
        raise PlanError(f"no family has {word!r} in its name", hint=hint)
    if as_json:
        say_document("families", {"families": rows, "projectors": projectors})
        return
    body = [[row["architecture"], row["model_type"], " ".join(row["classes"])] for row in rows]
    seeing = [[row["projector"], ", ".join(row["kinds"]), _marked(row)] for row in projectors]
    notes = [note for row in rows for note in _notes(row)]
    if any(row["back"] for row in projectors):
        notes.append("* with a text model's GGUF a projector becomes a folder of it again (--with-mmproj)")
    parts = [
        *([table([["GGUF", "config.json", "classes"], *body])] if body else []),
        *([table([["projector", "in the GGUF", "classes (--mmproj)"], *seeing])] if seeing else []),
        *(["\n".join(dict.fromkeys(notes))] if notes else []),
    ]
    say("\n\n".join(parts))


def _families(word: str) -> list[FamilyRow]:
    from requant.architectures import ARCHITECTURES
    from requant.architectures.overview import overview

    return [
        {
            "architecture": item.architecture,
            "model_type": item.model_type,
            "classes": [*item.classes],
            "back": item.back,
            "lost": [*item.lost],
        }
        for item in overview(ARCHITECTURES)
        if any(word in name.lower() for name in (item.architecture, item.model_type, *item.classes))
    ]


def _projectors(word: str) -> list[ProjectorRow]:
    from requant.projectors import index

    return [
        {
            "projector": item.name,
            "kinds": [*item.kinds],
            "classes": [*item.classes],
            "lost": [*item.lost],
            "back": [folder.name for folder in item.folders],
        }
        for item in sorted(index.every(), key=lambda item: item.name)
        if any(word in name.lower() for name in (item.name, *item.kinds, *item.classes))
    ]


def _marked(row: ProjectorRow) -> str:
    """The classes, those with a star that a folder can be of again."""
    return " ".join(f"{name}*" if name in row["back"] else name for name in row["classes"])


def _notes(row: FamilyRow) -> list[str]:
    """What is to be known of a family beside its names."""
    lost = [f"{row['architecture']}: lost: {text}" for text in row["lost"]]
    if row["back"] != row["classes"][0]:
        lost.append(f"{row['architecture']}: a GGUF becomes a {row['back']}, which computes the same of text")
    return lost
