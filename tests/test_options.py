"""One table of options: docs/options.md, and what README.md says, are what the commands take."""

import os
import re
from pathlib import Path

import click
import pytest

from requant.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "options.md"
MARKED = re.compile(r"(<!-- table -->\n).*(<!-- end -->)", re.DOTALL)


def options():
    """Of every command, those that --help shows."""
    context = click.Context(cli, info_name="requant")
    for name in COMMANDS:
        for param in cli.get_command(context, name).params:
            if isinstance(param, click.Option) and not param.hidden:
                yield name, param


def spelling(option):
    names = ", ".join(sorted(option.opts, key=len, reverse=True))
    return f"`{names}{f' {option.metavar}' if option.metavar else ''}`".replace("|", "\\|")


def table():
    rows = {}
    for name, option in options():
        rows.setdefault((spelling(option), option.help), []).append(name)
    lines = [
        f"| {words} | {said.replace('|', chr(92) + '|')} | {', '.join(takers)} |"
        for (words, said), takers in sorted(rows.items())
    ]
    return "\n".join(["| option | what it does | commands |", "| - | - | - |", *lines])


def test_the_page_is_what_commands_take():
    if os.environ.get("REQUANT_ACCEPT"):
        PAGE.write_text(MARKED.sub(lambda found: f"{found[1]}\n{table()}\n\n{found[2]}", PAGE.read_text()))
    assert table() in PAGE.read_text()


@pytest.mark.parametrize(
    "line", re.findall(r"^\| `(--[\w-]+[^`]*)` \| with ([^:]+):", (ROOT / "README.md").read_text(), re.MULTILINE)
)
def test_readme_names_the_commands_that_take_an_option(line):
    option, said = line[0].split()[0], set(re.findall(r"`(\w+)`", line[1]))
    assert said == {name for name, one in options() if option in one.opts}


MODELS = {"convert", "merge", "requantize"}
SHARED = {
    "--like": MODELS,
    "--override-kv": MODELS,
    "--ollama": MODELS,
    "--prune-layers": MODELS - {"merge"},  # which has --drop-layers, of any format
    "--tensor-type": MODELS,
    "--imatrix": MODELS,
    "--dry-run": {*MODELS, "edit", "split", "join", "extract"},
    "--json": {*COMMANDS} - {"completion"},
}


@pytest.mark.parametrize("option", SHARED)
def test_what_goes_together_takes_the_same(option):
    assert {name for name, one in options() if option in one.opts} >= SHARED[option]


#: Of what is shown or taken out by one command, and by another given or filtered.
ORDINARY = {"--importance", "--template", "--tensors", "--tokenizer"}


def test_options_of_one_name_are_of_one_type():
    kinds = {}
    for _, option in options():
        kinds.setdefault(max(option.opts, key=len), set()).add((option.is_flag, option.multiple))
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1}.keys() == ORDINARY
