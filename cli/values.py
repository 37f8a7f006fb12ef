"""What a shell offers for the values of options; nothing here is imported unless it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem


def recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `--to` takes: of a GGUF and of a folder."""
    from requant.recipes.notes import NOTES
    from requant.schemes import SCHEMES

    forms = {name: text for family in SCHEMES.values() for name, text in family.forms.items()}
    return _beginning({name: note.text for name, note in NOTES.items()} | forms, incomplete)


def mixes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What `requantize` takes for TYPE, and a file before it."""
    from click.shell_completion import CompletionItem

    from requant.recipes.notes import NOTES

    found = _beginning({name: note.text for name, note in NOTES.items()}, incomplete)
    return found or [CompletionItem(incomplete, type="file")]


def types(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Types of a GGUF's tensors."""
    from requant.recipes import ENCODINGS

    return _beginning(dict.fromkeys(ENCODINGS, ""), incomplete)


def families(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Architectures and classes."""
    from requant.architectures.index import TABLE

    return _beginning({word: "" for _, _, words in TABLE for word in words.split()}, incomplete)


def _beginning(words: Mapping[str, str], incomplete: str) -> list[CompletionItem]:
    """Those that begin so, in whatever case."""
    from click.shell_completion import CompletionItem

    start = incomplete.lower()
    return [CompletionItem(word, help=text or None) for word, text in words.items() if word.lower().startswith(start)]
