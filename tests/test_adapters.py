"""Adapters on models: what PEFT's own `merge_and_unload` makes of the same (`fixtures/adapters/make.py`)."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from requant.cli.main import cli
from tests import tiny_models

FIXTURES = Path(__file__).parent.parent / "fixtures" / "adapters"
ADAPTERS = sorted(folder.name for folder in FIXTURES.iterdir() if folder.is_dir())


@cache
def base(name):
    """The tiny model that an adapter was made for."""
    folder = Path(mkdtemp()) / name
    tiny_models.make(name, folder, dtype=torch.bfloat16)
    return folder


def requant(*arguments, code=0):
    """Run the command; its output."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def base_of(adapter):
    """The name of its model."""
    return json.loads((FIXTURES / adapter / "adapter_config.json").read_text())["base_model_name_or_path"]


def ordered(values):
    """BF16 numbers as integers that follow each other as they do."""
    bits = values.to(torch.bfloat16).contiguous().view(torch.int16).to(torch.int32).numpy()
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


def steps(*values):
    """The distance of BF16 numbers around the largest of these."""
    largest = np.max([np.abs(one.float().numpy()) for one in values], axis=0)
    return np.exp2(np.floor(np.log2(np.maximum(largest, 1e-30))) - 7)


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_weights_are_those_of_peft(name, tmp_path):
    model = base(base_of(name))
    requant("merge", f"{model}+{FIXTURES / name}", "-o", tmp_path / "out", "-q")
    before, found = load_file(model / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    changed = load_file(FIXTURES / f"{name}.merged.safetensors")
    assert found.keys() == before.keys()
    for key, value in found.items():
        assert value.dtype == torch.bfloat16
        wanted = changed.get(key, before[key])
        if "embed" in key or ".experts." in key:  # PEFT rounds the product to BF16 before it adds it
            of = steps(before[key], wanted, wanted.float() - before[key].float())
            assert (np.abs(value.float().numpy() - wanted.float().numpy()) <= of).all(), key
        else:
            assert np.abs(ordered(value) - ordered(wanted)).max() <= 1, key
        assert key in changed or torch.equal(value, before[key])
        assert key not in changed or not torch.equal(value, before[key])
