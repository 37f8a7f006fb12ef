"""Projectors: the same files as llama.cpp's own converter writes, and what is told where that cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file

from requant.execution import execute
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.operations.convert import Request, plan_conversion
from tests.gguf_digest import digest, summary
from tests.tiny_projectors import MODELS, make

GOLDENS = Path(__file__).parent.parent / "fixtures" / "projectors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function from the name of a tiny model to the folder it was saved in."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("projector") / name
            make(name, made[name])
        return made[name]

    return folder


def plan(folder, destination, recipe="F16"):
    return plan_conversion(Safetensors().read(folder), Gguf(), destination, Request(recipe, projector=True))


#: Tensors that llama.cpp's converter (b11549) leaves out or calls otherwise, and why its own runtime needs them so.
MORE = {
    # it asks for the token's number, and has dropped the embedding before; the runtime refuses a file without it
    "pixtral": {"v.token_embd.img_break"},
    "mistral3": {"v.token_embd.img_break"},
}
OTHER_NAMES = {
    # Gemma 4's norm after attention has the same name in transformers, and came later into the converter's table; the
    # runtime would apply it to the output of attention, and nothing before the feed-forward network
    "llama4": (".ln2.", ".attn_post_norm."),
}


def as_theirs(name, tensors):
    """Our tensors as the converter calls them, without those that it forgets."""
    ours, theirs = OTHER_NAMES.get(name, ("", ""))
    kept = {tensor: content for tensor, content in tensors.items() if tensor not in MORE.get(name, ())}
    assert len(kept) == len(tensors) - len(MORE.get(name, ()))
    return {tensor.replace(ours, theirs) if ours else tensor: content for tensor, content in kept.items()}


#: The others are slow tests.
QUICK = (
    "gemma3",
    "qwen2.5vl",
    "qwen3vl",
    "glm4v",
    "lfm2vl",
    "mistral3",
    "llama4",
    "internvl-chat",
    "voxtral",
    "kimi-k2.5",
)


def quick_first(names):
    """Names as parameters, slow ones marked."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick_first(MODELS))
def test_same_as_the_converter_of_llama_cpp(name, folders, tmp_path):
    """Every byte of every tensor, and every value of the metadata, in four types."""
    golden = json.loads((GOLDENS / f"{name}.json").read_text())
    out = tmp_path / "mmproj.gguf"
    execute(plan(folders(name), out))
    ours = summary(out)
    assert ours["metadata"] == golden["metadata"]
    powers = {tensor: golden["tensors"][tensor] for tensor in ours["tensors"] if "per_dim_scale" in tensor}
    assert as_theirs(name, ours["tensors"] | powers) == golden["tensors"]
    assert_softplus(folders(name), out, powers)
    for recipe, content in golden["others"].items():
        out.unlink()
        execute(plan(folders(name), out, recipe))
        theirs = as_theirs(name, summary(out)["tensors"] | powers)
        assert digest(repr(sorted(theirs.items())).encode()) == content, recipe


def assert_softplus(folder, out, names):
    """Scales that are no copies: their last bit depends on the machine's functions, in the converter as in ours."""
    stored = load_file(folder / "model.safetensors")
    found = {tensor.name: tensor.data for tensor in GGUFReader(out).tensors}
    for name in names:
        ending = f"audio_tower.layers.{name.split('.')[2]}.self_attn.per_dim_scale"
        (key,) = (key for key in stored if key.endswith(ending))
        assert np.allclose(found[name], torch.nn.functional.softplus(stored[key].float()), rtol=3e-7, atol=0)


def test_every_golden_has_its_model():
    assert {path.stem for path in GOLDENS.glob("*.json")} == MODELS.keys()
