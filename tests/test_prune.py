"""`requant prune`: masks beside what the papers compute (tests/prune_reference.py), options, and what is refused."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from requant.formats import FORMATS
from requant.formats import open as open_model
from requant.formats.imatrix import read_imatrix
from requant.importance import Importance, Measured
from requant.operations.calibrate import Request, calibrate
from requant.operations.convert import Request as Conversion
from requant.operations.convert import plan_conversion
from requant.statistics import Provenance, Statistics
from tests import prune_reference as reference
from tests import tiny_models
from tests.command import run
from tests.models import smollm2
from tests.tiny_folder import write_tiny_folder

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def requant(*arguments, code=0):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    return result.output


def weights(folder):
    return {name: tensor.float() for name, tensor in load_file(Path(folder) / "model.safetensors").items()}


def pruned_names(tensors):
    return [name for name in tensors if name.split(".")[-2] in LINEAR]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Llama of two layers in BF16, where many sizes are equal."""
    return write_tiny_folder(tmp_path_factory.mktemp("prune") / "tiny")


@pytest.mark.parametrize(
    ("options", "masks"),
    [
        (("50%",), lambda all_scores: [reference.in_tensors([scores], 0.5)[0] for scores in all_scores]),
        (("0.3", "--scope", "row"), lambda all_scores: [reference.in_rows(scores, 0.3) for scores in all_scores]),
        (("62.5%", "--scope", "model"), lambda all_scores: reference.in_tensors(all_scores, 0.625)),
        (("2:4",), lambda all_scores: [reference.in_groups(scores, 2, 4) for scores in all_scores]),
        (("4:8",), lambda all_scores: [reference.in_groups(scores, 4, 8) for scores in all_scores]),
        (("1:4",), lambda all_scores: [reference.in_groups(scores, 1, 4) for scores in all_scores]),
    ],
    ids=["tensor", "row", "model", "2:4", "4:8", "1:4"],
)
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_the_smallest_become_zero(model, tmp_path, options, masks, dtype):
    """In F32 with noise, so that lower bits count, and rows that are the same, so that ties do."""
    source = model
    if dtype == "F32":
        requant("convert", model, tmp_path / "noisy", "--to", "F32", "-q")
        source = tmp_path / "noisy"
        tensors = load_file(source / "model.safetensors")
        for name in pruned_names(tensors):
            tensors[name] += 1e-4 * torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(1))
            tensors[name][3] = tensors[name][1]
        from safetensors.torch import save_file

        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    requant("prune", source, tmp_path / "out", "--sparsity", *options, "-q")
    before, after = weights(source), weights(tmp_path / "out")
    names = pruned_names(before)
    assert len(names) == 14
    wanted = masks([before[name].abs() for name in names])
    for name, mask in zip(names, wanted, strict=True):
        assert torch.equal(after[name], before[name].masked_fill(mask, 0)), name
    for name in before.keys() - set(names):
        assert torch.equal(after[name], before[name]), name


def test_tensors_have_sparsities_of_their_own_and_some_are_skipped(model, tmp_path):
    (tmp_path / "each.txt").write_text("# of some\ndown_proj=2:4\nlayers\\.0\\.=25%\n")
    requant(
        "prune", model, tmp_path / "out", "--sparsity", "50%", "--skip", "k_proj$|k_proj\\.", "--scope", "row",
        "--sparsity-file", tmp_path / "each.txt", "-q",
    )  # fmt: skip
    before, after = weights(model), weights(tmp_path / "out")
    for name in pruned_names(before):
        size = before[name].abs()
        share = 0.25 if "layers.0." in name else 0.5
        mask = reference.in_groups(size, 2, 4) if "down_proj" in name else reference.in_rows(size, share)
        mask = mask & ("k_proj" not in name)
        assert torch.equal(after[name], before[name].masked_fill(mask, 0)), name


def tokens(count, vocabulary, seed=5):
    return np.random.default_rng(seed).integers(3, vocabulary, count).tolist()


def statistics(source, path, monkeypatch, vocabulary, count=1200, window=64, hessians=False):
    """Statistics of drawn tokens, and the windows: the tiny models have no tokenizer."""
    import requant.operations.calibrate as operation
    from requant.cli.calibrate import _write

    drawn = tokens(count, vocabulary)
    windows = [tuple(drawn[i : i + window]) for i in range(0, count - window + 1, window)]
    monkeypatch.setattr(operation, "windows_of", lambda skeleton, folder, request: windows)
    plan = plan_conversion(open_model(source), FORMATS["safetensors"], path.parent / "plan", Conversion("F32"))
    with tempfile.TemporaryDirectory() as folder:
        request = Request(window=window, hessians=Path(folder) if hessians else None)
        _write(calibrate(plan, request), path, overwrite=True)
    return windows


def norms_of(source, windows):
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    norms = reference.Norms(loaded)
    with torch.no_grad():
        for window in windows:
            loaded(torch.tensor([window]))
    return norms


def assert_masks(after, scores, mask, name):
    """The masks are the same but where the two scores are equal to the sixth digit: sums are added in another order."""
    differ = (after == 0) != mask
    if differ.any():
        bound = scores.masked_fill(~mask, 0).amax(1, keepdim=True).expand_as(scores)
        assert differ.sum() <= 1e-5 * differ.numel() + 2, (name, int(differ.sum()))
        near = (scores - bound).abs() <= 1e-5 * bound
        assert bool(near[differ].all()), name


def imatrix_of_gpt2(source, path):
    """As llama-imatrix has it: `calibrate` sees no products of [in, out] matrices."""
    from requant.cli.calibrate import _write

    drawn = tokens(1024, tiny_models.VOCABULARY)
    norms = norms_of(source, [drawn[i : i + 64] for i in range(0, 1024, 64)])
    roles = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    entries = {}
    for name, squares in norms.squares.items():
        if ".h." in name:
            layer, role = name.split(".")[2], roles[".".join(name.split(".")[3:5])]
            entries[f"blk.{layer}.{role}.weight"] = Measured(squares.numpy()[None] * 16, np.array([1024]))
    _write(Statistics(Importance(entries, ("drawn",), 16, 64), Provenance("", (), 1024)), path, overwrite=True)
    return norms


@pytest.mark.parametrize("family", ["llama", "qwen3moe", "gpt2"])
def test_wanda_has_the_masks_of_the_paper(tmp_path, monkeypatch, family):
    tiny_models.make(family, tmp_path / "tiny")
    if family == "gpt2":
        norms = imatrix_of_gpt2(tmp_path / "tiny", tmp_path / "stats.gguf")
    else:
        windows = statistics(tmp_path / "tiny", tmp_path / "stats.gguf", monkeypatch, tiny_models.VOCABULARY)
        norms = norms_of(tmp_path / "tiny", windows)
    arguments = ("--method", "wanda", "--stats", tmp_path / "stats.gguf", "-q")
    requant("prune", tmp_path / "tiny", tmp_path / "half", "--sparsity", "0.5", *arguments)
    requant("prune", tmp_path / "tiny", tmp_path / "fours", "--sparsity", "2:4", *arguments)
    before, half, fours = (weights(tmp_path / name) for name in ("tiny", "half", "fours"))
    changed = [name for name in before if not torch.equal(before[name], half[name])]
    assert changed == [name for name in before if not torch.equal(before[name], fours[name])]
    looked = [name for name in changed if name in norms.squares]
    assert len(looked) == {"llama": 14, "qwen3moe": 8, "gpt2": 8}[family]
    for name in looked:
        turned = [tensors[name].t() if family == "gpt2" else tensors[name] for tensors in (before, half, fours)]
        scores = reference.wanda_scores(turned[0], norms.of(name))
        assert_masks(turned[1], scores, reference.in_rows(scores, 0.5), name)
        assert ((turned[2] == 0) != reference.in_groups(scores, 2, 4)).sum() <= 2, name
    experts = [name for name in changed if ".experts." in name]  # in transformers they are no modules
    assert bool(experts) is (family == "qwen3moe")
    measured = read_imatrix(tmp_path / "stats.gguf")
    for name in experts:
        layer, number, role = name.split(".")[2], int(name.split(".")[5]), name.split(".")[6].removesuffix("_proj")
        entry = measured.weights(f"blk.{layer}.ffn_{role}_exps.weight")[number]
        scores = reference.wanda_scores(before[name], torch.from_numpy(entry).sqrt())
        assert torch.equal(half[name], before[name].masked_fill(reference.in_rows(scores, 0.5), 0)), name


@pytest.mark.slow
def test_wanda_on_smollm2_has_the_masks_of_the_paper(tmp_path, monkeypatch):
    """Of every eighth layer, through transformers' own model."""
    requant("convert", smollm2(), tmp_path / "model", "--to", "F32", "-q")
    windows = statistics(tmp_path / "model", tmp_path / "stats.gguf", monkeypatch, 49152, 256, 128)
    arguments = ("--method", "wanda", "--stats", tmp_path / "stats.gguf", "-q", "--skip", "layers.([1-7]|9|1[0-9]|2).")
    requant("prune", tmp_path / "model", tmp_path / "out", "--sparsity", "50%", *arguments)
    before, after, norms = weights(tmp_path / "model"), weights(tmp_path / "out"), norms_of(tmp_path / "model", windows)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) >= 14
    for name in changed:
        scores = reference.wanda_scores(before[name], norms.of(name))
        assert_masks(after[name], scores, reference.in_rows(scores, 0.5), name)


SHARES = {"50%": (0.5, 0, 0), "2:4": (0.5, 2, 4), "4:8": (0.5, 4, 8)}


def assert_as_sparsegpt(after, before, mean, sparsity, name):
    """The paper's steps in double precision: the same zeros, weights within 1e-4."""
    wanted = reference.sparsegpt(before, mean.double(), *SHARES[sparsity])
    same = ((after == 0) == (wanted == 0)).all(1)
    assert same.float().mean() >= 0.99, (name, same.float().mean())  # a row in which two scores are all but equal
    error = (after.double() - wanted)[same].norm() / wanted[same].norm()
    assert error <= 1e-4, (name, float(error))


def outer_products(source, windows, names):
    """Σ x xᵀ of what modules of transformers' model are given."""
    from transformers import AutoModelForCausalLM

    loaded, found = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval(), {}

    def hook(name):
        def add(module, given, out):
            x = given[0].detach().reshape(-1, given[0].shape[-1]).double()
            found[name] = found.get(name, 0) + x.T @ x

        return add

    for name, module in loaded.named_modules():
        if f"{name}.weight" in names:
            module.register_forward_hook(hook(f"{name}.weight"))
    with torch.no_grad():
        for window in windows:
            loaded(torch.tensor([window]))
    return found


@pytest.mark.parametrize("sparsity", SHARES)
def test_sparsegpt_has_the_weights_of_the_paper(tmp_path, monkeypatch, sparsity):
    tiny_models.make("llama", tmp_path / "tiny")
    windows = statistics(tmp_path / "tiny", tmp_path / "stats.gguf", monkeypatch, tiny_models.VOCABULARY, hessians=True)
    arguments = ("--method", "sparsegpt", "--stats", tmp_path / "stats.gguf", "--to", "F32", "-q")
    requant("prune", tmp_path / "tiny", tmp_path / "out", "--sparsity", sparsity, *arguments)
    before, after = weights(tmp_path / "tiny"), weights(tmp_path / "out")
    names = pruned_names(before)
    given = outer_products(tmp_path / "tiny", windows, names)
    assert len(names) == len(given) == 14
    for name in names:
        assert_as_sparsegpt(after[name], before[name], given[name], sparsity, name)
        assert 0.49 <= (after[name] == 0).float().mean() <= 0.52
    for name in before.keys() - set(names):
        assert torch.equal(before[name], after[name])


@pytest.mark.slow
def test_sparsegpt_on_smollm2_has_the_weights_of_the_paper(tmp_path, monkeypatch):
    """Of the first layer, in 2:4."""
    requant("convert", smollm2(), tmp_path / "whole", "--to", "F32", "-q")
    requant("prune", tmp_path / "whole", tmp_path / "model", "--keep-layers", "0", "-q")
    windows = statistics(tmp_path / "model", tmp_path / "stats.gguf", monkeypatch, 49152, 1024, 256, hessians=True)
    arguments = ("--method", "sparsegpt", "--stats", tmp_path / "stats.gguf", "-q", "--to", "F32")
    requant("prune", tmp_path / "model", tmp_path / "out", "--sparsity", "2:4", *arguments)
    before, after = weights(tmp_path / "model"), weights(tmp_path / "out")
    names = [name for name in pruned_names(before) if "layers.0." in name]
    given = outer_products(tmp_path / "model", windows, names)
    for name in names:
        assert_as_sparsegpt(after[name], before[name], given[name], "2:4", name)


def test_sparsegpt_in_a_smaller_model(tmp_path, monkeypatch):
    """Of the columns that are left, the part of the Hessian that is theirs."""
    tiny_models.make("llama", tmp_path / "tiny")
    windows = statistics(tmp_path / "tiny", tmp_path / "stats.gguf", monkeypatch, tiny_models.VOCABULARY, hessians=True)
    cuts = ("--ffn", "64", "--keep-layers", "1", "--stats", tmp_path / "stats.gguf", "--to", "F32", "-q")
    requant("prune", tmp_path / "tiny", tmp_path / "cut", *cuts)
    requant("prune", tmp_path / "tiny", tmp_path / "both", *cuts, "--sparsity", "2:4", "--method", "sparsegpt")
    whole, cut, both = (weights(tmp_path / name) for name in ("tiny", "cut", "both"))
    name, old = "model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"
    columns = [int((whole[old] == column[:, None]).all(0).nonzero()[0]) for column in cut[name].T]
    mean = outer_products(tmp_path / "tiny", windows, [old])[old][columns][:, columns]
    assert_as_sparsegpt(both[name], cut[name], mean, "2:4", name)


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_layers_with_outliers_keep_more(tmp_path, monkeypatch, method):
    """OWL's shares, from its definition: outliers of a layer, in percent, scaled to a range of twice the spread."""
    tiny_models.make("gemma3", tmp_path / "tiny")
    statistics(tmp_path / "tiny", tmp_path / "stats.gguf", monkeypatch, tiny_models.VOCABULARY)
    options = ("--method", method, *(("--stats", tmp_path / "stats.gguf") if method == "wanda" else ()), "-q")
    requant("prune", tmp_path / "tiny", tmp_path / "out", "--sparsity", "60%", "--owl", "--owl-outliers", "3", *options)
    before, after = weights(tmp_path / "tiny"), weights(tmp_path / "out")
    measured, ratios = read_imatrix(tmp_path / "stats.gguf"), []
    roles = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    roles |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    layers = [[name for name in pruned_names(before) if f"layers.{n}." in name] for n in range(7)]
    for n, names in enumerate(layers):
        scores = []
        for name in names:
            given = measured.weights(f"blk.{n}.{roles[name.split('.')[-2]]}.weight")
            size = before[name].abs()
            scores.append((size * torch.from_numpy(given).sqrt() if method == "wanda" else size).flatten())
        layer = torch.cat(scores).double()
        ratios.append(float((layer > 3 * layer.mean()).double().mean()) * 100)
    found = np.array(ratios)
    kept = (found - found.min()) / (found.max() - found.min()) * 2 * 0.08
    kept = kept - kept.mean() + 0.4
    assert np.ptp(kept) > 0.15
    for names, share in zip(layers, kept, strict=True):
        for name in names:
            zeros = float((after[name] == 0).double().mean())
            assert abs(zeros - (1 - share)) <= 1 / before[name].shape[1] + 1e-6, name


def test_straight_to_a_quantized_gguf(model, tmp_path):
    """The same bytes as by way of the pruned folder."""
    requant("prune", model, tmp_path / "sparse", "--sparsity", "2:4", "-q")
    for options in (("--to", "Q4_0"), ("--to", "Q8_0", "--pure")):
        requant("convert", tmp_path / "sparse", tmp_path / "two.gguf", *options, "-q", "-f")
        requant("prune", model, tmp_path / "one.gguf", "--sparsity", "2:4", *options, "-q", "-f")
        one, two = (run("hash", tmp_path / name).output.replace(name, "") for name in ("one.gguf", "two.gguf"))
        assert one == two


def test_a_quantized_source_becomes_plain(model, tmp_path):
    requant("convert", model, tmp_path / "w4", "--to", "W4A16-32", "-q")
    told = requant("prune", tmp_path / "w4", tmp_path / "out", "--sparsity", "50%")
    assert "what is written is BF16" in told
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    after = weights(tmp_path / "out")
    for name in pruned_names(after):
        assert (after[name] == 0).float().mean() >= 0.5


def test_the_plan_says_what_becomes_zero_and_that_nobody_gains(model, tmp_path):
    told = requant("prune", model, tmp_path / "out", "--sparsity", "50%", "--dry-run", "--tensors")
    assert "become zero (50.0%)" in told and "as much room and time as any others" in " ".join(told.split())
    assert "magnitude(model.layers.0.mlp.down_proj.weight, 50%)" in told
    document = json.loads(requant("prune", model, tmp_path / "out", "--sparsity", "2:4", "--dry-run", "--json"))
    assert any("become zero" in hint for hint in document["hints"])
    assert not (tmp_path / "out").exists()


def test_inspect_says_how_much_is_zero(model, tmp_path):
    requant("prune", model, tmp_path / "out", "--sparsity", "2:4", "-q")
    told = " ".join(requant("inspect", tmp_path / "out", "--values").split())
    count = sum(tensor.numel() for name, tensor in weights(model).items() if name in pruned_names(weights(model)))
    assert f"of {count:,} weights in 14 matrices are zero (50." in told
    assert "are zero" not in requant("inspect", model, "--values")


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ((), 2, "nothing is pruned"),
        (("--sparsity", "1.5"), 4, "'1.5' is no sparsity"),
        (("--sparsity", "100%"), 4, "is no sparsity"),
        (("--sparsity", "4:4"), 4, "is no sparsity"),
        (("--sparsity", "2:4", "--scope", "model"), 4, "--scope says nothing of it"),
        (("--sparsity", "50%", "--method", "wanda"), 2, "needs --stats"),
        (("--sparsity", "50%", "--method", "sparsegpt"), 2, "needs --stats; requant calibrate --hessians"),
        (("--sparsity", "2:4", "--owl"), 4, "OWL gives each layer a share of its own"),
        (("--drop-layers", "0", "--owl"), 2, "--owl goes with --sparsity"),
        (("--sparsity", "50%", "--skip", "."), 4, "no tensor is left to prune"),
        (("--sparsity", "50%", "--skip", "("), 2, "is no regular expression"),
    ],
)
def test_what_is_refused(model, tmp_path, options, code, told):
    result = run("prune", model, tmp_path / "out", *options)
    assert result.exit_code == code and told in " ".join(result.output.split()), result.output


def test_statistics_of_another_model_are_refused(model, tmp_path, monkeypatch):
    tiny_models.make("llama", tmp_path / "tiny")
    statistics(tmp_path / "tiny", tmp_path / "stats.gguf", monkeypatch, tiny_models.VOCABULARY)
    result = run(
        "prune", model, tmp_path / "out", "--sparsity", "0.5", "--method", "wanda", "--stats", tmp_path / "stats.gguf"
    )
    assert result.exit_code == 4 and "say nothing of model.layers.0" in " ".join(result.output.split())
    words = ("--sparsity", "0.5", "--method", "sparsegpt", "--stats", tmp_path / "stats.gguf")
    result = run("prune", tmp_path / "tiny", tmp_path / "out", *words)
    assert result.exit_code == 4 and "have no Hessian of model.layers.0" in " ".join(result.output.split())
