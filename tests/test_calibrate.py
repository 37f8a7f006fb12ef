"""`requant calibrate`: its sums beside llama-imatrix's own (fixtures/imatrix), its gradients beside autograd's."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import libgguf
import numpy as np
import pytest

from requant.calibration.outer import Outer
from requant.errors import FormatError, PlanError, VerifyError
from requant.formats import FORMATS
from requant.formats import open as open_model
from requant.formats.imatrix import read_imatrix
from requant.formats.imatrix.legacy import legacy_bytes
from requant.formats.imatrix.statistics import read_statistics
from requant.importance import Importance, Measured
from requant.operations.calibrate import Request, calibrate
from requant.operations.convert import Request as Conversion
from requant.operations.convert import plan_conversion
from requant.statistics import Provenance, Statistics, check_finite, merged
from tests import tiny_models
from tests.command import run
from tests.models import llama_cpp_sources, minilm, smollm2

FIXTURES = Path(__file__).parents[1] / "fixtures/imatrix"


def script(name, monkeypatch):
    monkeypatch.syspath_prepend(FIXTURES)
    spec = importlib.util.spec_from_file_location(name, FIXTURES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan_of(path, folder):
    return plan_conversion(open_model(path), FORMATS["safetensors"], folder / "plan", Conversion("F32"))


def assert_alike(ours, golden, tolerance):
    assert set(golden.entries) <= set(ours.entries)
    assert (ours.chunks, ours.chunk_tokens) == (golden.chunks, golden.chunk_tokens)
    for name, entry in golden.entries.items():
        assert ours.entries[name].counts.tolist() == entry.counts.tolist(), name
        assert np.allclose(ours.entries[name].sums, entry.sums, rtol=tolerance, atol=0), name


def test_a_mixture_of_experts_has_the_sums_of_llama_imatrix(tmp_path, monkeypatch):
    made = script("make", monkeypatch)
    made.write_model(tmp_path / "model.gguf", llama_cpp_sources() / "models/ggml-vocab-llama-spm.gguf")
    begin = made.TEXT[:160]  # two windows, as `--chunks 2` has them
    request = Request((("text.txt", begin),), tokens=32, window=16)
    found = calibrate(plan_of(tmp_path / "model.gguf", tmp_path), request)
    assert_alike(found.importance, read_imatrix(FIXTURES / "experts-f32.gguf"), 1e-3)
    assert found.unreached() == {
        name: int((entry.counts == 0).sum())
        for name, entry in read_imatrix(FIXTURES / "experts-f32.gguf").entries.items()
        if (entry.counts == 0).any()
    }


@pytest.mark.slow
def test_smollm2_has_the_sums_of_llama_imatrix(tmp_path, monkeypatch):
    golden = read_imatrix(FIXTURES / "smollm2.gguf")
    request = Request((("text.txt", script("make_exact", monkeypatch).SMOLLM2_TEXT),), tokens=256, window=128)
    found = calibrate(plan_of(smollm2(), tmp_path), request)
    assert_alike(found.importance, golden, 1e-3)


def test_the_old_form_is_the_one_that_llama_imatrix_writes():
    assert legacy_bytes(read_imatrix(FIXTURES / "experts.gguf")) == (FIXTURES / "experts.dat").read_bytes()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny llama with a head of its own and one token for each byte that matters."""
    folder = tmp_path_factory.mktemp("calibrate") / "model"
    tiny_models.make("llama", folder)
    return folder


def ids_as_text(monkeypatch, count=1200):
    """The tiny models have no tokenizer: tokens are drawn."""
    import requant.operations.calibrate as operation
    from requant.verify.logits import windows

    drawn = np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, count).tolist()

    def windows_of(skeleton, folder, request):
        return [window.tokens for window in windows(drawn, request.window, None, None)]

    monkeypatch.setattr(operation, "windows_of", windows_of)
    return [drawn[i : i + 64] for i in range(0, count - 63, 64)]


def test_gradients_are_those_of_the_whole_model(tiny, tmp_path, monkeypatch):
    """One window at a time through transformers' own model, with the same signs drawn."""
    import torch
    import transformers

    windows = ids_as_text(monkeypatch)
    found = calibrate(plan_of(tiny, tmp_path), Request(window=64, gradients=True, seed=3))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    layer = model.model.layers[0]
    noted = {"down": 0.0, "embedding": 0.0, "weighted": 0.0, "noise": 0.0}
    outputs, inputs = [], []

    def note(module, given, out):
        out.retain_grad()
        outputs.append(out)
        inputs[:] = [given[0][0].detach().double().numpy()]

    layer.mlp.down_proj.register_forward_hook(note)
    weight = layer.mlp.down_proj.weight.detach().double().numpy()
    model.model.embed_tokens.register_forward_hook(lambda module, given, out: outputs.append(out.requires_grad_()))
    for number, window in enumerate(windows):
        outputs.clear()
        embedding = model.model.embed_tokens(torch.tensor([window])).detach().requires_grad_()
        outputs.clear()
        logits = model(inputs_embeds=embedding, use_cache=False).logits[0]
        generator = torch.Generator().manual_seed(3 * 1_000_003 + number)
        p = torch.softmax(logits.detach(), -1)
        signs = 2 * torch.randint(0, 2, p.shape, generator=generator, dtype=torch.int8) - 1
        logits.backward(p.sqrt() * signs - p * (p.sqrt() * signs).sum(-1, keepdim=True))
        noted["down"] = noted["down"] + outputs[0].grad[0].square().sum(0).double().numpy()
        x, g = inputs[0], outputs[0].grad[0].double().numpy()
        g2 = np.square(g)
        noted["weighted"] = noted["weighted"] + (g2.sum(1)[:, None] * x**2).sum(0)
        steps = np.repeat(np.abs(x).reshape(len(x), -1, 32).max(2), 32, axis=1) / 127
        off = x - np.round(x / steps) * steps
        noted["noise"] += 0.5 * float(((g @ weight) ** 2 * off**2).sum())
        noted["embedding"] = noted["embedding"] + embedding.grad[0].square().sum(0).double().numpy()
    tokens = sum(map(len, windows))
    assert found.provenance.gradient_tokens == tokens
    assert np.allclose(found.outputs["blk.0.ffn_down.weight"].sums[0], noted["down"], rtol=1e-4)
    assert np.allclose(found.lookups["token_embd.weight"].sums[0], noted["embedding"], rtol=1e-4)
    assert np.allclose(found.weighted["blk.0.ffn_down.weight"].sums[0], noted["weighted"], rtol=1e-4)
    noise = found.noise["blk.0.ffn_down.weight"]
    assert np.isclose(noise.sums[0, 1], noted["noise"], rtol=1e-3) and noise.counts.tolist() == [tokens]
    assert noise.sums[0, 0] == 0  # its rows have no whole blocks of 256
    means = noted["weighted"] / noted["down"].sum()
    assert np.allclose(found.rounding.weights("blk.0.ffn_down.weight")[0], means, rtol=1e-4)
    assert np.isclose(found.rounding.outputs["blk.0.ffn_down.weight"], noted["down"].mean() / tokens, rtol=1e-4)
    counts = np.bincount(np.ravel(windows), minlength=tiny_models.VOCABULARY)
    assert found.lookups["token_embd.weight"].counts.tolist() == counts.tolist()
    assert set(found.outputs) == set(found.importance.entries)


@pytest.mark.parametrize(("name", "kind"), (("coarse", "Q4_0"), ("fine", "Q5_0")))
def test_a_trial_is_the_whole_model_rounded(tiny, tmp_path, monkeypatch, name, kind):
    """By ggml's own reference, and run by transformers; windows are four for each one with gradients."""
    import torch
    import transformers

    windows = ids_as_text(monkeypatch)[:8]
    found = calibrate(plan_of(tiny, tmp_path), Request(window=64, gradients=True, gradient_tokens=128))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    words = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    words |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    truth = [model(torch.tensor([window])).logits[0].log_softmax(-1).detach() for window in windows]
    predicted, encoding = 0.0, libgguf.GGMLQuantizationType[kind]
    for module, weight in ((key.rsplit(".", 1)[0], value) for key, value in model.named_parameters()):
        parts = module.split(".")
        if weight.ndim < 2:
            continue
        values = weight.detach().numpy().copy()
        if parts[-1] == "embed_tokens":
            columns = None
        elif parts[-1] == "lm_head":
            columns = "output.weight"
        else:
            columns = f"blk.{parts[2]}.{words[parts[-1]]}.weight"
        x2 = None if columns is None else found.rounding.weights(columns)[0]
        rounded = libgguf.dequantize_rows(libgguf.quantize_rows(values, encoding, x2), encoding).reshape(values.shape)
        error = np.square(rounded - values).astype(np.float64)
        if columns is None:
            seen = np.bincount(np.ravel(windows), minlength=len(values)) / np.size(windows)
            lookups = found.lookups["token_embd.weight"]
            predicted += 0.5 * float(seen @ error @ lookups.sums[0]) / lookups.counts.sum()
        else:
            g2 = found.outputs[columns].sums[0] / 128
            if parts[-1] in ("q_proj", "k_proj"):  # a GGUF has the pairs that RoPE turns side by side
                g2 = g2.reshape(-1, model.config.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
            predicted += 0.5 * float(g2 @ error @ x2)
        weight.data = torch.from_numpy(rounded)
    kl = []
    for window, expected in zip(windows, truth, strict=True):
        said = model(torch.tensor([window])).logits[0].log_softmax(-1).detach()
        kl.append(float((expected.exp() * (expected - said)).sum(-1).mean()))
    trial = found.trials[name]
    # sums in files are singles: of two scales that are as good, their last bit chooses in a block of hundreds
    assert trial.counts.tolist() == [8] and trial.sums[0, 1] / 8 == pytest.approx(np.mean(kl), rel=1e-2)
    assert trial.sums[0, 0] / 8 == pytest.approx(predicted, rel=1e-3)


def test_outputs_lie_in_the_rows_of_the_gguf(tiny, tmp_path, monkeypatch):
    """q's rows change places on the way to a GGUF, and so do their gradients."""
    from requant.calibration.naming import ggml_moves

    ids_as_text(monkeypatch)
    plan = plan_of(tiny, tmp_path)
    found = calibrate(plan, Request(window=64, gradients=True))
    move = next(move for move in ggml_moves(plan) if move.name == "blk.0.attn_q.weight")
    order = [move.values.origin(row)[1] for row in range(64)]
    assert order != list(range(64))
    as_gguf = tmp_path / "model.gguf"
    assert run("convert", tiny, as_gguf, "--to", "F32", "--no-vocab", "-q").exit_code == 0
    again = calibrate(plan_of(as_gguf, tmp_path / "again"), Request(window=64, gradients=True))
    for name, entry in found.outputs.items():
        assert np.allclose(again.outputs[name].sums, entry.sums, rtol=1e-3), name
    assert again.provenance.model == found.provenance.model


def test_statistics_come_back_from_their_file_and_are_added_up(tiny, tmp_path, monkeypatch):
    ids_as_text(monkeypatch)
    one, both = tmp_path / "one.gguf", tmp_path / "both.gguf"
    result = run("calibrate", tiny, "-o", one, "--ctx", 64, "--gradients", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["document"] == "calibration" and said["tokens"] == said["gradient_tokens"] == 64 * 18
    assert run("calibrate", "--merge", one, one, "-o", both).exit_code == 0
    single, double = read_statistics(one), read_statistics(both)
    assert double.provenance.tokens == 2 * single.provenance.tokens
    for name, entry in single.outputs.items():
        assert np.array_equal(double.outputs[name].sums, 2 * entry.sums)
        assert np.array_equal(double.outputs[name].counts, 2 * entry.counts)
    for name in single.importance.entries:
        assert np.array_equal(double.importance.weights(name), single.importance.weights(name))
    assert np.array_equal(double.lookups["token_embd.weight"].counts, 2 * single.lookups["token_embd.weight"].counts)


def test_an_encoder_has_inputs_and_no_gradients(tmp_path):
    """Of all-MiniLM-L6-v2 each of six layers has six matrices."""
    text = (("text.txt", "The ferry left at seven, and nobody but the baker was on board. " * 80),)
    plan = plan_of(minilm(), tmp_path)
    found = calibrate(plan, Request(text, tokens=128, window=64))
    layers = [name for name in found.importance.entries if name.startswith("blk.")]
    assert len(layers) == 36 and "blk.5.ffn_down.weight" in layers
    assert all(found.importance.entries[name].counts.tolist() == [128] for name in layers)
    with pytest.raises(PlanError, match="an encoder predicts no next token"):
        calibrate(plan, Request(text, tokens=128, window=64, gradients=True))


def made(model="m", value=1.0, chunk_tokens=64):
    entry = Measured(np.full((1, 4), value, np.float32), np.array([7]))
    return Statistics(Importance({"blk.0.ffn_up.weight": entry}, ("t",), 1, chunk_tokens), Provenance(model, ("x",), 7))


def test_statistics_of_different_models_are_not_added_up():
    with pytest.raises(PlanError, match="of different models"):
        merged([made(), made("other")])
    with pytest.raises(PlanError, match="windows of different lengths"):
        merged([made(), made(chunk_tokens=32)])


def test_what_is_no_number_is_named():
    with pytest.raises(PlanError, match=r"inputs of blk\.0\.ffn_up\.weight hold NaN"):
        check_finite(made(value=np.inf))


def test_an_importance_matrix_of_others_is_no_statistics():
    with pytest.raises(FormatError, match="does not say of which model"):
        read_statistics(FIXTURES / "experts.gguf")


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (["-o", "x.txt"], "statistics are .gguf, or .dat"),
        (["-o", "x.dat", "--gradients"], "no place for gradients"),
        (["-o", "x.dat", "--hessians"], "no place for gradients and Hessians"),
        (["-o", "x.gguf", "--text", "short.txt"], "too few to calibrate with"),
        (["more", "-o", "x.gguf"], "runs one MODEL"),
    ),
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("Too short.")
    result = run("calibrate", smollm2(), *words)
    assert result.exit_code in (2, 4) and said in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]


@pytest.mark.parametrize("gradients", (False, True))
def test_tables_as_large_as_the_vocabulary_stay_out_of_memory(tiny, tmp_path, monkeypatch, gradients):
    """Gradients begin at the head, and a trial ends there: it alone is there, while they do."""
    from requant.calibration.skeleton import Skeleton

    filled, genuine = [], Skeleton._values

    def noted(self, name, shape):
        filled.append(name)
        return genuine(self, name, shape)

    ids_as_text(monkeypatch)
    monkeypatch.setattr(Skeleton, "_values", noted)
    found = calibrate(plan_of(tiny, tmp_path), Request(window=64, gradients=gradients))
    assert "model.norm.weight" in filled and "model.embed_tokens.weight" not in filled
    assert filled.count("lm_head.weight") == (3 if gradients else 0)  # where gradients begin, and for two trials
    assert found.importance.entries["output.weight"].counts.tolist() == [18 * 64]


@pytest.mark.parametrize("name", ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"))
def test_damaged_weights_are_told_by_name(tmp_path, monkeypatch, name):
    from safetensors.torch import load_file, save_file

    tiny_models.make("llama", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors[name].fill_(np.nan)
    save_file(tensors, path, {"format": "pt"})
    ids_as_text(monkeypatch)
    with pytest.raises(VerifyError, match=f"{name} holds NaN"):
        calibrate(plan_of(tmp_path / "model", tmp_path), Request(window=64))


def test_states_that_were_cut_off_are_told(tmp_path):
    import torch

    from requant.calibration.states import States

    states = States(tmp_path / "0.states", 4, 3).make_room(2)
    states[1] = torch.arange(12.0).reshape(4, 3)
    assert torch.equal(states[1][0], torch.arange(12.0).reshape(4, 3))
    with (tmp_path / "0.states").open("r+b") as file:
        file.truncate(90)
    with pytest.raises(PlanError, match=r"0\.states is cut off"):
        states[1]


def test_a_full_disk_is_an_error_and_no_crash(tiny, tmp_path, monkeypatch):
    """Room for what lies between layers is found before anything is written there."""
    import errno

    from requant import system

    def full(descriptor, nbytes):
        raise OSError(errno.ENOSPC, "No space left on device")

    ids_as_text(monkeypatch)
    plan = plan_of(tiny, tmp_path)
    monkeypatch.setattr(system, "reserve", full)
    with pytest.raises(OSError, match="No space left"):
        calibrate(plan, Request(window=64))


def test_hessians_are_the_outer_products_of_the_whole_model(tiny, tmp_path, monkeypatch):
    """Beside hooks on transformers' own model; each input is kept once, and what is added up doubles."""
    import torch
    import transformers

    windows = ids_as_text(monkeypatch)
    one, both = tmp_path / "one.gguf", tmp_path / "both.gguf"
    result = run("calibrate", tiny, "-o", one, "--ctx", 64, "--hessians", "--json")
    assert result.exit_code == 0, result.output
    assert run("calibrate", "--merge", one, one, "-o", both).exit_code == 0
    single, double = read_statistics(one), read_statistics(both)
    assert json.loads(result.stdout)["hessians"] == 4 * 2 + 1  # of a layer: q, k, v; output; gate, up; down
    names = {matrix.name for matrices in single.hessians.values() for matrix in matrices}
    assert single.hessians["blk.1.attn_v.weight"][0].name in {"blk.1.attn_q.weight", "blk.1.attn_k.weight"} & names

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    layer, noted = model.model.layers[1], {}
    places = {"attn_v": layer.self_attn.v_proj, "ffn_down": layer.mlp.down_proj, "ffn_up": layer.mlp.up_proj}
    for key, module in places.items():
        module.register_forward_hook(
            lambda module, given, out, key=key: noted.setdefault(key, []).append(given[0].flatten(0, -2))
        )
    with torch.no_grad():
        for window in windows:
            model(torch.tensor([window]), use_cache=False)
    for key, inputs in noted.items():
        x = torch.cat(inputs).double()
        wanted = (x.T @ x / len(x)).numpy()
        name = f"blk.1.{key}.weight"
        for found in (single, double):
            (hessian,) = found.hessians[name]
            mean = hessian.mean()
            assert np.abs(mean - wanted).max() < 1e-5 * wanted.max(), key
    with pytest.raises(PlanError, match="not the squares beside it"):
        replace(hessian, squares=2 * hessian.squares).mean()


@pytest.mark.parametrize("columns", [256, 600])
def test_sums_of_outer_products_are_whole_though_halves_are_computed(tmp_path, columns):
    import torch

    rng, outer, key = np.random.default_rng(columns), Outer(tmp_path / "outer"), ("w", 0)
    windows = [rng.integers(-8, 9, (64, columns)).astype(np.float32) for _ in range(3)]  # exact in any order
    for window in windows:
        outer.begin_window()
        outer.add(key, torch.from_numpy(window))
    outer.end_layer()
    _, hessian = outer.found(key)
    x = np.concatenate(windows)
    assert hessian.tokens == len(x)
    assert np.array_equal(np.fromfile(tmp_path / "outer", "<f4").reshape(columns, columns), x.T @ x)


def test_each_expert_has_a_hessian_of_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    tiny_models.make("qwen35moe", folder)
    ids_as_text(monkeypatch)
    found = calibrate(plan_of(folder, tmp_path), Request(window=64, hessians=tmp_path))
    for name in ("blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight", "blk.1.ffn_down_exps.weight"):
        entry, hessians = found.importance.entries[name], found.hessians[name]
        assert [0 if one is None else one.tokens for one in hessians] == entry.counts.tolist()
        for row, one in zip(found.importance.weights(name), hessians, strict=True):
            if one is not None:
                assert np.allclose(np.diagonal(one.mean()), row, rtol=1e-4)
    gate, up = (found.hessians[f"blk.1.ffn_{part}_exps.weight"] for part in ("gate", "up"))
    assert [one and one.name for one in gate] == [one and one.name for one in up]
    with pytest.raises(PlanError, match="some of the statistics have"):
        merged([found, replace(found, hessians={})])


def test_a_file_without_one_of_its_hessians_is_damaged(tiny, tmp_path, monkeypatch):
    ids_as_text(monkeypatch)
    found = calibrate(plan_of(tiny, tmp_path), Request(window=64, hessians=tmp_path))
    left_out = {name: one for name, one in found.hessians.items() if "attn_output" not in name}
    write(replace(found, hessians=left_out), tmp_path / "damaged.gguf")
    with pytest.raises(FormatError, match=r"attn_output\.weight has no sums of x x"):
        read_statistics(tmp_path / "damaged.gguf")


def write(found, path):
    from requant.cli.calibrate import _write

    _write(found, path, overwrite=False)


def test_a_calibration_that_was_ended_goes_on(tiny, tmp_path, monkeypatch):
    """Ended in the middle of any stage, and then once more: what comes out is the same, to the bit."""
    from requant.calibration.layerwise import Layerwise

    ids_as_text(monkeypatch)
    plan = plan_of(tiny, tmp_path)
    whole = calibrate(plan, Request(window=64, gradients=True))
    work = tmp_path / "work"
    request = Request(window=64, gradients=True, work=work)
    for name, after in (
        ("_enter", 0),
        ("_layer", 5),
        ("_layer", 30),
        ("_probe", 2),
        ("_layer", 25),
        ("_leave", 0),
        ("_layer", 40),
        ("_logits", 9),
    ):
        genuine, calls = getattr(Layerwise, name), []

        def interrupted(self, *given, genuine=genuine, calls=calls, after=after):
            calls.append(None)
            if len(calls) > after:
                raise KeyboardInterrupt
            return genuine(self, *given)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Layerwise, name, interrupted)
            calibrate(plan, request)
    found = calibrate(plan, request)
    tables = (found.importance.entries, found.outputs, found.influences, found.trials)
    expected_tables = (whole.importance.entries, whole.outputs, whole.influences, whole.trials)
    for ours, expected in zip(tables, expected_tables, strict=True):
        assert set(ours) == set(expected)
        for name, entry in expected.items():
            assert np.array_equal(ours[name].sums, entry.sums) and np.array_equal(ours[name].counts, entry.counts)
    assert np.array_equal(found.lookups["token_embd.weight"].sums, whole.lookups["token_embd.weight"].sums)
    with pytest.raises(PlanError, match=r"holds a calibration of another seed$"):
        calibrate(plan, Request(window=64, gradients=True, work=work, seed=4))


def test_probes_vary_as_the_divergence_curves():
    """Their covariance is the second derivative, and each says about as much as the next: drawn labels do not."""
    from types import SimpleNamespace

    import torch

    from requant.calibration.layerwise import Layerwise

    p = torch.tensor([0.9, 0.06, 0.03, 0.01])
    probes = Layerwise._probe(SimpleNamespace(_seed=1), p.log().repeat(40_000, 1), 0)
    assert torch.allclose(probes.T @ probes / len(probes), torch.diag(p) - torch.outer(p, p), atol=3e-3)
    assert probes.sum(1).abs().max() < 1e-6  # what all logits have in common changes no prediction
    drawn = torch.multinomial(p, 40_000, replacement=True, generator=torch.Generator().manual_seed(0))
    scores = torch.nn.functional.one_hot(drawn, 4) - p
    spread = [float(one.square().sum(1).std() / one.square().sum(1).mean()) for one in (probes, scores)]
    assert spread[0] < 0.4 * spread[1]
