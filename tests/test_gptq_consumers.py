"""Folders that we write, and that GPTQModel makes, in the libraries they are for: the same weights, the same logits.

tests/consumers.txt says in which versions; on the CPU.
"""

import json

import numpy as np
import pytest
import torch

from requant.execution import execute
from requant.feedback import ColumnOrder, Feedback, FeedbackOptions, Smoothing
from requant.formats import FORMATS, detect
from requant.formats import open as open_model
from requant.operations.calibrate import Request as Calibration
from requant.operations.calibrate import calibrate
from requant.operations.convert import Request, plan_conversion
from requant.plan import Fidelity
from requant.recipes import Overrides, tensor_type
from requant.verify.check import default_text
from tests.models import consumer
from tests.test_library_folders import quantize
from tests.test_repacks import converted
from tests.tiny_folder import write_tiny_folder

pytestmark = pytest.mark.slow
RECIPES = ["GPTQ-4-32", "GPTQ-4-32-ASYM", "GPTQ-4-32-V2", "GPTQ-8-64", "GPTQ-2-32", "GPTQ-3-32", "GPTQ-3-32-ASYM"]
RECIPES += ["GPTQ-8--1-ASYM", "AWQ-4-32", "AWQ-4-64"]
LAYERS = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch, tmp_path):
    """GPTQModel compiles its layers with a C++ compiler, which a machine may lack: their Python does the same.

    It writes logs into the current folder.
    """
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.chdir(tmp_path)


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
    converted(dense, tmp_path / "quantized", recipe)
    check_logits(tmp_path / "quantized", tmp_path, library)


#: Recipe and order of columns of what is rounded with error feedback: codes and groups that plain rounding never makes.
CORRECTED = [("GPTQ-4-32", "groups"), ("GPTQ-4-32-ASYM", "groups"), ("GPTQ-3-32", "static"), ("AWQ-4-32", "none")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("recipe", "order"), CORRECTED)
def test_what_is_rounded_with_feedback_is_loaded_and_run(dense, tmp_path, recipe, order):
    plan = plan_conversion(open_model(dense), FORMATS["safetensors"], tmp_path / "plan", Request("F32"))
    found = calibrate(plan, Calibration((("text", default_text()),), tokens=1024, window=64, hessians=tmp_path))
    feedback = Feedback(found.hessians, FeedbackOptions(order=ColumnOrder(order)))
    smoothing = Smoothing() if recipe.startswith("AWQ") else None
    request = Request(recipe, importance=found.importance, feedback=feedback, smoothing=smoothing)
    plan = plan_conversion(open_model(dense), FORMATS["safetensors"], tmp_path / "quantized", request)
    assert sum(step.corrections is not None for step in plan.steps) == 14
    execute(plan)
    check_logits(tmp_path / "quantized", tmp_path, "transformers")


@pytest.mark.filterwarnings("ignore")
def test_layers_of_other_widths_are_loaded_by_the_library_and_refused_by_transformers(dense, tmp_path):
    wider = Overrides((tensor_type(r"layers\.0\..*(q|down)_proj=GPTQ-8-64"), tensor_type("v_proj=GPTQ-2-32")))
    request = Request("GPTQ-4-32", wider)
    execute(plan_conversion(open_model(dense), FORMATS["safetensors"], tmp_path / "quantized", request))
    check_logits(tmp_path / "quantized", tmp_path, "gptqmodel")
    with pytest.raises(Exception, match=r"size mismatch|mismatched|shape"):
        check_logits(tmp_path / "quantized", tmp_path / "other", "transformers")


#: What holds integers of up to 4 bits exactly: with zeros in the middle, and anywhere (code less zero takes five bits).
EXACT = {"gptq": {"Q4_0"}, "awq": {"Q5_0"}}
#: (family, bits, inputs of a group, their order): what GPTQModel makes of the small model in seconds.
MADE = [("gptq", 4, 32, ""), ("gptq", 4, 32, "act"), ("gptq", 3, 32, ""), ("gptq", 8, 64, ""), ("awq", 4, 64, "")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MADE, ids=lambda kind: "-".join(map(str, kind)))
def test_what_the_library_makes_is_read_and_repacked(dense, tmp_path, kind):
    consumer("gptqmodel")
    (tmp_path / "text").write_text(default_text())
    quantize(dense, tmp_path / "text", kind, tmp_path / "made")
    check_logits(tmp_path / "made", tmp_path, "gptqmodel")
    made = detect(tmp_path / "made").read(tmp_path / "made")
    request = Request(None, vocabulary=False)  # GPTQModel gives the tokenizer a token that the model has no row for
    plan = plan_conversion(made, FORMATS["gguf"], tmp_path / "repacked.gguf", request)
    layers = [step for step in plan.steps if step.target.name.split(".")[-2] in LAYERS]
    assert len(layers) == 14
    types = {step.target.encoding.label for step in layers}
    assert {step.fidelity for step in layers} == {Fidelity.REPACK}
    # No type of a GGUF has its columns in another order: plain numbers hold what those mean.
    assert types == ({"F16"} if kind[3] == "act" else {"Q8_0"} if kind[1] == 8 else EXACT[kind[0]])


def check_logits(quantized, scratch, library):
    """`library` loads the folder, and computes what transformers does with the weights as we decode them."""
    gptqmodel = consumer("gptqmodel")
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    converted(quantized, scratch / "plain", "F32")
    ours = LlamaForCausalLM.from_pretrained(scratch / "plain", dtype=torch.float32).eval()
    if library == "gptqmodel":
        how = {"backend": gptqmodel.BACKEND.TORCH, "dtype": torch.float16}  # it prefers bfloat16 on the CPU
        theirs = gptqmodel.GPTQModel.load(str(quantized), device="cpu", **how).model
    else:
        theirs = AutoModelForCausalLM.from_pretrained(quantized, device_map="cpu", dtype=torch.float16)
    layers = {name: module for name, module in theirs.named_modules() if name.endswith("_proj")}
    assert len(layers) == 14
    assert not any(isinstance(module, torch.nn.Linear) for module in layers.values())
    for name, module in layers.items():
        if hasattr(module, "dequantize_weight"):  # AWQ's layers have none
            weight = module.dequantize_weight().T.float().numpy()
            assert np.array_equal(weight, ours.get_parameter(f"{name}.weight").detach().numpy()), name
    tokens = torch.randint(0, 264, (1, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, found = ours(tokens).logits, theirs(tokens).logits.float()
    assert (found - wanted).abs().max() < 1e-3 * (wanted.max() - wanted.min())  # their arithmetic is in float16
    assert (found.argmax(-1) == wanted.argmax(-1)).all()
