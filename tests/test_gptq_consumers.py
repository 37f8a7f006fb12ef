"""Folders that we write, in the libraries that people load them with: the same weights, and the same logits.

Run with GPTQModel 7.7.0, transformers 5.23.0 and optimum 2.3.0 on the CPU; skipped where GPTQModel is missing.
"""

import json

import numpy as np
import pytest
import torch

from tests.test_repacks import converted
from tests.tiny_folder import write_tiny_folder

pytestmark = pytest.mark.slow
RECIPES = ["GPTQ-4-32", "GPTQ-4-32-ASYM", "GPTQ-4-32-V2", "GPTQ-8-64", "GPTQ-2-32", "GPTQ-3-32", "GPTQ-3-32-ASYM"]
RECIPES += ["GPTQ-8--1-ASYM", "AWQ-4-32", "AWQ-4-64"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = write_tiny_folder(tmp_path_factory.mktemp("dense") / "m", torch.float16)
    for name, key, value in (("config", "pad_token_id", 1), ("tokenizer_config", "pad_token", "</s>")):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("library", ["gptqmodel", "transformers"])
def test_weights_and_logits_are_those_of_our_own_decoding(dense, tmp_path, recipe, library):
    gptqmodel = pytest.importorskip("gptqmodel", reason="GPTQModel is not installed")
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    converted(dense, tmp_path / "quantized", recipe)
    converted(tmp_path / "quantized", tmp_path / "plain", "F32")
    ours = LlamaForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32).eval()
    if library == "gptqmodel":
        how = {"backend": gptqmodel.BACKEND.TORCH, "dtype": torch.float16}  # it prefers bfloat16 on the CPU
        theirs = gptqmodel.GPTQModel.load(str(tmp_path / "quantized"), device="cpu", **how).model
    else:
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "quantized", device_map="cpu", dtype=torch.float16)
    layers = {name: module for name, module in theirs.named_modules() if name.endswith("_proj")}
    assert len(layers) == 14
    assert not any(isinstance(module, torch.nn.Linear) for module in layers.values())
    for name, module in layers.items():
        if recipe.startswith("GPTQ"):
            weight = module.dequantize_weight().T.float().numpy()
            assert np.array_equal(weight, ours.get_parameter(f"{name}.weight").detach().numpy()), name
    tokens = torch.randint(0, 264, (1, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, found = ours(tokens).logits, theirs(tokens).logits.float()
    assert (found - wanted).abs().max() < 1e-3 * (wanted.max() - wanted.min())  # their arithmetic is in float16
    assert (found.argmax(-1) == wanted.argmax(-1)).all()
