"""Every hint in the code, read as what it asks the user to do: none asks for what harms."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("requant", "formats", "cli")
#: Where a file of the model may be said to be missing: it is known there that it is.
SHARDS = ("formats/safetensors/shards.py", "formats/gguf/shards.py", "requant/ir.py", "formats/safetensors/header.py")
#: What may be taken away by the user, and why following that is right.
REMOVABLE = {
    r"remove .*--force|choose another name|remove it": "a file at the destination, which is not the model",
    r"remove .* to begin anew": "what a calibration keeps that was not finished",
    r"or remove the link": "a link that leads nowhere holds nothing",
    r"surely no part of the model may be removed": "the user knows that it is none, and is told what else it may be",
    r"remove it from the checkpoint": "a head that is not meant, beside a tied embedding",
}


def hints():
    """(file, text) of every `hint=` and every string that becomes one, with {} for what is put in."""
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if path.is_symlink() or any(parent.is_symlink() for parent in path.parents if parent != ROOT):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            values = []
            if (isinstance(node, ast.keyword) and node.arg == "hint") or (
                isinstance(node, ast.Assign)
                and any(isinstance(target, ast.Name) and "hint" in target.id.lower() for target in node.targets)
            ):
                values = [node.value]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                values = [node.value] if "hint" in node.target.id.lower() else []
            for value in values:
                for text in texts(value):
                    yield name, text


def texts(node):
    """The strings that an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, ast.Dict):
        for value in node.values:
            yield from texts(value)


HINTS = list(hints())


def test_the_walk_finds_the_hints():
    assert len(HINTS) > 150
    assert {name.partition("/")[0] for name, _ in HINTS} == set(FOLDERS)


@pytest.mark.parametrize(("name", "text"), HINTS, ids=[f"{name}:{n}" for n, (name, _) in enumerate(HINTS)])
def test_a_hint_asks_for_nothing_that_harms(name, text):
    asks = "shard" in text and re.search(r"missing|incomplete|fetch", text)
    assert not asks or name in SHARDS, "a file is missing only where something says so: Checkpoint.missing_hint"
    if re.search(r"\b(?:remove|delete|leave (?:the tensor|it) out of the checkpoint|drop the)\b", text):
        assert any(re.search(pattern, text) for pattern in REMOVABLE), "what becomes of a model without it?"


@pytest.mark.parametrize("pattern", REMOVABLE)
def test_what_may_be_removed_is_still_said(pattern):
    assert any(re.search(pattern, text) for _, text in HINTS)
