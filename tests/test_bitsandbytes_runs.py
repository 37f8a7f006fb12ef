"""bitsandbytes and transformers on the CPU: they load what we write and compute what we decode, and the other way.

tests/consumers.txt says in which versions.
"""

import json

import numpy as np
import pytest
import torch

from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from tests.models import consumer
from tests.stored import values_of
from tests.tiny_folder import write_tiny_folder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TOKENS = torch.arange(2, 60)[None]
#: Of the largest logit. Its product of 4-bit weights and float32 activations takes weights that are not rounded to the
#: dtype of the model, as `dequantize_4bit` rounds them (and we do).
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 1e-3}
#: int8 weights are multiplied with activations in int8.
CLOSE_INT8 = 2e-2


@pytest.fixture(autouse=True)
def libraries():
    consumer("bitsandbytes"), consumer("accelerate")


def convert(source, destination, recipe):
    plan = plan_conversion(detect(source).read(source), FORMATS["safetensors"], destination, Request(recipe))
    execute(plan, Options(workers=2))
    return destination


def loaded(folder, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", **options).eval()


def logits(model):
    """With activations in float32, whatever the model asks for."""
    for module in model.modules():
        if hasattr(module, "compute_type_is_set"):
            module.compute_dtype, module.compute_type_is_set = torch.float32, True
            module.support_avx512bf16_for_cpu = False  # a product in bfloat16, where there is the instruction
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    with torch.no_grad():
        return model(TOKENS).logits


def dequantized(model):
    """Every quantized layer's weight as bitsandbytes computes it."""
    from bitsandbytes import functional, nn

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear4bit):
            weight = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, nn.Linear8bitLt):
            scales = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            weight = functional.int8_vectorwise_dequant(module.weight.data, scales)
        else:
            continue
        found[f"{name}.weight"] = weight.float().numpy()
    return found


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
@pytest.mark.parametrize("recipe", ["NF4", "NF4-DQ", "NF4-128", "FP4", "FP4-DQ", "INT8"])
def test_transformers_loads_what_we_write(tmp_path, recipe, dtype):
    source = write_tiny_folder(tmp_path / "tiny", dtype)
    quantized = convert(source, tmp_path / "quantized", recipe)
    dense = convert(quantized, tmp_path / "dense", "F32")
    model = loaded(quantized)
    theirs = dequantized(model)
    ours = {tensor.name: values_of(tensor) for tensor in detect(quantized).read(quantized).tensors}
    assert len(theirs) == 14
    assert all(np.array_equal(weight, ours[name]) for name, weight in theirs.items())
    wanted = logits(loaded(dense))
    close = CLOSE_INT8 if recipe == "INT8" else CLOSE[dtype]
    assert (logits(model) - wanted).abs().max() < close * wanted.abs().max()


QUANTIZED = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4, double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4 in bfloat16": {"load_in_4bit": True, "bnb_4bit_quant_storage": torch.bfloat16},
    "int8": {"load_in_8bit": True},
    "with modules left out": {"load_in_4bit": True, "llm_int8_skip_modules": ["down_proj", "lm_head"]},
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_we_read_what_transformers_writes(tmp_path, kind):
    from transformers import BitsAndBytesConfig

    source = write_tiny_folder(tmp_path / "tiny")
    model = loaded(source, dtype=torch.bfloat16, quantization_config=BitsAndBytesConfig(**QUANTIZED[kind]))
    model.save_pretrained(tmp_path / "theirs")
    ours = {tensor.name: values_of(tensor) for tensor in detect(tmp_path / "theirs").read(tmp_path / "theirs").tensors}
    theirs = dequantized(model)
    assert len(theirs) == (12 if "left out" in kind else 14)
    assert all(np.array_equal(weight, ours[name]) for name, weight in theirs.items())
    copy = convert(tmp_path / "theirs", tmp_path / "copy", None)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "theirs", copy)]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]
    again = dequantized(loaded(copy, dtype=torch.bfloat16))
    assert set(again) == set(theirs) and all(np.array_equal(weight, theirs[name]) for name, weight in again.items())
