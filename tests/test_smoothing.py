"""AWQ's factors: the function of every family is kept, errors of outputs are less, and what cannot be is told."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from requant.errors import PlanError
from requant.execution import execute
from requant.feedback import Smoothing
from requant.formats import open as open_model
from requant.importance import Importance, Measured
from requant.inspection.origin import origin_of
from requant.operations.convert import Request, plan_conversion
from requant.smoothing import FAMILIES, Fold, Smoothed, divided_statistics, folds_of
from requant.statistics import Provenance, Statistics
from tests import tiny_models
from tests.command import run

#: Model of tiny_models -> its architecture, and how many folds a layer has.
MODELS = {
    "llama": ("llama", 3),
    "llama-biases": ("llama", 3),
    "qwen2": ("qwen2", 3),
    "qwen3": ("qwen3", 3),
    "gemma": ("gemma", 3),
    "gemma2": ("gemma2", 3),
    "gemma3": ("gemma3", 3),
    "phi3": ("phi3", 2),
    "smollm3": ("smollm3", 3),
    "granite": ("granite", 3),
    "starcoder2": ("starcoder2", 2),
    "stablelm": ("stablelm", 3),
}
GROUPS = {"attn_q": "a", "attn_k": "a", "attn_v": "a", "ffn_gate": "b", "ffn_up": "b"}


def importance_of(model):
    """Some columns matter a thousand times more; what is given the same has the same sums."""
    entries = {}
    for name, tensor in model.items():
        if len(tensor.shape) == 2 and name.startswith("blk."):
            _, layer, role, _ = name.split(".")
            seed = [int(layer), *map(ord, GROUPS.get(role, role))]
            sums = np.exp(2 * np.random.default_rng(seed).normal(size=(1, tensor.shape[1])))
            entries[name] = Measured(sums.astype(np.float32), np.array([1]))
    return Importance(entries)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Model -> its folder, the GGUF of it in F32, and an importance."""

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        tiny_models.make(name, folder / "model")
        execute(
            plan_conversion(open_model(folder / "model"), "gguf", folder / "f32.gguf", Request("F32", vocabulary=False))
        )
        gguf = open_model(folder / "f32.gguf")
        return folder / "model", gguf, importance_of(gguf)

    return make


def logits(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(3, 90, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("name", MODELS)
def test_the_function_is_kept(made, tmp_path, name):
    """Rounded to 8 bits, where factors change little of the error; a fold in the wrong place changes everything."""
    folder, gguf, importance = made(name)
    architecture, folds = MODELS[name]
    found = list(folds_of(architecture, {one: tensor.shape for one, tensor in gguf.items()}, importance))
    assert len(found) == folds * len({fold.maker.split(".")[1] for fold in found})
    wanted, errors = logits(folder), []
    for smoothing in (None, Smoothing(0.5)):
        request = Request("Q8_0", importance=importance, vocabulary=False, smoothing=smoothing)
        plan = plan_conversion(open_model(folder), "gguf", tmp_path / "q8.gguf", request)
        execute(plan, overwrite=True)
        back = plan_conversion(open_model(tmp_path / "q8.gguf"), "safetensors", tmp_path / "back", Request("F32"))
        execute(back, overwrite=True)
        errors.append(float((logits(tmp_path / "back") - wanted).square().mean()))
    assert "smoothed (AWQ)" in origin_of(open_model(tmp_path / "q8.gguf")).rounding
    assert any("smoothing" in step.values.explain() for step in plan.steps)
    assert errors[1] < 4 * errors[0] < 1e-2 * float(wanted.square().mean())


def test_every_family_of_the_table_is_tested():
    assert {architecture for architecture, _ in MODELS.values()} == FAMILIES


@pytest.mark.parametrize("recipe", ("AWQ-32", "GPTQ-4-32", "W4A16-32"))
def test_folders_are_smoothed_and_nearer(made, tmp_path, recipe):
    """Measured as the search measures it: with inputs that do not depend on each other."""
    folder, _, importance = made("llama")
    source, errors = open_model(folder), []
    for smoothing in (None, Smoothing()):
        request = Request(recipe, importance=importance, smoothing=smoothing)
        plan = plan_conversion(source, "safetensors", tmp_path / "made", request)
        execute(plan, overwrite=True)
        execute(
            plan_conversion(open_model(tmp_path / "made"), "safetensors", tmp_path / "back", Request("F32")),
            overwrite=True,
        )
        written = {one.name: one for one in open_model(tmp_path / "back").tensors}
        total = 0.0
        norm, exact = (numbers(which["model.layers.1.post_attention_layernorm.weight"]) for which in (written, source))
        squares = importance.entries["blk.1.ffn_up.weight"].sums[0]
        for part in ("gate_proj", "up_proj"):
            name = f"model.layers.1.mlp.{part}.weight"
            factor = 1.0
            if part == "up_proj" and smoothing:  # its rows are divided by what down's columns are multiplied with
                factor = rows_of(numbers(source[name]), numbers(written[name]) * (norm / exact))
            miss = numbers(written[name]) * (norm / exact) * factor - numbers(source[name])
            total += float((np.square(miss) @ squares).sum())
        errors.append(total)
    assert errors[1] < 0.9 * errors[0]


def rows_of(exact, found):
    """The factors of rows that make two matrices most alike."""
    return ((exact * found).sum(1) / np.square(found).sum(1))[:, None]


def numbers(tensor):
    from tests.stored import values_of

    return values_of(tensor) if len(tensor.shape) > 1 else values_of(tensor)[0]


def test_what_cannot_be_smoothed_is_told(made, tmp_path):
    folder, gguf, importance = made("llama")
    shapes = {name: tensor.shape for name, tensor in gguf.items()}
    assert not list(folds_of("mamba", shapes, importance))
    other = {name: entry for name, entry in importance.entries.items() if "attn_k" not in name}
    makers = {fold.maker for fold in folds_of("llama", shapes, replace(importance, entries=other))}
    assert makers == {f"blk.{n}.{role}.weight" for n in (0, 1) for role in ("ffn_norm", "ffn_up")}
    more = {**shapes, "blk.0.ffn_gate_inp.weight": (4, 64)}
    assert not any(fold.maker.startswith("blk.0.") for fold in folds_of("llama", more, importance))
    with pytest.raises(PlanError, match="no matrices whose inputs could be smoothed"):
        request = Request("Q8_0", importance=Importance({}), vocabulary=False, smoothing=Smoothing())
        plan_conversion(open_model(folder), "gguf", tmp_path / "m.gguf", request)
    for options, complaint in (
        (["--smooth"], "needs --stats or --imatrix"),
        (["--smooth", "2", "--imatrix", tmp_path / "imatrix.gguf"], "a power from 0 to 1"),
    ):
        from requant.formats.imatrix.legacy import legacy_bytes

        (tmp_path / "imatrix.gguf").write_bytes(legacy_bytes(importance))
        result = run("convert", folder, tmp_path / "d.gguf", "--to", "Q8_0", *options)
        assert result.exit_code == 2 and complaint in result.output
    words = [
        "convert",
        folder,
        tmp_path / "d.gguf",
        "--to",
        "Q8_0",
        "--no-vocab",
        "--imatrix",
        tmp_path / "imatrix.gguf",
    ]
    assert (
        json.loads(run(*words, "--smooth", "--json").stdout)["smoothed_tensors"] == 12
    )  # q, k, v, gate, up and down of two layers
    said = json.loads(run("inspect", tmp_path / "d.gguf", "--json").stdout)["origin"]["rounding"]
    assert said.startswith("6 inputs smoothed (AWQ), alpha searched, median ")


def test_smoothed_inputs_are_rounded_for_less():
    """What is predicted of it beside what is measured on the smoothed inputs, where some columns are far larger."""
    from requant.calibration.recording import rounded_inputs

    random = np.random.default_rng(2)
    sizes = np.exp(random.normal(0, 0.4, 512)) * np.where(random.random(512) < 0.02, 12, 1)
    x, gradients = (random.normal(0, 1, shape).astype(np.float32) for shape in ((400, 512), (400, 96)))
    x, weight = x * sizes.astype(np.float32), random.normal(0, 1, (96, 512)).astype(np.float32)
    factors = np.sqrt(sizes).astype(np.float32)
    sums, counts = np.square(x).sum(0, keepdims=True), np.array([400])

    def measured(by):
        given, matrix = (torch.from_numpy(one.astype(np.float32)) for one in (x / by, weight * by))
        return np.array([rounded_inputs(given, torch.from_numpy(gradients), matrix)], np.float32)

    before, after = measured(1), measured(factors)
    found = Statistics(
        Importance({"m": Measured(sums, counts)}),
        Provenance("", (), 400),
        noise={"m": Measured(before, counts)},
    )
    expected = divided_statistics(found, [Smoothed(Fold("norm", "n", ("m",)), 0.5, factors)]).noise["m"].sums
    assert (after < 0.6 * before).all()
    assert np.allclose(expected, after, rtol=0.25)
