"""Types chosen for a size: beside every choice there is, beside the formula, and made again from the recipe."""

from itertools import product

import libgguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.allocation import Option, allocated, options_of
from requant.encodings import BLOCKS, F32
from requant.errors import PlanError
from requant.execution import execute
from requant.expressions import Stored
from requant.formats import FORMATS
from requant.formats import open as open_model
from requant.formats.imatrix.statistics import statistics_checkpoint
from requant.importance import Importance, Measured
from requant.ir import Tensor, TensorSpec
from requant.layout import LayoutOptions
from requant.plan import Plan, Step
from requant.sources import Memory
from requant.statistics import Provenance, Statistics
from tests.command import run
from tests.tiny_gguf import write_tiny_llama


def option(nbytes, loss):
    return Option(BLOCKS["Q4_0"], nbytes, loss)


tensors = st.lists(
    st.lists(st.builds(option, st.integers(1, 40), st.floats(0, 10)), min_size=1, max_size=4), min_size=1, max_size=5
)


@given(tensors, st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_what_is_chosen_fits_and_is_near_the_best(options, spare):
    """Never above the budget; never worse than the best by more than one tensor's whole loss (the greedy's bound)."""
    budget = sum(min(o.nbytes for o in one) for one in options) + spare
    chosen = allocated(options, budget)
    assert sum(o.nbytes for o in chosen) <= budget
    best = min(sum(o.loss for o in many) for many in product(*options) if sum(o.nbytes for o in many) <= budget)
    worst_one = max(max(o.loss for o in one) for one in options)
    assert sum(o.loss for o in chosen) <= best + worst_one + 1e-9


def test_upgrades_go_where_they_save_most_for_a_byte():
    options = [[option(10, 8.0), option(20, 1.0)], [option(10, 8.0), option(20, 7.0)]]
    assert [o.nbytes for o in allocated(options, 30)] == [20, 10]
    with pytest.raises(PlanError, match="the smallest types take 20 bytes, and 19"):
        allocated(options, 19)


def statistics(entries, outputs=None, lookups=None, tokens=2048):
    return Statistics(
        Importance(entries, ("t",), 4, 512), Provenance("m", ("x",), tokens), outputs or {}, lookups or {}
    )


def step_of(name, values):
    tensor = Tensor(name, values.shape, F32, {"data": Memory(values.astype("<f4").tobytes())})
    return Step(Stored(tensor), TensorSpec(name, values.shape, BLOCKS["Q4_0"]))


def test_predicted_loss_is_the_formula():
    random = np.random.default_rng(3)
    values = random.normal(0, 1, (4, 8, 64)).astype(np.float32)  # four experts
    x2, g2 = random.random((4, 64)).astype(np.float32), random.random((4, 8)).astype(np.float32)
    counts, graded = np.array([900, 100, 548, 500]), np.array([90, 10, 55, 50])
    found = statistics(
        {"e": Measured(x2 * counts[:, None].astype(np.float32), counts)},
        {"e": Measured(g2 * graded[:, None].astype(np.float32), graded)},
    )
    ((small, _),) = options_of([step_of("e", values)], found, ["Q4_0", "Q8_0"])
    expected = 0.0
    for e in range(4):
        packed = libgguf.quantize_rows(values[e], libgguf.GGMLQuantizationType.Q4_0, x2[e])
        again = libgguf.dequantize_rows(packed, libgguf.GGMLQuantizationType.Q4_0)
        error = np.square(again.reshape(8, 64) - values[e])
        expected += 0.5 * counts[e] / 2048 * float(g2[e] @ error @ x2[e])
    assert small.nbytes == 4 * 8 * 2 * 18
    assert small.loss == pytest.approx(expected, rel=1e-4)


def test_rows_of_an_embedding_count_as_often_as_they_are_looked_up():
    values = np.random.default_rng(4).normal(0, 1, (6, 32)).astype(np.float32)
    counts, g2 = np.array([1000, 0, 24, 0, 1024, 0]), np.full((1, 32), 2.0, np.float32)
    found = statistics({}, {"other": Measured(np.ones((1, 1), np.float32), np.array([1]))}, {"t": Measured(g2, counts)})
    ((only,),) = options_of([step_of("t", values)], found, ["Q4_0"])
    packed = libgguf.quantize_rows(values, libgguf.GGMLQuantizationType.Q4_0)
    error = np.square(libgguf.dequantize_rows(packed, libgguf.GGMLQuantizationType.Q4_0).reshape(6, 32) - values)
    assert only.loss == pytest.approx(0.5 * float((counts / 2048) @ error @ (g2[0] / 2048)), rel=1e-4)


@pytest.mark.parametrize(
    ("found", "said"),
    (
        (statistics({}, tokens=9), "of 9 tokens, too few"),
        (statistics({}), "t is to be rounded, and the statistics lack it"),
        (statistics({"t": Measured(np.ones((1, 16), np.float32), np.array([5]))}), r"inputs are \[1, 16\]"),
        (statistics({"t": Measured(np.full((1, 32), np.nan, np.float32), np.array([5]))}), "no sums of squares"),
    ),
)
def test_statistics_that_do_not_fit_are_named(found, said):
    with pytest.raises(PlanError, match=said):
        options_of([step_of("t", np.ones((6, 32), np.float32))], found, ["Q4_0"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny GGUF, and made-up statistics of it."""
    folder = tmp_path_factory.mktemp("allocation")
    write_tiny_llama(folder / "model.gguf")
    random = np.random.default_rng(6)
    entries, outputs, lookups = {}, {}, {}
    for tensor in open_model(folder / "model.gguf").tensors:
        if len(tensor.shape) == 2:
            rows, columns = tensor.shape
            entries[tensor.name] = Measured(random.random((1, columns)).astype(np.float32) * 4096, np.array([4096]))
            outputs[tensor.name] = Measured(random.random((1, rows)).astype(np.float32), np.array([4096]))
    found = statistics(entries, outputs, lookups, tokens=4096)
    checkpoint = statistics_checkpoint(found)
    steps = tuple(Step(Stored(tensor), tensor) for tensor in checkpoint.tensors)
    execute(Plan(steps, FORMATS["gguf"].layout(checkpoint, folder / "stats.gguf", LayoutOptions())))
    return folder


def test_a_file_has_the_size_and_comes_again_from_its_recipe(model, tmp_path):
    asked = ["--stats", model / "stats.gguf", "--target-bpw", 6, "--recipe-out", tmp_path / "recipe.txt"]
    result = run("requantize", model / "model.gguf", tmp_path / "one.gguf", "Q4_0", *asked)
    assert result.exit_code == 0, result.output
    assert "expected KL divergence" in result.output
    one = open_model(tmp_path / "one.gguf")
    weights = sum(int(np.prod(tensor.shape)) for tensor in one.tensors)
    assert 8 * sum(tensor.nbytes for tensor in one.tensors) <= 6 * weights
    again = ["--tensor-type-file", tmp_path / "recipe.txt", "--imatrix", model / "stats.gguf"]
    assert run("requantize", model / "model.gguf", tmp_path / "two.gguf", "Q4_0", *again).exit_code == 0
    two = {tensor.name: tensor for tensor in open_model(tmp_path / "two.gguf").tensors}
    assert {tensor.name: tensor.encoding for tensor in one.tensors} == {n: t.encoding for n, t in two.items()}
    from requant.parts import whole_parts

    for tensor in one.tensors:
        assert np.array_equal(whole_parts(tensor)["data"], whole_parts(two[tensor.name])["data"]), tensor.name


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (["--target-bpw", "5"], "a target needs --stats"),
        (["--types", "Q4_0"], "go with --target-size or --target-bpw"),
        (["--stats", "stats.gguf", "--target-size", "1K"], "the smallest types take"),
        (["--stats", "stats.gguf", "--target-bpw", "5", "--types", "F16"], "no type of blocks"),
        (["--stats", "model.gguf", "--target-bpw", "5"], "an importance matrix has the key"),
    ),
)
def test_what_cannot_be_chosen_is_told(model, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(model)
    result = run("requantize", "model.gguf", tmp_path / "out.gguf", "Q4_0", *words)
    assert result.exit_code in (2, 4) and said in result.output
    assert not (tmp_path / "out.gguf").exists()
