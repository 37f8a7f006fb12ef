"""A model's text on a terminal is text: nothing in it is obeyed, takes another line, or fills the screen."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from requant.cli.main import _run
from requant.encodings import F32
from requant.formats.gguf import Gguf
from requant.ir import Typed
from requant.losses import Loss, LossKind, grouped
from requant.printable import LONGEST_MESSAGE, printable
from tests.gguf_files import checkpoint, save
from tests.tiny_folder import write_tiny_folder
from tests.tiny_gguf import write_tiny_llama

ROOT = Path(__file__).parents[1]
#: Retitles the window, rings, clears, turns the direction, hides, ends lines in five ways, colours (C1), and spoofs.
EVIL = "\x1b]0;owned\x07\x1b[2J\u202eabc\u200b\u2028\u2029\x85\x9b31m\x7f\r\n\nSPOOFED: all is well\n"
#: The same without what a file system or JSON's readers refuse.
NAME = "x\x1b[31m\u202e\nSPOOFED"


def run(capsys, monkeypatch, *words):
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["requant", *map(str, words)])
    code = _run()
    said = capsys.readouterr()
    return code, said.out, said.err


def harmless(text):
    """No character that is not seen but the line ends of our own, no line that a stranger began."""
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert not any(line.startswith("SPOOFED") for line in text.split("\n")), text
    return text


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A GGUF and folders with such text wherever text can be."""
    folder = tmp_path_factory.mktemp("evil") / NAME
    folder.mkdir()
    good = Gguf().read(write_tiny_llama(folder.parent / "good.gguf"))
    tokens = [*good.metadata["tokenizer.ggml.tokens"].value]
    tokens[-1] = EVIL
    texts = {
        "general.name": Typed("str", EVIL),
        "general.description": Typed("str", EVIL * 500),
        "tokenizer.chat_template": Typed("str", EVIL),
        "tokenizer.ggml.tokens": Typed("[str]", tokens),
        f"llama.{EVIL}": Typed("u32", 1),
        "general.tags": Typed("[str]", [EVIL] * 9),
    }
    save(
        good.__class__(good.naming, good.architecture, good.tensors, metadata={**good.metadata, **texts}),
        folder / "m.gguf",
    )
    names = {"general.architecture": Typed("str", EVIL[:40]), f"{EVIL[:40]}.x": Typed("str", EVIL)}
    save(checkpoint(names, [(EVIL[:50], (32, 32), F32)]), folder / "names.gguf")
    write_tiny_folder(folder / "hf")
    config = json.loads((folder / "hf/config.json").read_text())
    (folder / "hf/config.json").write_text(json.dumps({**config, "note": EVIL, EVIL: EVIL}))
    (folder / "hf" / f"{NAME}.txt").write_text("what a folder has besides")
    (folder / "hf/README.md").write_text(f"---\nmodel_name: {json.dumps(EVIL)}\ntags: [{json.dumps(EVIL)}]\n---\n")
    tokenizer = json.loads((folder / "hf/tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": EVIL}, "behavior": "Isolated", "invert": False}
    tokenizer["added_tokens"][1]["content"] = EVIL
    tokenizer["model"]["vocab"][EVIL] = tokenizer["model"]["vocab"].pop("</s>")
    (folder / "hf/tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copytree(folder / "hf", folder / "strange")
    save_file({EVIL: np.zeros((2, 2), np.float32)}, folder / "strange/model.safetensors", metadata={EVIL: EVIL})
    for kind, text in {
        "class": {"architectures": [EVIL], "model_type": EVIL},
        "act": {**config, "hidden_act": EVIL},
    }.items():
        shutil.copytree(folder / "hf", folder / kind)
        (folder / kind / "config.json").write_text(json.dumps(text))
    (folder / "short.gguf").write_bytes((folder / "m.gguf").read_bytes()[:3000])
    (folder / "broken").mkdir()
    (folder / "broken/config.json").write_text('{"a": \x1b}')
    shutil.copy(folder / "hf/model.safetensors", folder / "broken/model.safetensors")
    return folder


COMMANDS = [
    "inspect m.gguf --tensors . --metadata",
    "inspect names.gguf --tensors . --metadata",
    "inspect hf --tensors . --metadata",
    "inspect strange --tensors . --metadata",
    "inspect class",
    "inspect broken",
    "inspect short.gguf",
    "inspect none.gguf",
    "convert hf out.gguf --to Q4_K_M --dry-run",
    "convert hf out.gguf --to Q8_0 --force",
    "convert hf out-hf --to F16 --force",
    "convert hf alone.safetensors --to F16 --force",
    "convert m.gguf out-m --force",
    "convert m.gguf out-m --dry-run",
    "convert strange out.gguf --dry-run",
    "convert strange copied --force",
    "convert class out.gguf",
    "convert act out.gguf",
    "convert names.gguf out-n",
    "convert names.gguf copy.gguf --force",
    "convert hf out.gguf --to Q4_K_M --fail-on-loss --dry-run",
    "requantize m.gguf q.gguf Q8_0 --dry-run",
    "requantize m.gguf q.gguf Q8_0 --force",
    "requantize names.gguf q.gguf Q8_0 --force",
    "check hf",
    "check short.gguf --against broken",
    "types --tensor hf:none",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_that_a_terminal_obeys(models, capsys, monkeypatch, command):
    monkeypatch.chdir(models)
    words = [
        str(models / word) if "." in word[1:] or word in ("hf", "strange", "class", "act") else word
        for word in command.split()
    ]
    _, out, err = run(capsys, monkeypatch, *words)
    assert harmless(out) + harmless(err)


@pytest.mark.slow
def test_what_a_loaded_model_says(tmp_path, capsys, monkeypatch):
    """Nearly every token that this model can answer with would do something to a terminal."""
    marks = ("\x1b[31m", "\x07", "\x9b2J", "\u202e", "\u2028", "\r")
    words = tuple(f"{mark}{n}" for n in range(100) for mark in marks)
    path = write_tiny_llama(tmp_path / "hostile.gguf", words=words)
    _, out, err = run(capsys, monkeypatch, "check", path, "--prompt", "the a")
    assert "answer" in out and "\\x" in out
    harmless(out)
    harmless(err)


def test_names_that_a_shell_expands(models, capsys, monkeypatch):
    """Arguments are foreign, too: `requant inspect *` in a folder of a stranger."""
    for words in (
        ["inspect", "a", EVIL],
        ["inspect", EVIL],
        [EVIL],
        ["convert", f"--{EVIL}", "a", "b"],
        ["inspect", "--tensors", f"({EVIL}", "a"],
    ):
        code, out, err = run(capsys, monkeypatch, *words)
        assert code
        assert harmless(out) == "" and harmless(err)


def test_json_is_exact(models, capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "inspect", models / "m.gguf", "--metadata", "--json")
    assert code == 0
    assert out.isascii()
    assert json.loads(out)["metadata"]["tokenizer.chat_template"] == EVIL


def test_long_messages_are_cut(models, capsys, monkeypatch):
    long = "a" * 100_000
    code, _, err = run(capsys, monkeypatch, "inspect", f"/{long}.gguf")
    assert code
    assert len(err) < 2 * LONGEST_MESSAGE + 200
    assert "characters)" in err or "too long" in err


def test_a_terminal_of_another_encoding(models):
    """What it has no letter for is escaped; Python would end in an error."""
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "requant", "inspect", str(models / "m.gguf"), "--metadata"]
    process = subprocess.run(command, capture_output=True, env=environment, timeout=120, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert re.search(rb"\\u2026\s+\(\d+\s+characters\)", process.stdout)  # wherever the line is folded


@given(text=st.text(), longest=st.integers(1, 50))
def test_printable(text, longest):
    shown = printable(text, None)
    assert shown.isprintable()
    assert printable(shown, None) == shown
    if text.isprintable():
        assert shown == text
    cut = printable(text, longest)
    assert cut.isprintable()
    assert cut == shown or f"({len(text):,} characters)" in cut


def test_only_one_place_writes_to_the_terminal():
    """Everything else hands its text to cli/terminal.py."""
    found = []
    for path in [
        path for folder in ("cli", "requant", "formats", "kernels_cpu") for path in (ROOT / folder).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            writes = called in ("print", "click.echo", "click.secho", "click.echo_via_pager", "tqdm.write")
            writes |= called.startswith(
                ("sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer", "sys.stderr.buffer")
            )
            writes |= called.endswith(".show")
            if writes and path not in (ROOT / "cli/terminal.py", ROOT / "requant/ollama/sandbox.py"):  # a pipe
                found.append(f"{path}:{node.lineno}: {called}")
    assert not found


def test_losses_that_share_a_fate_are_one():
    """Thirty-four tensors of a vision tower; the layers of a model; but not what happens for different reasons."""
    vision = [f"vision_tower.encoder.layers.{n}.{part}.weight" for n in range(8) for part in ("q", "k", "v", "o")]
    names = [*vision, "vision_tower.embeddings.position", "vision_tower.embeddings.patch.0"]
    losses = [Loss(LossKind.TENSOR_DROPPED, name, "no place", 1000) for name in names]
    losses += [
        Loss(LossKind.SUBSTITUTED, f"blk.{n}.{part}.weight", "Q8_0") for n in range(3) for part in ("attn_q", "attn_k")
    ]
    losses += [
        Loss(LossKind.SUBSTITUTED, "output.weight", "Q8_0"),
        Loss(LossKind.TENSOR_DROPPED, "vision_tower.x", "other", 5),
    ]
    said = [(group.pattern, group.count, group.nbytes) for group in grouped(losses)]
    assert said == [
        ("vision_tower.*", 34, 34_000),
        ("blk.*.attn_q.weight", 3, 0),
        ("blk.*.attn_k.weight", 3, 0),
        ("output.weight", 1, 0),
        ("vision_tower.x", 1, 5),
    ]


def test_dropped_tensors_are_one_line_with_bytes(tmp_path, capsys, monkeypatch):
    write_tiny_folder(tmp_path / "hf")
    tensors = load_torch(tmp_path / "hf/model.safetensors")
    tensors |= {
        f"model.layers.{n}.self_attn.k_proj.k_scale": tensors["model.norm.weight"][:1].clone() for n in range(2)
    }
    save_torch(tensors, tmp_path / "hf/model.safetensors", metadata={"format": "pt"})
    code, out, err = run(
        capsys, monkeypatch, "convert", tmp_path / "hf", tmp_path / "o.gguf", "--to", "Q8_0", "--dry-run"
    )
    assert code == 0, err
    lines = [line for line in out.splitlines() if "k_scale" in line]
    assert lines == ["  model.layers.*.self_attn.k_proj.k_scale (2, 4 B): only what runs the quantized model needs it"]
