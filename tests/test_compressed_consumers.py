"""Folders that we write, loaded by transformers and compressed-tensors on the CPU: the same logits as our own numbers.

tests/consumers.txt says in which versions.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from tests.models import consumer
from tests.tiny_folder import write_tiny_folder

pytestmark = pytest.mark.slow


def convert(source, destination, recipe):
    plan = plan_conversion(detect(source).read(source), FORMATS["safetensors"], destination, Request(recipe))
    execute(plan, Options(workers=2))


def logits(folder, quantized):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    if quantized:  # what is compared is what is stored, not how activations are rounded
        from compressed_tensors.quantization import disable_quantization

        with torch.no_grad():
            model(torch.arange(2, 4)[None])  # decompresses
        model.apply(disable_quantization)
    with torch.no_grad():
        return model(torch.arange(1, 33)[None]).logits.float()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", ["FP8", "FP8-BLOCK", "W8A8", "NVFP4", "MXFP4", "W4A16", "W4A16-64", "W8A16"])
def test_the_same_logits(tmp_path, recipe):
    consumer("compressed_tensors"), consumer("accelerate")
    source = write_tiny_folder(tmp_path / "tiny")
    convert(source, tmp_path / "quantized", recipe)
    convert(tmp_path / "quantized", tmp_path / "dense", "BF16")
    theirs, ours = logits(tmp_path / "quantized", recipe != "FP8-BLOCK"), logits(tmp_path / "dense", quantized=False)
    assert torch.equal(theirs, ours)
    assert not torch.equal(ours, logits(source, quantized=False))


@pytest.mark.parametrize("recipe", ["W4A16-ASYM", "W8A16-ASYM"])
def test_zero_points_as_compressed_tensors_unpacks_them(tmp_path, recipe):
    """Its compressor, module by module: transformers 5.23 with compressed-tensors 0.20 loads no packed zero points."""
    consumer("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    convert(write_tiny_folder(tmp_path / "tiny"), tmp_path / "quantized", recipe)
    convert(tmp_path / "quantized", tmp_path / "dense", "BF16")
    stored = load_file(tmp_path / "quantized" / "model.safetensors")
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    width, grouped = int(recipe[1]), recipe[1] == "4"
    grain = {"strategy": "group", "group_size": 128} if grouped else {"strategy": "channel"}
    arguments = QuantizationArgs(num_bits=width, symmetric=False, **grain)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    modules = [name.removesuffix(".weight_packed") for name in stored if name.endswith(".weight_packed")]
    assert len(modules) == 14
    for module in modules:
        state = {name.rsplit(".", 1)[1]: array for name, array in stored.items() if name.startswith(module + ".")}
        theirs = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
        assert np.array_equal(theirs.float().numpy(), dense[f"{module}.weight"].float().numpy()), module
