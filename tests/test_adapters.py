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
from requant.verify.llama_cpp import LlamaCpp
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


#: Adapters that a GGUF can be, and those that llama.cpp's kind of adapter cannot say.
PLAIN = ["llama-lora", "llama-rslora", "llama-embedding", "qwen3moe-lora", "qwen3moe-rslora", "gemma3-lora"]
OTHERS = [name for name in ADAPTERS if name not in [*PLAIN, "gemma3-rslora", "gpt2-lora"]]


def logits(path, adapter=None):
    """Of some tokens, in llama.cpp."""
    text = np.random.default_rng(3).integers(3, tiny_models.VOCABULARY, 24).tolist()
    with LlamaCpp(path, n_ctx=24, precise=True) as runtime:
        if adapter is not None:
            runtime.adapt(adapter)
        return runtime.logits(text)


def in_gguf(source, path):
    """A GGUF in F32 without a vocabulary."""
    requant("convert", source, path, "--to", "F32", "--no-vocab", "-q")
    return path


def far(ours, theirs):
    """The largest difference, as a part of their range."""
    return np.abs(ours - theirs).max() / (theirs.max() - theirs.min())


@pytest.mark.parametrize("name", PLAIN)
def test_logits_beside_the_model_are_those_of_the_merge(name, tmp_path):
    model = base(base_of(name))
    requant("convert", FIXTURES / name, tmp_path / "adapter.gguf", "--base", model, "-q")
    requant("merge", f"{model}+{FIXTURES / name}", "-o", tmp_path / "merged", "--to", "F32", "-q")
    plain = in_gguf(model, tmp_path / "plain.gguf")
    wanted = logits(in_gguf(tmp_path / "merged", tmp_path / "merged.gguf"))
    assert far(logits(plain, tmp_path / "adapter.gguf"), wanted) < 2e-3
    assert far(logits(plain), wanted) > 0.02  # it does something
    # and read back, on the folder as on the GGUF
    for other in (model, plain):
        requant(
            "merge", f"{other}+{tmp_path / 'adapter.gguf'}", "-o", tmp_path / "again", "--to", "F32", "-q", "--force"
        )
        found, same = (load_file(tmp_path / one / "model.safetensors") for one in ("again", "merged"))
        assert found.keys() == same.keys()
        for key, value in same.items():
            assert np.abs(found[key].numpy() - value.numpy()).max() <= 1e-5 * np.abs(value.numpy()).max(), key


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_gguf_adapter_cannot_say(name, tmp_path):
    told = requant("convert", FIXTURES / name, tmp_path / "x.gguf", "--base", base(base_of(name)), code=3)
    assert "has no place in a GGUF adapter" in told and "requant merge BASE+ADAPTER" in told
    assert not (tmp_path / "x.gguf").exists()
