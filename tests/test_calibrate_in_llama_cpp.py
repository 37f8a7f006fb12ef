"""`requant calibrate --engine llama`: llama.cpp's products seen through its callback, beside llama-imatrix's own sums
(fixtures/imatrix) and beside the engine torch."""

import ctypes
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import libgguf
import numpy as np
import pytest
from gguf import GGUFReader

from requant.errors import PlanError, VerifyError
from requant.execution import execute
from requant.formats import open as open_model
from requant.formats.imatrix import read_imatrix
from requant.formats.imatrix.statistics import read_statistics
from requant.importance import Measured
from requant.operations.calibrate import Request, calibrate, plan_statistics
from requant.operations.calibrate_in_llama_cpp import calibrate_in_llama_cpp, windows_in
from requant.verify import llama_cpp
from requant.verify.llama_channel import Refused
from requant.verify.llama_cpp import LlamaCpp
from requant.verify.llama_inputs import Inputs, Tensor
from tests.command import run
from tests.models import llama_cpp_sources, minilm, smollm2
from tests.test_calibrate import FIXTURES, assert_alike, plan_of, script
from tests.tiny_gguf import write_tiny_llama

LETTERS = "the cat sat on a mat, and did not! " * 60


def in_llama_cpp(path, text, window, tokens=None):
    return calibrate_in_llama_cpp(path, open_model(path), Request((("text.txt", text),), tokens=tokens, window=window))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.mark.parametrize(("architecture", "golden"), (("llama", "experts-f32"), ("qwen3moe", "qwen3moe")))
def test_a_mixture_of_experts_has_the_sums_of_llama_imatrix(tmp_path, monkeypatch, architecture, golden):
    made, path = script("make", monkeypatch), tmp_path / "model.gguf"
    made.write_model(path, llama_cpp_sources() / "models/ggml-vocab-llama-spm.gguf", architecture)
    found = in_llama_cpp(path, made.TEXT[:160], 16, 32)  # two windows, as `--chunks 2` has them
    golden = read_imatrix(FIXTURES / f"{golden}.gguf")
    assert_alike(found.importance, golden, 1e-3)
    assert set(found.importance.entries) - set(golden.entries) == {"token_embd.weight"}  # as the head
    assert found.unreached()


@pytest.mark.slow
def test_smollm2_has_the_sums_of_llama_imatrix(tmp_path, monkeypatch):
    path = tmp_path / "f32.gguf"
    assert run("convert", smollm2(), path, "--to", "F32", "-q").exit_code == 0
    found = in_llama_cpp(path, script("make_exact", monkeypatch).SMOLLM2_TEXT, 128, 256)
    assert_alike(found.importance, read_imatrix(FIXTURES / "smollm2.gguf"), 1e-3)


def test_both_engines_find_the_same(tiny, tmp_path):
    """Windows of more than one evaluation, of which all but the first end before the head."""
    found = in_llama_cpp(tiny, LETTERS, 640, 1920)
    beside = calibrate(plan_of(tiny, tmp_path), Request((("text.txt", LETTERS),), tokens=1920, window=640))
    assert found.provenance == replace(beside.provenance, engine="llama.cpp")
    assert set(found.importance.entries) == set(beside.importance.entries)
    assert_alike(found.importance, beside.importance, 1e-3)


def test_an_encoder_of_a_folder_is_measured(tmp_path):
    """It is converted first, and sees each window at once."""
    text, out = tmp_path / "text.txt", tmp_path / "stats.gguf"
    text.write_text("The ferry left at seven, and nobody but the baker was on board. " * 20)
    result = run(
        "calibrate", minilm(), "-o", out, "--engine", "llama", "--text", text, "--tokens", 128, "--ctx", 64, "--json"
    )
    assert result.exit_code == 0, result.output
    said, found = json.loads(result.stdout), read_statistics(out)
    assert (said["engine"], said["tensors"], found.provenance.engine) == ("llama.cpp", 36, "llama.cpp")
    beside = calibrate(plan_of(minilm(), tmp_path), Request((("text.txt", text.read_text()),), 128, 64))
    for name, entry in beside.importance.entries.items():
        own = found.importance.entries[name]
        off = np.abs(own.sums - entry.sums) / entry.sums
        before_gelu = name.startswith("blk.0.") and "ffn_down" not in name  # which llama.cpp computes by tanh
        assert off.max() < 1e-3 if before_gelu else np.median(off) < 5e-3, name
        assert own.counts.tolist() == entry.counts.tolist()


def test_the_packages_own_texts_are_read_without_any(tiny, tmp_path):
    out = tmp_path / "stats.gguf"
    result = run("calibrate", tiny, "-o", out, "--engine", "llama", "--tokens", 1024)
    assert result.exit_code == 0 and "15 tensors, 1,024 tokens in windows of 512" in result.output
    assert read_imatrix(out).datasets[-1] == "requant:chat"


@pytest.mark.parametrize("option", ("--gradients", "--hessians"))
def test_what_llama_cpp_has_not_is_refused(tiny, tmp_path, option):
    result = run("calibrate", tiny, "-o", tmp_path / "stats.gguf", "--engine", "llama", option)
    assert result.exit_code == 2 and "are of --engine torch" in result.output
    with pytest.raises(PlanError, match="no more"):
        calibrate_in_llama_cpp(tiny, open_model(tiny), Request(gradients=True))


def test_a_calibration_that_was_ended_goes_on(tiny, tmp_path, monkeypatch):
    """Ended before any window and after some: what comes out is the same, to the bit; no other one goes on there."""
    request = Request((("text.txt", LETTERS),), tokens=320, window=32)
    whole, kept = calibrate_in_llama_cpp(tiny, open_model(tiny), request), replace(request, work=tmp_path / "work")
    for after in (0, 3, 4):
        genuine, calls = LlamaCpp.measure, []

        def ended(self, tokens, genuine=genuine, calls=calls, after=after):
            calls.append(tokens)
            if len(calls) > after:
                raise KeyboardInterrupt
            genuine(self, tokens)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(LlamaCpp, "measure", ended)
            calibrate_in_llama_cpp(tiny, open_model(tiny), kept)
    other = write_tiny_llama(tmp_path / "other.gguf", seed=5)
    for path, asked, what in (
        (tiny, replace(kept, seed=1), "seed"),
        (tiny, replace(kept, texts=(("text.txt", LETTERS[9:]),)), "text"),
        (tiny, replace(kept, window=64), "text and another size of windows"),
        (other, kept, "model"),
    ):
        with pytest.raises(PlanError, match=f"work holds a calibration of another {what}$"):
            calibrate_in_llama_cpp(path, open_model(path), asked)
    measured = []
    monkeypatch.setattr(LlamaCpp, "measure", lambda self, tokens: measured.append(tokens) or genuine(self, tokens))
    found = calibrate_in_llama_cpp(tiny, open_model(tiny), kept)
    assert len(measured) == 3  # of ten
    assert found.provenance == whole.provenance and set(found.importance.entries) == set(whole.importance.entries)
    for name, entry in whole.importance.entries.items():
        own = found.importance.entries[name]
        assert np.array_equal(own.sums, entry.sums) and np.array_equal(own.counts, entry.counts)


@pytest.mark.slow
def test_a_calibration_that_is_killed_goes_on(tiny, tmp_path):
    """Killed twice while it reads: what is written then is the same, to the bit."""
    text, whole, out = tmp_path / "text.txt", tmp_path / "whole.gguf", tmp_path / "stats.gguf"
    text.write_text(LETTERS * 4)
    words = ["--engine", "llama", "--text", text, "--ctx", 32, "--resume", "-q"]
    assert run("calibrate", tiny, "-o", whole, *words).exit_code == 0
    assert not whole.with_name("whole.gguf.unfinished").exists()
    kept, reached = tmp_path / "stats.gguf.unfinished" / "found.npz", []
    for _ in range(2):
        before = kept.read_bytes() if kept.exists() else b""
        process = subprocess.Popen([sys.executable, "-m", "requant", "calibrate", tiny, "-o", out, *map(str, words)])
        while process.poll() is None and (not kept.exists() or kept.read_bytes() == before):
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL and not out.exists()
        with np.load(kept) as file:
            reached.append(json.loads(file["said"].tobytes())["done"])
    assert 0 < reached[0] < reached[1]
    result = run("calibrate", tiny, "-o", out, *words, "--seed", 1)
    assert result.exit_code == 4 and "holds a calibration of another seed" in result.output
    assert run("calibrate", tiny, "-o", out, *words).exit_code == 0
    assert out.read_bytes() == whole.read_bytes() and not kept.parent.exists()


def test_damaged_weights_are_told_by_name(tmp_path):
    path = write_tiny_llama(tmp_path / "damaged.gguf")
    tensors = {tensor.name: tensor for tensor in GGUFReader(path, "r+").tensors}
    tensors["blk.0.attn_v.weight"].data[:] = np.nan
    tensors["blk.0.attn_v.weight"].data.flush()
    with pytest.raises(VerifyError, match=r"the inputs of blk\.0\.attn_output\.weight hold NaN"):
        in_llama_cpp(path, LETTERS, 64, 64)


def test_another_release_of_xllamacpp_is_refused(tiny, monkeypatch):
    library, _ = llama_cpp.find_library()
    monkeypatch.setattr(llama_cpp, "find_library", lambda: (library, "2020.1.1"))
    with pytest.raises(VerifyError, match=r"cannot show what matrices are given; 2026\.10\.11549 can"):
        in_llama_cpp(tiny, LETTERS, 64)


class Graph:
    """Nodes of ggml in memory of this test, with a library that reads them; `host`: whether it may be read directly."""

    def __init__(self, host=True):
        self.kept, self.fetched = [], 0

        def fetch(address, destination, offset, nbytes):
            self.fetched += 1
            ctypes.memmove(destination, Tensor.from_address(address).data + offset, nbytes)

        self.library = SimpleNamespace(
            ggml_op_name=lambda n: (b"NONE", b"MUL_MAT", b"MUL_MAT_ID")[n],
            ggml_nbytes=lambda address: self._nbytes(Tensor.from_address(address)),
            ggml_backend_buffer_is_host=lambda buffer: host,
            ggml_backend_tensor_get=fetch,
        )
        for function in vars(self.library).values():
            self.kept.append(function)

    @staticmethod
    def _nbytes(tensor):
        return 4 + sum((n - 1) * step for n, step in zip(tensor.ne, tensor.nb, strict=True))

    def tensor(self, values, name="", kind=0):
        values = values[(None,) * (4 - values.ndim)]
        made = Tensor(type=kind, name=name.encode(), data=values.ctypes.data)
        made.ne[:], made.nb[:] = values.shape[::-1], values.strides[::-1]
        self.kept += [made, values]
        return made

    def node(self, op, *sources):
        made = Tensor(op=op)
        for n, source in enumerate(sources):
            made.src[n] = ctypes.addressof(source)
        self.kept.append(made)
        return ctypes.addressof(made)


def inputs_of(graph, *nodes, names=("w",)):
    inputs = Inputs(graph.library, names, lambda fraction: None)
    inputs.begin()
    shown = [node for node in nodes if inputs._called(node, True, None)]
    assert all(inputs._called(node, False, None) for node in shown) or inputs._error
    inputs.end()
    message, values = inputs.answer()
    return message["entries"], values


@pytest.mark.parametrize("host", (True, False))
def test_rows_that_lie_apart_and_are_elsewhere_are_read(host):
    graph, whole = Graph(host), np.random.default_rng(0).standard_normal((7, 9)).astype(np.float32)
    x = whole[::2, :5]
    weight = graph.tensor(np.zeros((3, 5), np.float32), "CUDA0#w#0")
    entries, values = inputs_of(graph, graph.node(1, weight, graph.tensor(x)))
    assert entries == [["w", 1, 5, [4]]] and graph.fetched == (not host)
    assert np.allclose(values, (x**2).sum(0))


def test_a_stack_of_matrices_has_its_columns_one_after_another():
    """Two matrices, each for two of four, as ggml spreads them."""
    graph, x = Graph(), np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    weight = graph.tensor(np.zeros((2, 6, 5), np.float32), "w")
    entries, values = inputs_of(graph, graph.node(1, weight, graph.tensor(x)))
    assert entries == [["w", 1, 10, [6]]]
    assert np.allclose(values.reshape(2, 5), (x**2).sum(1).reshape(2, 2, 5).sum(1))


@pytest.mark.parametrize("shared", (True, False))
def test_experts_are_given_what_chose_them(shared):
    """shared: one input of a token for all of its experts, or each its own; ids are a part of longer rows."""
    graph, rng = Graph(), np.random.default_rng(0)
    ids = rng.permuted(np.tile(np.arange(4, dtype=np.int32), (6, 1)), axis=1)[:, :2]
    x = rng.standard_normal((6, 1 if shared else 2, 5)).astype(np.float32)
    weight = graph.tensor(np.zeros((5, 3, 5), np.float32), "w")
    entries, values = inputs_of(graph, graph.node(2, weight, graph.tensor(x), graph.tensor(ids, kind=26)))
    counts, sums = np.zeros(5, int), np.zeros((5, 5))
    for token, row in enumerate(ids):
        for place, expert in enumerate(row):
            counts[expert] += 1
            sums[expert] += x[token, 0 if shared else place] ** 2
    assert entries == [["w", 5, 5, counts.tolist()]]
    assert np.allclose(values.reshape(5, 5), sums, rtol=1e-5)


def test_an_evaluation_that_multiplies_others_is_refused():
    """The head comes last at first, and later not."""
    graph = Graph()
    given = graph.tensor(np.ones((4, 5), np.float32), "result_norm")
    product = graph.node(1, graph.tensor(np.zeros((3, 5), np.float32), "output.weight"), given)
    inputs = Inputs(graph.library, ["output.weight"], lambda fraction: None)
    for times in (1, 2):
        inputs.begin()
        for _ in range(times):
            assert inputs._called(product, False, None)
        if times == 1:
            inputs.end()
    with pytest.raises(Refused, match="multiplied 2 matrices, and 1"):
        inputs.end()


def divergence_by_transformers(folder, text_windows, rounded):
    """Mean KL of a folder's model from itself with some matrices as `rounded` makes them."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def said():
        with torch.no_grad():
            logits = [model(torch.tensor([window[:-1]])).logits[0] for window in text_windows]
        return torch.cat(logits).double().log_softmax(-1)

    before = said()
    for name, weight in model.named_parameters():
        if (values := rounded(name, weight.detach().numpy())) is not None:
            weight.data = torch.from_numpy(values)
    after = said()
    return float((before.exp() * (before - after)).sum(-1).mean())


def test_a_role_costs_what_rounding_its_matrices_does(tiny, tmp_path):
    """By ggml's own reference, run by transformers; llama.cpp rounds inputs to 8 bits besides."""
    folder = tmp_path / "folder"
    assert run("convert", tiny, folder, "--to", "F32", "-q").exit_code == 0
    request = Request((("text.txt", LETTERS),), tokens=640, window=64, roles=tmp_path)
    found = calibrate_in_llama_cpp(tiny, open_model(tiny), request)
    roles = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}
    assert set(found.roles) >= roles and not (tmp_path / "rounded.gguf").exists()
    with LlamaCpp(tiny, n_ctx=64) as llama:
        windows = windows_in(llama, request)[:8]
    kind, share = libgguf.GGMLQuantizationType.Q4_0, 0.0

    def rounded(name, values):
        nonlocal share
        if not name.endswith("mlp.down_proj.weight"):
            return None
        x2 = found.importance.weights(f"blk.{name.split('.')[2]}.ffn_down.weight")[0]
        again = libgguf.dequantize_rows(libgguf.quantize_rows(values, kind, x2), kind).reshape(values.shape)
        share += 0.5 * float((np.square(again - values) @ x2).sum() / (np.square(values) @ x2).sum())
        return again.astype(np.float32)

    told = found.roles["ffn_down"]
    assert told.counts.tolist() == [8]
    assert told.sums[0, 1] / 8 == pytest.approx(divergence_by_transformers(folder, windows, rounded), rel=0.15)
    assert told.sums[0, 0] / 8 == pytest.approx(share, rel=1e-3)


def test_types_are_chosen_by_what_roles_have_cost(tiny, tmp_path):
    """The same file of statistics with a role that costs a thousand times as much: its matrices get the bits."""
    stats, text = tmp_path / "stats.gguf", tmp_path / "text.txt"
    text.write_text(LETTERS * 2)
    words = ["calibrate", tiny, "-o", stats, "--engine", "llama", "--text", text, "--ctx", 64, "--roles"]
    result = run(*words)
    assert result.exit_code == 0 and "divergences of 9 roles" in result.output, result.output
    found, bits = read_statistics(stats), {}
    for role in ("attn_output", "ffn_up"):
        entry = found.roles[role]
        dear = Measured(entry.sums * np.array([1, 1000], np.float32), entry.counts)
        execute(plan_statistics(replace(found, roles={**found.roles, role: dear}), tmp_path / f"{role}.gguf"))
        made = tmp_path / f"{role}-made.gguf"
        wish = ["--stats", tmp_path / f"{role}.gguf", "--target-bpw", 5.5, "--types", "Q4_0,Q5_0,Q8_0", "--json"]
        said = run("requantize", tiny, made, "Q4_K_M", *wish)
        assert said.exit_code == 0, said.output
        assert json.loads(said.stdout)["expected_kl"] > 0
        types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(made).tensors}
        bits[role] = [types[f"blk.{n}.{other}.weight"] for other in ("attn_output", "ffn_up") for n in range(2)]
    assert bits["attn_output"][:2] == ["Q8_0", "Q8_0"] != bits["ffn_up"][:2]
    assert bits["ffn_up"][2:] == ["Q8_0", "Q8_0"] != bits["attn_output"][2:]
    frontier = run("requantize", tiny, "--stats", stats, "--frontier", "--types", "Q4_0,Q5_0,Q8_0", "--json")
    assert frontier.exit_code == 0 and json.loads(frontier.stdout)["points"]


@pytest.mark.parametrize(
    "words", (["--roles"], ["--engine", "llama", "--roles", "-o", "x.dat"], ["--merge", "other.gguf", "--roles"])
)
def test_roles_where_none_are_measured_are_refused(tiny, tmp_path, words):
    result = run("calibrate", tiny, "-o", tmp_path / "stats.gguf", *words)
    assert result.exit_code == 2 and "--roles" in result.output


def test_the_roles_of_an_encoder_are_refused(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The ferry left at seven, and nobody but the baker was on board. " * 20)
    words = ["--engine", "llama", "--text", text, "--tokens", 128, "--ctx", 64, "--roles"]
    result = run("calibrate", minilm(), "-o", tmp_path / "stats.gguf", *words)
    assert result.exit_code != 0 and "an encoder predicts no next token" in result.output


def test_roles_that_are_of_the_type_already_are_left_out(tiny, tmp_path):
    """Nothing changes, so that nothing is known of what an error costs; the file is read all the same."""
    stored, out, text = tmp_path / "stored.gguf", tmp_path / "stats.gguf", tmp_path / "text.txt"
    text.write_text(LETTERS)
    assert run("requantize", tiny, stored, "Q4_0", "--pure", "-q").exit_code == 0
    words = ["--engine", "llama", "--text", text, "--tokens", 1024, "--ctx", 64, "--roles"]
    assert run("calibrate", stored, "-o", out, *words).exit_code == 0
    assert "attn_q" not in read_statistics(out).roles
