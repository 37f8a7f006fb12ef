"""Printing the one document of a command, in a shape of `requant.cli.documents`, or the error in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import click

from requant.cli.tables import json_text
from requant.cli.terminal import say

if TYPE_CHECKING:
    from requant.cli.documents.shared import Failure

#: The version of the shapes: higher once a key is taken away or means something else.
SCHEMA: Final = 2
#: In the context of a command: whether `--json` was given, and whether a document is printed.
_ASKED: Final = "requant.json"
_SAID: Final = "requant.said"


def asked_for(context: click.Context, args: list[str]) -> None:
    """Remember whether the words of a command have `--json` among them, even if they turn out to be wrong."""
    context.meta[_ASKED] = "--json" in args


def say_document(kind: str, content: Mapping[str, object]) -> None:
    """Print the one document of this command; `kind` is a name of `DOCUMENTS`."""
    context = click.get_current_context()
    context.meta[_SAID] = True
    command = context.info_name or ""
    say(json_text({"schema": SCHEMA, "command": command, "document": kind, **content}))


def failure(kind: str, message: str, hint: str, exit_code: int) -> Failure:
    """As `error` of a document; foreign text in it is JSON's to escape."""
    return {"kind": kind, "message": message, "hint": hint, "exit_code": exit_code}


def say_failure(context: click.Context, failure: Failure) -> None:
    """Print an `error` where `--json` was given and nothing is printed yet."""
    if context.meta.get(_ASKED) and not context.meta.get(_SAID):
        context.meta[_SAID] = True
        command = context.invoked_subcommand or ""
        say(json_text({"schema": SCHEMA, "command": command, "document": "error", "error": failure}))
