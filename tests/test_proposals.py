"""A size of groups that does not fit: which one would is told, and is true."""

import json
import re

import pytest
from click.testing import CliRunner

from requant.cli.main import cli
from requant.encodings import BF16, Dense
from requant.expressions import Stored
from requant.ir import Tensor
from requant.losses import LossKind
from requant.plan import Move
from requant.schemes import scheme_named
from requant.schemes.proposal import proposal
from tests.tiny_folder import write_tiny_folder

LLAMA = {"model_type": "llama", "num_hidden_layers": 2}


def moves_of(*columns):
    """Linear layers with so many columns each, [96, columns]."""
    names = [f"model.layers.{n}.mlp.down_proj.weight" for n in range(len(columns))]
    tensors = [Tensor(name, (96, width), BF16, {}) for name, width in zip(names, columns, strict=True)]
    return [Move(tensor.name, Stored(tensor)) for tensor in tensors]


def proposed(recipe, *columns):
    moves, scheme = moves_of(*columns), scheme_named(recipe)
    return proposal(scheme, scheme.apply(moves, LLAMA), moves, LLAMA)


def unfit(recipe, *columns):
    applied = scheme_named(recipe).apply(moves_of(*columns), LLAMA)
    assert sum(isinstance(encoding, Dense) for encoding in applied.encodings) == len(applied.losses)
    return len(applied.losses)


@pytest.mark.parametrize(
    ("recipe", "columns", "told"),
    [
        ("GPTQ", [576, 1536], "--to GPTQ-4-64 fits all 2 layers, as do GPTQ-4-32, GPTQ-4-16"),
        ("GPTQ-8-1024-ASYM-V2", [1536], "--to GPTQ-8-512-ASYM-V2 fits the layer, as do "),
        ("GPTQ", [96, 192, 50], "--to GPTQ-4-32 fits 2 of 3 layers, as does GPTQ-4-16"),
        ("AWQ", [576], "--to AWQ-64 fits the layer, as do AWQ-32, AWQ-16"),
        ("AWQ-64", [48], "--to AWQ-16 fits the layer"),
        ("W4A16", [576], "--to W4A16-64 fits the layer, as does W4A16-32"),
        ("W8A16-128-ASYM", [96], "--to W8A16-32-ASYM fits the layer"),
        ("MLX-4-128", [576], "--to MLX-4-64 fits the layer, as does MLX-4-32"),
        ("MLX-MIXED_3_6", [96], "--to MLX-MIXED_3_6-32 fits the layer"),
        ("GPTQ-4-32", [50], ""),  # no size fits
        ("W4A16", [48], ""),  # 16 would, which compressed-tensors' kernels have not
        ("MLX-MXFP4", [48], ""),  # one size
        ("NVFP4", [24], ""),
        ("GPTQ", [1536], ""),  # nothing is left over
        ("GPTQ-4--1", [576], ""),
    ],
)
def test_the_size_that_fits_is_proposed(recipe, columns, told):
    said = proposed(recipe, *columns)
    assert said.startswith(told) and bool(said) is bool(told)
    for name in re.findall(r"(?<=[ ])[A-Z][A-Z0-9_]*(?:-[A-Z0-9_]+)+", said):
        assert unfit(name, *columns) < unfit(recipe, *columns)
        assert (" of " not in said) is (unfit(name, *columns) == 0)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_plan_and_receipt_propose_it(tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    write_tiny_folder(tmp_path / "tiny")
    words = ["convert", "tiny", "out", "--to", "GPTQ-4-512", *more]
    hint = "--to GPTQ-4-256 fits all 14 layers, as do GPTQ-4-128, GPTQ-4-64, GPTQ-4-32, GPTQ-4-16"
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == 0, said.output
    assert re.search(r"rows of 256 are no multiple of 512\nhint: (.*)", said.stdout)[1] == hint
    document = json.loads(CliRunner().invoke(cli, [*words, "--force", "--json"]).stdout)
    assert document["hints"] == [hint]
    assert {loss["kind"] for loss in document["losses"]} == {LossKind.SUBSTITUTED.value}
    fitting = json.loads(CliRunner().invoke(cli, ["convert", "tiny", "fits", "--to", "GPTQ", *more, "--json"]).stdout)
    assert fitting["hints"] == []


def test_what_fail_on_loss_refuses_is_told_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny_folder(tmp_path / "tiny")
    said = CliRunner().invoke(cli, ["convert", "tiny", "out", "--to", "W4A16-128", "--fail-on-loss", "--dry-run"])
    assert said.exit_code == 0, said.output
    said = CliRunner().invoke(cli, ["convert", "tiny", "out", "--to", "GPTQ-4-512", "--fail-on-loss"])
    assert said.exit_code == 4 and "hint: --to GPTQ-4-256 fits all 14 layers" in said.stderr
