"""Folders that we write, loaded by transformers and compressed-tensors on the CPU: the same logits as our own numbers.

tests/consumers.txt says in which versions.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from requant.execution import Options, execute
from requant.feedback import ColumnOrder, Feedback, FeedbackOptions
from requant.formats import FORMATS, detect
from requant.losses import LossKind
from requant.operations.calibrate import Request as Calibration
from requant.operations.calibrate import calibrate
from requant.operations.convert import Request, plan_conversion
from requant.plan import Plan
from requant.recipes import Overrides, tensor_type
from requant.verify.check import default_text
from tests import tiny_models
from tests.models import consumer
from tests.tiny_folder import write_tiny_folder

pytestmark = pytest.mark.slow


def convert(source, destination, recipe) -> Plan:
    plan = plan_conversion(detect(source).read(source), FORMATS["safetensors"], destination, Request(recipe))
    execute(plan, Options(workers=2))
    return plan


def loaded(folder, quantized):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    if quantized:  # what is compared is what is stored, not how activations are rounded
        from compressed_tensors.quantization import disable_quantization

        with torch.no_grad():
            model(torch.arange(2, 4)[None])  # decompresses
        model.apply(disable_quantization)
    return model


def logits(folder, quantized):
    return logits_of(loaded(folder, quantized))


def logits_of(model):
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", ["FP8", "FP8-BLOCK", "W8A8", "NVFP4", "MXFP4"])
def test_the_same_logits_of_what_is_rounded_with_feedback(tmp_path, recipe):
    """Its codes and scales are others than those of the nearest, and loaded the same way."""
    consumer("compressed_tensors"), consumer("accelerate")
    source = write_tiny_folder(tmp_path / "tiny")
    plan = plan_conversion(detect(source).read(source), FORMATS["safetensors"], tmp_path / "plan", Request("F32"))
    asked = Calibration((("text", default_text()),), tokens=1024, window=64, hessians=tmp_path)
    found = calibrate(plan, asked)
    order = ColumnOrder.STATIC if recipe in ("W8A8", "FP8") else ColumnOrder.STORED
    feedback = Feedback(found.hessians, FeedbackOptions(order=order))
    request = Request(recipe, importance=found.importance, feedback=feedback)
    plan = plan_conversion(detect(source).read(source), FORMATS["safetensors"], tmp_path / "fed", request)
    assert sum(step.corrections is not None for step in plan.steps) == 14
    execute(plan, Options(workers=2))
    convert(tmp_path / "fed", tmp_path / "dense", "BF16")
    convert(source, tmp_path / "nearest", recipe)
    ours = logits(tmp_path / "dense", quantized=False)
    assert torch.equal(logits(tmp_path / "fed", recipe != "FP8-BLOCK"), ours)
    assert not torch.equal(logits(tmp_path / "nearest", recipe != "FP8-BLOCK"), ours)


@pytest.mark.filterwarnings("ignore")
def test_the_same_logits_of_two_widths(tmp_path):
    """A width for all, and another for layers that are named: one of each module's kinds."""
    consumer("compressed_tensors"), consumer("accelerate")
    source = write_tiny_folder(tmp_path / "tiny")
    wider = Overrides((tensor_type(r"layers\.0\..*(q|down)_proj=W8A16-64"),))
    for destination, recipe, overrides in (("mixed", "W4A16-64", wider), ("plain", "W4A16-64", Overrides())):
        plan = plan_conversion(
            detect(source).read(source), FORMATS["safetensors"], tmp_path / destination, Request(recipe, overrides)
        )
        execute(plan, Options(workers=2))
    convert(tmp_path / "mixed", tmp_path / "dense", "BF16")
    ours = logits(tmp_path / "dense", quantized=False)
    assert torch.equal(logits(tmp_path / "mixed", quantized=True), ours)
    assert not torch.equal(ours, logits(tmp_path / "plain", quantized=True))


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


def unloaded(plan):
    return {loss.subject.split(".experts.*.")[1] for loss in plan.losses if loss.kind is LossKind.UNLOADED}


def differing(theirs, ours):
    """Parameters that are not the same in both models, bit for bit."""
    stored = dict(theirs.named_parameters())
    return {name for name, array in ours.named_parameters() if not torch.equal(stored[name], array)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "recipe"),
    [("mixtral", recipe) for recipe in ("FP8", "FP8-BLOCK", "W4A16-32", "W8A16", "MXFP4")]
    + [("qwen2moe", recipe) for recipe in ("FP8", "FP8-BLOCK", "W8A16")],
)
def test_the_same_experts(tmp_path, family, recipe):
    """Both in one type: rounding what is not quantized flips routes, and then logits differ by tenths."""
    consumer("compressed_tensors"), consumer("accelerate")
    tiny_models.make(family, tmp_path / "tiny", dtype=torch.bfloat16)
    assert not unloaded(convert(tmp_path / "tiny", tmp_path / "quantized", recipe))
    convert(tmp_path / "quantized", tmp_path / "dense", "BF16")
    theirs, ours = loaded(tmp_path / "quantized", recipe != "FP8-BLOCK"), loaded(tmp_path / "dense", quantized=False)
    assert differing(theirs, ours) == set()
    assert torch.equal(logits_of(theirs), logits_of(ours))
    experts = differing(loaded(tmp_path / "tiny", quantized=False), ours)
    assert "model.layers.1.mlp.experts.gate_up_proj" in experts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "recipe", "projections"),
    [
        ("mixtral", "NVFP4", {"w1", "w2", "w3"}),
        ("qwen2moe", "W4A16-32", {"down_proj"}),
        ("qwen2moe", "MXFP4", {"down_proj"}),
    ],
)
def test_experts_that_transformers_takes_for_something_else(tmp_path, family, recipe, projections):
    """The plan tells. Should transformers have learned to load them: take it out of the plan."""
    consumer("compressed_tensors"), consumer("accelerate")
    tiny_models.make(family, tmp_path / "tiny", dtype=torch.bfloat16)
    plan = convert(tmp_path / "tiny", tmp_path / "quantized", recipe)
    assert unloaded(plan) == {f"{name}.weight" for name in projections}
    convert(tmp_path / "quantized", tmp_path / "dense", "BF16")
    stacks = {"down_proj"} if projections == {"down_proj"} else {"down_proj", "gate_up_proj"}
    wrong = differing(loaded(tmp_path / "quantized", True), loaded(tmp_path / "dense", quantized=False))
    assert wrong == {f"model.layers.{layer}.mlp.experts.{stack}" for layer in range(2) for stack in stacks}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("recipe", "projections"), [("W8A8", {"w1", "w2", "w3"}), ("W4A16", {"w1", "w2", "w3"})])
def test_experts_that_transformers_refuses(tmp_path, recipe, projections):
    consumer("compressed_tensors"), consumer("accelerate")
    tiny_models.make("mixtral", tmp_path / "tiny", dtype=torch.bfloat16)
    plan = convert(tmp_path / "tiny", tmp_path / "quantized", recipe)
    assert unloaded(plan) == {f"{name}.weight" for name in projections}
    with pytest.raises(RuntimeError, match="automatic conversion of the weights"):
        loaded(tmp_path / "quantized", True)


def test_nvfp4_experts_are_what_compressed_tensors_decodes(tmp_path):
    """Its compressor, module by module, where transformers errs."""
    consumer("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    tiny_models.make("mixtral", tmp_path / "tiny", dtype=torch.bfloat16)
    convert(tmp_path / "tiny", tmp_path / "quantized", "NVFP4")
    convert(tmp_path / "quantized", tmp_path / "dense", "BF16")
    config = json.loads((tmp_path / "quantized" / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate(config).config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry("nvfp4-pack-quantized")
    stored = load_file(tmp_path / "quantized" / "model.safetensors")
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    modules = [name.removesuffix(".weight_packed") for name in stored if name.endswith(".weight_packed")]
    assert len([module for module in modules if ".experts." in module]) == 24
    for module in modules:
        state = {name.rsplit(".", 1)[1]: array for name, array in stored.items() if name.startswith(module + ".")}
        assert torch.equal(compressor.decompress(state, scheme)["weight"].bfloat16(), dense[f"{module}.weight"]), module
