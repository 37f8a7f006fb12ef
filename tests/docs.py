"""Documentation whose commands are run: `python -m tests.docs` writes what they print into the pages."""

import contextlib
import re
import shlex
import tempfile
from pathlib import Path

from click.testing import CliRunner

from requant.cli.main import cli
from tests import models

DOCS = Path(__file__).parents[1] / "docs"
#: A command that is run, after those above it on the page.
RUN = re.compile(r"(<!-- run -->\n```console\n\$ (?P<command>.*)\n)(?P<output>(?:.*\n)*?)```\n")
#: What depends on the machine and the moment.
VARYING = (
    re.compile(r"in \d+\.\d s(?: \(read [\d.]+ \wB/s\))?"),
    re.compile(r", \d+\.\d s$", re.MULTILINE),
    re.compile(r"^speed .*$", re.MULTILINE),
    re.compile(r"[\d.]+ ± [\d.]+"),
)
#: What the first run on a machine says besides.
FIRST = re.compile(r"compiling kernels; .*\n")


def happened(text: str) -> str:
    """The page with what its commands print today, in a folder that has SmolLM2-135M.gguf."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "SmolLM2-135M.gguf").symlink_to(models.smollm2())
        return RUN.sub(lambda found: f"{found[1]}{_printed(found['command'], Path(folder))}```\n", text)


def steady(text: str) -> str:
    """Without what varies."""
    text = FIRST.sub("", text)
    for pattern in VARYING:
        text = pattern.sub("…", text)
    return text


def _printed(command: str, folder: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "requant", command
    with contextlib.chdir(folder):
        result = CliRunner().invoke(cli, words[1:], terminal_width=100)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    output = result.output.replace(f"{folder}/", "")
    output += "\n" if output and not output.endswith("\n") else ""
    return output + (f"[exit {result.exit_code}]\n" if result.exit_code else "")


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        if RUN.search(page.read_text()):
            page.write_text(happened(page.read_text()))
