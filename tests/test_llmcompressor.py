"""Mixtures of experts as llm-compressor 0.14 saves them: its own values, by the family's names in folders and GGUFs."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from tests.stored import values_of

FIXTURES = Path(__file__).parents[1] / "fixtures" / "llmcompressor"
MODELS = ("mixtral-mixed", "qwen2moe-fp8-block", "qwen3moe-nvfp4")


def tensors_of(path):
    checkpoint = detect(path).read(path)
    assert not checkpoint.notices
    return {tensor.name: tensor for tensor in checkpoint.tensors}


def convert(source, destination, recipe, format_name="safetensors"):
    request = Request(recipe, vocabulary=False)
    plan = plan_conversion(detect(source).read(source), FORMATS[format_name], destination, request)
    execute(plan, Options(workers=2))
    return plan


def digest(values, narrow):
    """narrow: the library rounds to bfloat16 at the end, under a scale of the whole tensor."""
    array = torch.from_numpy(values)
    return hashlib.sha256((array.bfloat16() if narrow else array).float().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("model", MODELS)
def test_every_module_has_the_values_that_the_library_decompresses(model):
    """It gives mixtral's experts other names inside than in the file."""
    wanted = json.loads((FIXTURES / model / "digests.json").read_text())
    ours = tensors_of(FIXTURES / model)
    quantized = [tensor for tensor in ours.values() if tensor.encoding.label not in ("BF16", "F32")]
    assert len(quantized) == len(wanted)
    found = {digest(values_of(tensor), "nvfp4" in model) for tensor in quantized}
    assert found == set(wanted.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", MODELS)
def test_transformers_loads_what_is_made_of_it(tmp_path, model):
    """By the family's names: nothing is missing, nothing is left over, and experts are those that were stored."""
    from transformers import AutoModelForCausalLM

    convert(FIXTURES / model, tmp_path / "hf", "F32")
    loaded, said = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    stored = tensors_of(FIXTURES / model)
    module = next(name for name in stored if ".experts.2." in name and name.startswith("model.layers.1.")).split(".2.")[
        0
    ]
    experts = dict(loaded.named_parameters())["model.layers.1.mlp.experts.down_proj"].detach().numpy()
    assert np.array_equal(experts[2], values_of(stored[f"{module}.2.down_proj.weight"]))


@pytest.mark.parametrize("model", MODELS)
def test_a_gguf_has_the_values_of_the_folder(tmp_path, model):
    convert(FIXTURES / model, tmp_path / "hf", "F32")
    convert(tmp_path / "hf", tmp_path / "hf.gguf", "F32", "gguf")
    convert(FIXTURES / model, tmp_path / "m.gguf", "F32", "gguf")
    ours, theirs = tensors_of(tmp_path / "m.gguf"), tensors_of(tmp_path / "hf.gguf")
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert np.array_equal(values_of(tensor), values_of(theirs[name])), name
