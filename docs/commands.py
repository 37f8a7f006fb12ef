"""A page of the site made while it is built: every command's `--help`, as it prints it."""

from __future__ import annotations

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from requant.cli.main import COMMANDS, cli

_WIDTH = 100


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs once it knows the pages."""
    files.append(File.generated(config, "reference/commands.md", content=page()))
    return files


def page() -> str:
    """Of `requant`, then of each command."""
    whole = click.Context(cli, info_name="requant", terminal_width=_WIDTH, max_content_width=_WIDTH)
    parts = ["# Commands", _fenced(cli.get_help(whole))]
    for name in COMMANDS:
        command = cli.get_command(whole, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=whole, terminal_width=_WIDTH, max_content_width=_WIDTH)
        parts += [f"## requant {name}", _fenced(command.get_help(context))]
    return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    return f"```text\n{text}\n```"
