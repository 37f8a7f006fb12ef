"""The only place that writes to the terminal.

Commands compose text; foreign strings in it have gone through `printable` where they were put in, which keeps each on
its line. What is left of control characters is escaped here, so that a place that forgot does no harm.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import IO, Final

import click

from requant.errors import Error
from requant.printable import LONGEST_MESSAGE, printable

#: What parts of the message of an error are parted by.
_PART: Final = "\n  "

#: What stands in text for a style that begins or ends. Foreign text has none of it: `printable` escapes it.
_BOLD, _YELLOW, _RED, _END = "\ue000", "\ue001", "\ue002", "\ue00f"
#: The same as a terminal is told (ECMA-48, SGR).
_CODES: Final = {_BOLD: "\x1b[1m", _YELLOW: "\x1b[33m", _RED: "\x1b[1;31m", _END: "\x1b[0m"}
#: For `str.translate`: text without styles.
PLAIN: Final = {ord(mark): "" for mark in _CODES}
_MARKS: Final = re.compile("([\ue000-\ue00f])")
_STYLED: Final = {ord(mark): code for mark, code in _CODES.items()}


def bold(text: str) -> str:
    """Text that stands out on a terminal: the heads of a table."""
    return f"{_BOLD}{text}{_END}"


def warning(text: str) -> str:
    """Text that should be noticed."""
    return f"{_YELLOW}{text}{_END}"


def width() -> int | None:
    """Columns of the terminal that standard output is; None where it is none, and nothing needs to be cut."""
    if "COLUMNS" in os.environ or sys.stdout.isatty():
        import shutil

        return max(shutil.get_terminal_size().columns, 40)
    return None


def _shows_styles(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that knows styles, and the user has not asked for none (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Lines on standard output: what the user asked for."""
    _write(text, sys.stdout)


def remark(text: str) -> None:
    """Lines on standard error: what the user should know besides."""
    _write(text, sys.stderr)


def _write(text: str, stream: IO[str]) -> None:
    styles = _STYLED if _shows_styles(stream) else PLAIN
    safe = "\n".join(_safe(line) for line in text.split("\n"))
    click.echo(safe if safe.isascii() else safe.translate(styles), file=stream, color=True)


def complain(message: str, hint: str = "") -> None:
    """An error, and what to do about it. Of several parts each is on a line of its own, which begins with blanks."""
    parts = message.split(_PART) if len(message) <= LONGEST_MESSAGE else [message]
    remark(f"{_RED}error:{_END} {_PART.join(printable(part, LONGEST_MESSAGE) for part in parts)}")
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


def _safe(line: str) -> str:
    """A line without anything that a terminal obeys but our own styles."""
    if line.isprintable():
        return line
    return "".join(part if part in _CODES else printable(part, None) for part in _MARKS.split(line))
