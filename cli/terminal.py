"""The only place that writes to the terminal.

Commands compose text; foreign strings in it have gone through `printable` where they were put in, which keeps each on
its line. What is left of control characters is escaped here, so that a place that forgot does no harm.
"""

from __future__ import annotations

import io
import sys
from typing import Final

import click

from requant.errors import Error
from requant.printable import LONGEST_MESSAGE, printable

#: What parts of the message of an error are parted by.
_PART: Final = "\n  "


def say(text: str) -> None:
    """Lines on standard output: what the user asked for."""
    click.echo(_safe(text))


def remark(text: str) -> None:
    """Lines on standard error: what the user should know besides."""
    click.echo(_safe(text), err=True)


def complain(message: str, hint: str = "") -> None:
    """An error, and what to do about it. Of several parts each is on a line of its own, which begins with blanks."""
    parts = message.split(_PART) if len(message) <= LONGEST_MESSAGE else [message]
    remark(f"error: {_PART.join(printable(part, LONGEST_MESSAGE) for part in parts)}")
    if hint:
        remark(f"hint: {printable(hint, LONGEST_MESSAGE)}")


def complain_of(error: Error) -> None:
    """An error of this package."""
    complain(str(error), error.hint)


def show_usage(error: click.ClickException) -> None:
    """What click says of wrong arguments, which it quotes."""
    said = io.StringIO()
    error.show(said)
    usage, label, _ = said.getvalue().partition("Error: ")
    remark(usage + label + printable(error.format_message(), LONGEST_MESSAGE))


def take_any_text() -> None:
    """Characters that the terminal's encoding lacks are escaped, where Python would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _safe(text: str) -> str:
    if text.isprintable():
        return text
    return "\n".join(printable(line, None) for line in text.split("\n"))
