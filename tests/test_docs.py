"""The documentation says what is so: commands print what pages show, and every example is one that is understood."""

import re
import shlex

import click
import pytest

from requant.cli.main import COMMANDS, cli
from tests.docs import DOCS, RUN, happened, steady

PAGES = [*sorted(DOCS.rglob("*.md")), DOCS.parent / "README.md"]
#: A command in a fence or an indented block; `\` at the end of a line goes on with the next.
EXAMPLE = re.compile(r"^(?:    )?(?:\$ )?requant ((?:.*\\\n)*.*)$", re.MULTILINE)
FENCED = re.compile(r"```(?:console|bash|sh)\n(.*?)```|((?:^    .*\n)+)", re.DOTALL | re.MULTILINE)


def examples():
    for page in PAGES:
        for block in FENCED.finditer(page.read_text()):
            for found in EXAMPLE.finditer(block[1] or block[2]):
                yield page.name, re.sub(r"\\\n\s*", "", found[1])


EXAMPLES = sorted(set(examples()))


def test_there_are_examples():
    assert len({page for page, _ in EXAMPLES}) > 8
    assert len({example.split()[0] for _, example in EXAMPLES} & COMMANDS.keys()) > 8


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_examples_are_understood(page, example):
    words = shlex.split(example, comments=True)
    words = words[: next((n for n, word in enumerate(words) if word in ("|", ">", "&&", ";")), len(words))]
    whole = click.Context(cli, info_name="requant")
    name, command, rest = cli.resolve_command(whole, words)
    try:
        command.make_context(name, [word for word in rest if word != "..."], parent=whole)
    except click.exceptions.Exit as ended:  # --help, --version
        assert ended.exit_code == 0
    except click.BadParameter as error:
        assert "does not exist" in error.message, error  # the file that an example names


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if RUN.search(page.read_text())], ids=lambda page: page.stem)
def test_commands_print_what_the_page_shows(page):
    """`python -m tests.docs` writes it."""
    text = page.read_text()
    assert steady(happened(text)) == steady(text)


def test_links_of_pages_lead_to_files():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link and link != "reference/commands.md":  # which is made with the site
                assert (page.parent / link).exists(), f"{page.name}: {link}"
