"""What users see: each file in transcripts/ is a session at the prompt, with everything printed and the exit code.

A fence of ```console holds one command (`$ requant …`), its output and, unless it is 0, `[exit N]`. Times, rates and
paths of this run are replaced by words. REQUANT_ACCEPT=1 rewrites the files; read the diff before you commit it.
"""

import os
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from requant.cli.main import cli
from tests.tiny_folder import write_tiny_folder

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.md"))
FENCE = re.compile(r"```console\n\$ (?P<command>.*)\n(?P<output>(?:.*\n)*?)```\n")
VARYING = (
    (re.compile(r"in \d+\.\d s \(read [\d.]+ \w+/s\)"), "in N s (read N MB/s)"),
    (re.compile(r"compiling kernels; .*\n"), ""),
    (re.compile(r"with \d+ threads"), "with N threads"),
    (re.compile(r'"seconds": [\d.]+'), '"seconds": N'),
)


def test_there_are_transcripts():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_folder(Path("tiny"))
    text = path.read_text()
    assert FENCE.search(text), "a transcript without commands tests nothing"
    happened = FENCE.sub(
        lambda match: f"```console\n$ {match['command']}\n{run(match['command'], tmp_path)}```\n", text
    )
    if os.environ.get("REQUANT_ACCEPT"):
        path.write_text(happened)
    assert happened == text


def run(command: str, folder: Path) -> str:
    words = shlex.split(command)
    if words[0] == "ls":
        return "".join(f"{name}\n" for name in sorted(p.name for p in Path(*words[1:]).iterdir()))
    assert words[0] == "requant", command
    result = CliRunner().invoke(cli, words[1:], terminal_width=100)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    output = result.output.replace(str(folder) + "/", "")
    for pattern, word in VARYING:
        output = pattern.sub(word, output)
    if output and not output.endswith("\n"):
        output += "\n"
    return output + (f"[exit {result.exit_code}]\n" if result.exit_code else "")
