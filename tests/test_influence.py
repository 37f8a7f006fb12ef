"""Layers left out by block influence: beside plain torch, from calibration to the pruned model, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from requant.cli.calibrate import _write
from requant.errors import FormatError, PlanError
from requant.formats.imatrix.statistics import read_statistics
from requant.importance import Measured
from requant.pruning.influence import most_influential
from tests import tiny_models
from tests.command import run
from tests.models import smollm2
from tests.test_prune import statistics, weights


def requant(*arguments, code=0):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def influences_of(model, windows, layers):
    """1 - cos of what each layer is given and gives, in double precision, on average over tokens."""
    found = [[] for _ in layers]

    def note(n):
        def hook(module, given, kwargs, out):
            before = (given[0] if given else kwargs["hidden_states"])[0].double()
            after = (out[0] if isinstance(out, tuple) else out).reshape(before.shape).double()
            found[n].append(1 - (before * after).sum(1) / (before.norm(dim=1) * after.norm(dim=1)))

        return hook

    for n, layer in enumerate(layers):
        layer.register_forward_hook(note(n), with_kwargs=True)
    with torch.no_grad():
        for window in windows:
            model(torch.tensor([window]), use_cache=False)
    return np.array([float(torch.cat(one).mean()) for one in found])


def means_of(found):
    """By the number of the layer."""
    entries = [found.influences[f"blk.{n}"] for n in range(len(found.influences))]
    return np.array([entry.sums[0, 0] / entry.counts[0] for entry in entries])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Gemma 3 of seven layers whose influences are far apart; they in torch, and the tokens that were read."""
    folder = tmp_path_factory.mktemp("influence")
    made = tiny_models.make("gemma3", folder / "whole").eval()
    with torch.no_grad():
        for layer, size in zip(made.model.layers, (1, 0.1, 0.5, 0.02, 0.3, 0.05, 0.8), strict=True):
            layer.post_attention_layernorm.weight.copy_(size * (1 + layer.post_attention_layernorm.weight) - 1)
            layer.post_feedforward_layernorm.weight.copy_(size * (1 + layer.post_feedforward_layernorm.weight) - 1)
    made.save_pretrained(folder / "whole")
    with pytest.MonkeyPatch.context() as patched:
        windows = statistics(folder / "whole", folder / "stats.gguf", patched, tiny_models.VOCABULARY)
    return folder, influences_of(made, windows, made.model.layers), len(windows) * len(windows[0])


def test_influences_are_those_of_the_whole_model(model):
    folder, wanted, tokens = model
    found = read_statistics(folder / "stats.gguf")
    assert len(found.influences) == 7
    assert all(entry.counts.tolist() == [tokens] for entry in found.influences.values())
    assert np.allclose(means_of(found), wanted, rtol=1e-4)
    assert np.ptp(wanted) > 0.1


@pytest.mark.parametrize("family", ["llama", "qwen3moe", "gpt2", "bert"])
def test_influences_of_other_families(tmp_path, monkeypatch, family):
    made = tiny_models.make(family, tmp_path / "tiny").eval()
    windows = statistics(tmp_path / "tiny", tmp_path / "stats.gguf", monkeypatch, tiny_models.VOCABULARY)
    layers = next(module for module in made.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 2)
    found = read_statistics(tmp_path / "stats.gguf")
    assert np.allclose(means_of(found), influences_of(made, windows, layers), rtol=1e-4)


def test_they_are_added_up(model, tmp_path):
    folder, _, tokens = model
    requant("calibrate", "--merge", folder / "stats.gguf", folder / "stats.gguf", "-o", tmp_path / "both.gguf")
    one, both = read_statistics(folder / "stats.gguf"), read_statistics(tmp_path / "both.gguf")
    for name, entry in one.influences.items():
        assert both.influences[name].sums == 2 * entry.sums and both.influences[name].counts == [2 * tokens]


@pytest.mark.parametrize("left", [1, 4, 6])
def test_the_layers_that_change_least_go(model, tmp_path, left):
    """The bytes of the model with the same layers named by number."""
    folder, wanted, _ = model
    kept = sorted(np.argsort(-wanted)[:left].tolist())
    told = requant("prune", folder / "whole", tmp_path / "out", "--layers", left, "--stats", folder / "stats.gguf")
    named = told.split("least influence: layers ")[1].split(" ")[0]
    assert f"layers 7 -> {left}" in told
    for name, option, text in (("kept", "--keep-layers", ",".join(map(str, kept))), ("left", "--drop-layers", named)):
        requant("prune", folder / "whole", tmp_path / name, option, text, "-q")
        ours, theirs = (Path(tmp_path / one) / "model.safetensors" for one in ("out", name))
        assert ours.read_bytes() == theirs.read_bytes()
        assert json.loads((tmp_path / "out/config.json").read_text()) == json.loads(
            (tmp_path / name / "config.json").read_text()
        )


def test_with_neurons_and_zeros_in_one_pass(model, tmp_path):
    folder, wanted, _ = model
    kept = ",".join(map(str, sorted(np.argsort(-wanted)[:3].tolist())))
    options = ("--ffn", 64, "--sparsity", "2:4", "--method", "wanda", "--stats", folder / "stats.gguf", "-q")
    requant("prune", folder / "whole", tmp_path / "out", "--layers", 3, *options)
    requant("prune", folder / "whole", tmp_path / "kept", "--keep-layers", kept, *options)
    out, named = weights(tmp_path / "out"), weights(tmp_path / "kept")
    assert out.keys() == named.keys() and all(torch.equal(out[name], named[name]) for name in out)


@pytest.mark.slow
def test_smollm2_without_its_idle_layers(tmp_path):
    """The layers chosen are those of least influence in transformers' own model, on the text that was read."""
    import transformers

    requant("convert", smollm2(), tmp_path / "model", "--to", "F32", "-q")
    text = tmp_path / "text.txt"
    text.write_text("The ferry left at seven, and nobody but the baker was on board. " * 40)
    words = ("--text", text, "--tokens", 256, "--ctx", 128, "-q")
    requant("calibrate", tmp_path / "model", "-o", tmp_path / "stats.gguf", *words)
    told = requant("prune", tmp_path / "model", tmp_path / "out", "--layers", 24, "--stats", tmp_path / "stats.gguf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer(text.read_text())["input_ids"]
    found = read_statistics(tmp_path / "stats.gguf")
    windows = [ids[i : i + 128] for i in range(0, len(ids) - 127, 128)]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    chosen = [windows[0], windows[-1]]  # two windows, spread over the text
    wanted = influences_of(loaded, chosen, loaded.model.layers)
    assert np.allclose(means_of(found), wanted, rtol=1e-3)
    requant("prune", tmp_path / "model", tmp_path / "same", "--keep-layers",
            ",".join(map(str, sorted(np.argsort(-wanted)[:24].tolist()))), "-q")  # fmt: skip
    ours, theirs = (Path(tmp_path / one) / "model.safetensors" for one in ("out", "same"))
    assert ours.read_bytes() == theirs.read_bytes() and "layers 30 -> 24" in told


def entry(total, tokens=10):
    return Measured(np.array([[total]], np.float32), np.array([tokens], np.int64))


def test_of_equal_ones_the_first_stay():
    assert most_influential({f"blk.{n}": entry(1) for n in range(4)}, 4, 2) == (0, 1)
    with pytest.raises(PlanError, match=r"nothing of the influence of blk\.1"):
        most_influential({"blk.0": entry(1), "blk.2": entry(1)}, 3, 2)
    with pytest.raises(PlanError, match="of a model with 3 layers, and this one has 2"):
        most_influential({f"blk.{n}": entry(1) for n in range(3)}, 2, 1)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (entry(-1), r"blk\.2\.influence is -1 over 10 tokens"),
        (entry(20.5), r"blk\.2\.influence is 20\.5 over 10 tokens"),
        (entry(0, 0), r"blk\.2\.influence is 0 over 0 tokens"),
        (Measured(np.zeros((1, 3), np.float32), np.array([10])), r"blk\.2\.influence is .* one number"),
    ],
    ids=["negative", "large", "no-token", "three"],
)
def test_what_is_no_influence_is_named(model, tmp_path, wrong, told):
    found = read_statistics(model[0] / "stats.gguf")
    damaged = replace(found, influences={**found.influences, "blk.2": wrong})
    _write(damaged, tmp_path / "damaged.gguf", overwrite=False)
    with pytest.raises(FormatError, match=told):
        read_statistics(tmp_path / "damaged.gguf")


def test_an_influence_that_is_no_number_is_named(model, tmp_path):
    """It is never written: its bytes are put into the file."""
    path, found = tmp_path / "damaged.gguf", read_statistics(model[0] / "stats.gguf")
    _write(replace(found, influences={**found.influences, "blk.2": entry(19.0625)}), path, overwrite=False)
    mark, nan = (np.float32(value).tobytes() for value in (19.0625, np.nan))
    data = path.read_bytes()
    assert data.count(mark) == 1
    path.write_bytes(data.replace(mark, nan))
    with pytest.raises(FormatError, match=r"blk\.2\.influence is nan over 10 tokens"):
        read_statistics(path)


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--layers", "4"), 2, "--layers needs --stats"),
        (("--layers", "4", "--drop-layers", "1", "--stats"), 2, "--layers and --drop-layers cannot be used together"),
        (("--layers", "7", "--stats"), 4, "--layers 7: the model has 7, of which fewer can be left"),
        (("--layers", "0", "--stats"), 2, "0 is not in the range"),
    ],
)
def test_what_is_refused(model, tmp_path, options, code, told):
    folder = model[0]
    given = (folder / "stats.gguf",) if "--stats" in options else ()
    assert told in requant("prune", folder / "whole", tmp_path / "out", *options, *given, code=code)


def test_statistics_without_influences_are_told_by_name(model, tmp_path):
    folder = model[0]
    found = read_statistics(folder / "stats.gguf")
    for influences, told in (
        ({}, "say nothing of the influence of blk.0, and the model has 7 layers"),
        ({**found.influences, "blk.7": entry(1)}, "of a model with 8 layers, and this one has 7"),
    ):
        path = tmp_path / "other.gguf"
        _write(replace(found, influences=influences), path, overwrite=True)
        words = ("prune", folder / "whole", tmp_path / "out", "--layers", 4, "--stats", path)
        assert told in requant(*words, code=4)
