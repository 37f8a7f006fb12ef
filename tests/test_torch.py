"""Quantization-aware training, weights of any format, and the loss of a student, beside PyTorch."""

import copy
import doctest
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional
from torch.nn.utils import parametrize

import requant
import requant.torch as rt
from requant.encodings import BLOCKS
from requant.importance import Importance, Measured
from requant.recipes import Overrides, encoding_named
from tests import models, tiny_models
from tests.qat import kl, student_and_teacher, trained

_COMMON = {
    "vocab_size": 128,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}


def made(name, **more):
    """A random model of one of the tiny families, wide enough for blocks of 256."""
    class_name, config_name, diff = tiny_models.MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**{**_COMMON, **diff, **more})
    return getattr(transformers, class_name)(config).float()


def value(model, name):
    """A parameter as the modules see it."""
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute).detach().clone()


def loaded(model, path):
    """A new model with the weights that lie at `path`, by transformers' own loader."""
    return type(model).from_pretrained(None, config=model.config, state_dict=dict(rt.load(path)))


def converted(model, recipe, target, folder):
    """What the converter makes of the numbers that were trained."""
    path = folder / ("out.gguf" if target == "gguf" else "out")
    request = recipe if isinstance(recipe, requant.Request) else requant.Request(recipe)
    request = requant.Request(
        request.recipe, request.overrides, request.importance, vocabulary=target != "gguf", like=request.like
    )
    requant.execute(requant.plan_conversion(rt.checkpoint(model), target, path, request))
    return path


MXFP4 = requant.Request("Q8_0", Overrides(tensor_types=(("weight", encoding_named("MXFP4")),)))
GGUF = ["Q4_K_M", "Q5_0", "IQ4_XS", "TQ2_0", MXFP4, "NVFP4", "BF16"]
FOLDERS = ["GPTQ-4-32", "AWQ-4-64", "FP8", "FP8-BLOCK", "NVFP4", "MXFP4", "NF4", "INT8", "W4A16-ASYM-32", "MLX-4-64"]


def cases():
    """Some of them always, all of them with the slow tests: a kernel takes seconds to compile."""
    for recipe, target in [*((one, "gguf") for one in GGUF), *((one, "safetensors") for one in FOLDERS)]:
        fast = recipe in ("Q4_K_M", "NVFP4", "GPTQ-4-32", "FP8", "NF4")
        yield pytest.param(recipe, target, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("recipe", "target"), [*cases()])
def test_what_training_saw_is_what_is_stored(recipe, target, tmp_path):
    model = made("llama-tied", num_hidden_layers=1)
    said = rt.fake_quantize(model, recipe, target)
    assert said
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tokens = torch.arange(32).reshape(2, 16)
    for _ in range(2):
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
    saw = {name: value(model, name) for name in said}
    logits = model(tokens).logits.detach()
    back = rt.load(converted(model, recipe, target, tmp_path))
    for name, seen in saw.items():
        assert torch.equal(back[name], seen), name
    rt.remove_fake_quantization(model)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert any(not torch.equal(value(model, name), seen) for name, seen in saw.items())
    if target == "gguf":
        assert torch.equal(loaded(model, tmp_path / "out.gguf")(tokens).logits, logits)


@pytest.mark.parametrize(
    "family", ["gpt2", "qwen3moe", *(pytest.param(one, marks=pytest.mark.slow) for one in ("gemma3", "phi3", "gptoss"))]
)
def test_transposed_fused_and_stacked_parameters(family, tmp_path):
    model = made(family)
    said = rt.fake_quantize(model, "Q4_K_M")
    saw = {name: value(model, name) for name in said}
    assert len(saw) > 5
    again = loaded(model, converted(model, "Q4_K_M", "gguf", tmp_path))
    for name, seen in saw.items():
        assert torch.equal(value(again, name), seen), name


def test_rows_that_a_gguf_reorders_and_importance_of_columns(tmp_path):
    model = made("llama", num_hidden_layers=1)
    plan = requant.plan_conversion(rt.checkpoint(model), "gguf", "x.gguf", requant.Request("Q4_K", vocabulary=False))
    assert any("rope" in step.values.explain() for step in plan.steps)
    weights = np.random.default_rng(0).uniform(0.01, 4, (1, 256)).astype(np.float32)
    names = [step.target.name for step in plan.steps if len(step.target.shape) == 2]
    importance = Importance({name: Measured(weights, np.array([8])) for name in names}, ("text",), 1, 8)
    request = requant.Request("Q3_K_S", importance=importance)
    said = rt.fake_quantize(model, request)
    saw = {name: value(model, name) for name in said}
    back = rt.load(converted(model, request, "gguf", tmp_path))
    assert all(torch.equal(back[name], seen) for name, seen in saw.items())


def test_the_types_are_those_of_the_plan():
    model = made("llama", num_hidden_layers=8)
    said = rt.fake_quantize(model, "Q4_K_M")
    plan = requant.plan_conversion(rt.checkpoint(model), "gguf", "x.gguf", requant.Request("Q4_K_M", vocabulary=False))
    stored = {step.inputs[0].name: step.target.encoding.label for step in plan.steps}
    assert said == {name: label for name, label in stored.items() if label != "F32"}
    assert set(said.values()) == {"Q4_K", "Q6_K"}
    rt.remove_fake_quantization(model)
    chosen = Overrides(tensor_types=(("attn_v", encoding_named("Q8_0")),))
    said = rt.fake_quantize(model, requant.Request("Q4_K_M", chosen))
    assert {label for name, label in said.items() if "v_proj" in name} == {"Q8_0"}


def test_gradients_go_straight_through():
    linear = torch.nn.Linear(256, 4, bias=False)
    before = linear.weight.detach().clone()
    parametrize.register_parametrization(linear, "weight", rt.FakeQuantized(BLOCKS["Q4_K"]))
    inputs = torch.randn(3, 256)
    linear(inputs).sum().backward()
    original = linear.parametrizations.weight.original
    assert torch.equal(original, before) and not torch.equal(linear.weight, before)
    assert torch.allclose(original.grad, inputs.sum(0).expand(4, 256))
    assert "Q4_K" in repr(linear)
    copied = copy.deepcopy(linear)
    assert torch.equal(copied.weight, linear.weight)


def test_a_head_that_is_tied_is_rounded_with_the_embedding():
    model = made("llama-tied")
    rt.fake_quantize(model, "Q4_0")
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    original = model.model.embed_tokens.parametrizations.weight.original
    assert model.lm_head.parametrizations.weight.original is original
    assert len(list(model.parameters())) == len({id(one) for one in made("llama-tied").parameters()})
    rt.remove_fake_quantization(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_half_precision_sees_what_it_can_hold():
    model = made("llama").to(torch.bfloat16)
    rt.fake_quantize(model, "Q8_0")
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.bfloat16
    assert model(torch.arange(8)[None]).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("recipe", "target", "message"),
    [
        ("EXL2-4.0", "safetensors", "chooses types by measuring weights"),
        ("GPTQ-4-128", "gguf", "no GGUF can be GPTQ-4-128"),
        ("Q4_K_M", "safetensors", "cannot be Q4_K_M"),
        ("IQ2_XXS", "gguf", "importance matrix"),
    ],
)
def test_what_cannot_be(recipe, target, message):
    with pytest.raises(requant.Error, match=message):
        rt.fake_quantize(made("llama", num_hidden_layers=1), recipe, target)


def test_misuse_ends_in_an_error():
    model = made("llama", num_hidden_layers=1)
    with pytest.raises(requant.Error, match="Linear has no configuration of transformers"):
        rt.fake_quantize(torch.nn.Linear(256, 4), "Q4_K")
    rt.fake_quantize(model, "Q8_0")
    with pytest.raises(requant.Error, match="fake-quantized already"):
        rt.fake_quantize(model, "Q4_K")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.parametrizations.weight.original[0, 0] = math.nan
    with pytest.raises(requant.Error, match=r"up_proj\.weight holds NaN"):
        model(torch.arange(8)[None])
    with pytest.raises(requant.Error, match="'meta'"):
        rt.checkpoint(made("llama", num_hidden_layers=1).to("meta"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["Q4_K", "NVFP4"])
def test_training_loses_less_than_rounding_afterwards(recipe):
    for seed in range(3):
        student, teacher, held = student_and_teacher(seed, layers=1)
        rt.fake_quantize(student, recipe)
        before = kl(student, teacher, held)
        trained(student, teacher, seed, steps=60)
        assert kl(student, teacher, held) < 0.9 * before, seed


# Weights of any format


def test_weights_of_any_format(tmp_path):
    model = made("qwen3moe")
    model.save_pretrained(tmp_path / "folder")
    weights = rt.load(tmp_path / "folder")
    assert "model.norm.weight" in weights and weights.config["model_type"] == "qwen3_moe"
    again = loaded(model, tmp_path / "folder")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    requant.execute(
        requant.plan_conversion(
            requant.open(tmp_path / "folder"), "gguf", tmp_path / "q8.gguf", requant.Request("Q8_0", vocabulary=False)
        )
    )
    halves = rt.load(tmp_path / "q8.gguf", torch.bfloat16)
    assert halves["model.norm.weight"].dtype == torch.bfloat16
    assert set(halves) == set(rt.load(tmp_path / "folder")) or len(halves) > 10
    with pytest.raises(KeyError, match=r"did you mean model\.norm\.weight"):
        halves["model.norn.weight"]


def test_a_gguf_of_others_is_a_model_of_transformers():
    weights = rt.load(models.smollm2())
    assert repr(weights) == "<StateDict: 272 tensors in float32>"
    name = "model.layers.3.mlp.up_proj.weight"
    stored = requant.open(models.smollm2())["blk.3.ffn_up.weight"].numpy()
    assert weights.shape(name) == stored.shape
    assert torch.equal(weights[name], torch.from_numpy(stored))


# The loss of a student


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_the_loss_is_that_of_torch(temperature, divergence):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 11), torch.randn(2, 5, 11)
    labels = torch.randint(0, 11, (2, 5))
    labels[0, :2] = -100
    counted = labels != -100
    ours = functional.log_softmax(student[counted] / temperature, -1)
    theirs = functional.log_softmax(teacher[counted] / temperature, -1)
    pair = (ours, theirs) if divergence == "forward" else (theirs, ours)
    apart = functional.kl_div(*pair, reduction="batchmean", log_target=True) * temperature**2
    hard = functional.cross_entropy(student.reshape(-1, 11), labels.reshape(-1))
    found = rt.distillation_loss(student, teacher, labels, temperature=temperature, alpha=0.3, divergence=divergence)
    assert torch.allclose(found, 0.3 * apart + 0.7 * hard, rtol=1e-5)


def test_the_gradient_at_high_temperature_is_that_of_matched_logits():
    """Hinton and others, section 2.1: for logits of mean 0, at high T, the gradient is (z - v) / N, times T² / T²."""
    torch.manual_seed(0)
    student = torch.randn(1, 50, dtype=torch.float32)
    teacher = torch.randn(1, 50)
    student, teacher = student - student.mean(), teacher - teacher.mean()
    student.requires_grad_()
    rt.distillation_loss(student, teacher, temperature=200.0).backward()
    assert torch.allclose(student.grad, (student - teacher).detach() / 50, atol=1e-3)


def test_what_no_loss_is_of():
    logits = torch.zeros(2, 3)
    assert float(rt.distillation_loss(logits, logits, torch.tensor([-100, -100]))) == 0
    for arguments, options, message in (
        ((logits, torch.zeros(2, 4)), {}, "student's logits"),
        ((logits, logits, torch.zeros(3)), {}, "the labels are"),
        ((logits, logits), {"temperature": 0}, "greater than 0"),
        ((logits, logits), {"alpha": 2}, "from 0 to 1"),
        ((logits, logits), {"divergence": "sideways"}, "forward"),
    ):
        with pytest.raises(requant.Error, match=message):
            rt.distillation_loss(*arguments, **options)


def test_the_page_is_what_happens(tmp_path, monkeypatch):
    (tmp_path / "SmolLM2-135M.gguf").symlink_to(models.smollm2())
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    fences = "".join(re.findall(r"```python\n(>>>.*?)```", text, re.DOTALL))
    examples = doctest.DocTestParser().get_doctest(fences, {"requant": requant}, "training.md", "training.md", 0)
    assert len(examples.examples) > 15
    runner, said = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST), []
    runner.run(examples, out=said.append)
    assert not runner.failures, "".join(said)
