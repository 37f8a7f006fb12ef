"""requant as a library: what a notebook shows."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import requant
from requant.recipes import RECIPES
from tests.tiny_folder import write_tiny_folder


def test_the_public_names_are_shown_and_there():
    assert dir(requant) == sorted([*requant.__all__, "__version__"])
    for name in requant.__all__:
        assert getattr(requant, name) is not None
    assert requant.__version__ == version("requant")
    with pytest.raises(AttributeError, match="'requant' has no attribute 'nothing'"):
        requant.nothing  # noqa: B018


def test_importing_it_costs_nothing():
    loaded = "import sys, requant; print([name for name in ('numpy', 'numba', 'click', 'gguf') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "[]\n"


def test_a_model_and_a_plan_are_a_line_each(tmp_path):
    write_tiny_folder(tmp_path / "tiny")
    model = requant.open(tmp_path / "tiny")
    weights = sum(tensor.shape[0] * (tensor.shape[1] if tensor.shape[1:] else 1) for tensor in model.tensors)
    expected = f"<Checkpoint {tmp_path / 'tiny'}: llama, {len(model.tensors)} tensors, {weights:,} parameters>"
    assert repr(model) == expected
    target = requant.FORMATS["gguf"]
    plan = requant.plan_conversion(model, target, tmp_path / "out.gguf", requant.Request("Q8_0"))
    assert repr(plan).startswith(
        f"<Plan: {len(plan.steps)} tensors, {plan.layout.nbytes:,} bytes to {tmp_path}/out.gguf"
    )
    shards = requant.plan_conversion(
        model, target, tmp_path / "out.gguf", requant.Request(cut=requant.layout.LayoutOptions(shard_tensors=5))
    )
    assert f"{len(shards.layout.files)} files in {tmp_path}" in repr(shards)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("Q5KM", "did you mean Q5_K_M?"),
        ("q4_k-m", "did you mean Q4_K_M?"),
        ("Q4_K_X", "did you mean Q4_K_S or Q4_K_M"),
        ("Q4_K_M,Q8_0", "one at a time: Q4_K_M, Q8_0"),
        ("IQ5", ""),
        ("something else", "otherwise"),
    ],
)
def test_what_may_have_been_meant(word, hint):
    from requant.nearest import did_you_mean

    assert did_you_mean(word, RECIPES, "otherwise").startswith(hint)


def test_a_command_that_is_none():
    from click.testing import CliRunner

    from requant.cli.main import cli

    told = CliRunner().invoke(cli, ["convrt"])
    assert told.exit_code == 2
    assert "No such command 'convrt'. Did you mean convert?" in told.stderr
