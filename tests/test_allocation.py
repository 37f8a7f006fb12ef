"""Types chosen for a size: beside every choice there is, beside the formula, and made again from the recipe."""

import json
import re
import shutil
import time
from dataclasses import replace
from itertools import pairwise, product

import libgguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.allocation import Knapsack, Option
from requant.divergence import check_statistics, losses_of
from requant.encodings import BLOCKS, F32
from requant.errors import PlanError
from requant.execution import execute
from requant.expected import expected_of, predicted_of
from requant.expressions import Stored
from requant.feedback import Smoothing
from requant.formats import FORMATS
from requant.formats import open as open_model
from requant.formats.imatrix.statistics import read_statistics, statistics_checkpoint
from requant.importance import Importance, Measured
from requant.ir import Tensor, TensorSpec
from requant.layout import LayoutOptions
from requant.operations.allocable import GgufTypes
from requant.operations.allocate import Question, Target, plan_allocation
from requant.operations.convert import Request as Conversion
from requant.operations.convert import plan_conversion
from requant.operations.renamed_statistics import in_names_of
from requant.operations.requantize import Request, plan_requantization
from requant.parts import whole_parts
from requant.plan import Plan, Step
from requant.recipes import RECIPES, Overrides
from requant.sources import Memory
from requant.statistics import Provenance, Statistics, fingerprint
from tests import tiny_models
from tests.command import run
from tests.stored import values_of
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
    chosen = Knapsack(options).within(budget)
    assert sum(o.nbytes for o in chosen) <= budget
    best = min(sum(o.loss for o in many) for many in product(*options) if sum(o.nbytes for o in many) <= budget)
    worst_one = max(max(o.loss for o in one) for one in options)
    assert sum(o.loss for o in chosen) <= best + worst_one + 1e-9


def test_five_hundred_tensors_take_less_than_a_second():
    """With two as large as a fifth of the model each, which leave gaps that the rest cannot fill well."""
    random = np.random.default_rng(8)
    sizes = [*random.integers(10**5, 10**7, 498), 10**9, 10**9]
    options = [
        [option(int(size * bits / 8), float(random.random() * size * 4.0**-bits)) for bits in range(1, 15)]
        for size in sizes
    ]
    knapsack, least = Knapsack(options), sum(one[0].nbytes for one in options)
    began, budget = time.process_time(), 5 * least
    chosen = knapsack.within(budget)
    assert time.process_time() - began < 1
    assert 0.9995 * budget < sum(o.nbytes for o in chosen) <= budget
    curve = knapsack.frontier()
    bound = np.interp(budget, [nbytes for nbytes, _ in curve], [loss for _, loss in curve])
    assert sum(o.loss for o in chosen) < 1.05 * bound


def test_upgrades_go_where_they_save_most_for_a_byte():
    options = [[option(10, 8.0), option(20, 1.0)], [option(10, 8.0), option(20, 7.0)]]
    assert [o.nbytes for o in Knapsack(options).within(30)] == [20, 10]
    with pytest.raises(PlanError, match="the smallest types take 20 bytes, and 19"):
        Knapsack(options).within(19)


@given(tensors, st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_a_loss_is_reached_and_the_frontier_is_what_sizes_come_to(options, spare):
    least = sum(min(o.loss for o in one) for one in options)
    asked = least + spare / 10
    assert sum(o.loss for o in Knapsack(options).reaching(asked)) <= asked + 1e-9
    curve = Knapsack(options).frontier()
    assert all(a[0] < b[0] and a[1] > b[1] - 1e-9 for a, b in pairwise(curve))
    for nbytes, loss in curve:
        best = min(sum(o.loss for o in many) for many in product(*options) if sum(o.nbytes for o in many) <= nbytes)
        assert best == pytest.approx(loss, abs=1e-9)  # what lies on the hull is the best there is
    if least > 0:
        with pytest.raises(PlanError, match="are predicted to diverge by"):
            Knapsack(options).reaching(least / 2 - 1e-9)


def statistics(entries, outputs=None, lookups=None, tokens=2048, **more):
    importance = Importance(entries, ("t",), 4, 512)
    return Statistics(importance, Provenance("m", ("x",), tokens), outputs or {}, lookups or {}, **more)


def sums(shape, value=1.0):
    """Of five tokens."""
    return {"t": Measured(np.full(shape, value, np.float32), np.array([5]))}


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
    (losses,) = losses_of([step_of("e", values)], found, [[BLOCKS["Q4_0"], BLOCKS["Q8_0"]]])
    expected = 0.0
    for e in range(4):
        packed = libgguf.quantize_rows(values[e], libgguf.GGMLQuantizationType.Q4_0, x2[e])
        again = libgguf.dequantize_rows(packed, libgguf.GGMLQuantizationType.Q4_0)
        error = np.square(again.reshape(8, 64) - values[e])
        expected += 0.5 * counts[e] / 2048 * float(g2[e] @ error @ x2[e])
    assert losses["Q4_0"] == pytest.approx(expected, rel=1e-4) and losses["Q8_0"] < expected / 50


def test_tokens_count_as_much_as_their_gradients():
    """Both in what is predicted and in how columns are weighed when they are rounded."""
    random = np.random.default_rng(3)
    values = random.normal(0, 1, (8, 64)).astype(np.float32)
    g2, felt = (random.random((1, n)).astype(np.float32) for n in (8, 64))
    plain = statistics({"m": Measured(np.ones((1, 64), np.float32), np.array([2048]))})
    counted = np.array([512])
    found = replace(plain, outputs={"m": Measured(g2 * 512, counted)}, weighted={"m": Measured(felt, counted)})
    (losses,) = losses_of([step_of("m", values)], found, [[BLOCKS["Q4_0"]]])
    means = felt[0] / (g2.sum() * 512)
    packed = libgguf.quantize_rows(values, libgguf.GGMLQuantizationType.Q4_0, means)
    again = libgguf.dequantize_rows(packed, libgguf.GGMLQuantizationType.Q4_0).reshape(8, 64)
    assert losses["Q4_0"] == pytest.approx(0.5 * float(g2[0] @ np.square(again - values) @ means), rel=1e-4)


def test_what_llama_cpp_rounds_of_inputs_depends_on_the_type():
    measured = Measured(np.array([[600.0, 40.0]], np.float32), np.array([200]))
    kind = GgufTypes(RECIPES["Q4_K_M"])
    found = [kind.noise(BLOCKS[name], measured) for name in ("Q4_K", "IQ2_XS", "Q8_0", "Q5_1")]
    assert found == pytest.approx([3.0, 3.0, 0.2, 0.2])


def test_what_is_expected_is_what_trials_have_measured():
    """Two trials: 0.1 was 0.12, and 1 was 1.6; in between is what lies between them on a line of logarithms."""
    tried = {
        name: Measured(np.array([[4 * predicted, 4 * measured]], np.float32), np.array([4]))
        for name, predicted, measured in (("coarse", 1.0, 1.6), ("fine", 0.1, 0.12))
    }
    found = statistics(sums((1, 32)), trials=tried)
    for predicted, measured in ((0.1, 0.12), (1.0, 1.6), (0.01, 0.012), (10, 16), (0.1**0.5, 0.192**0.5), (0, 0)):
        assert expected_of(predicted, found) == pytest.approx(measured, rel=1e-5)
        assert predicted_of(measured, found) == pytest.approx(predicted, rel=1e-5)
    assert expected_of(0.3, statistics(sums((1, 32)))) == 0.3
    falling = {**tried, "coarse": Measured(np.array([[4.0, 0.4]], np.float32), np.array([4]))}
    assert expected_of(1.0, statistics(sums((1, 32)), trials=falling)) == pytest.approx(1.2)  # the inverse is one


def test_rows_of_an_embedding_count_as_often_as_they_are_looked_up():
    values = np.random.default_rng(4).normal(0, 1, (6, 32)).astype(np.float32)
    counts, g2 = np.array([1000, 0, 24, 0, 1024, 0]), np.full((1, 32), 2.0, np.float32)
    found = statistics({}, {"other": Measured(np.ones((1, 1), np.float32), np.array([1]))}, {"t": Measured(g2, counts)})
    (losses,) = losses_of([step_of("t", values)], found, [[BLOCKS["Q4_0"]]])
    packed = libgguf.quantize_rows(values, libgguf.GGMLQuantizationType.Q4_0)
    error = np.square(libgguf.dequantize_rows(packed, libgguf.GGMLQuantizationType.Q4_0).reshape(6, 32) - values)
    unseen = 1 / 2049  # no token came once, which counts as one
    shares = np.where(counts > 0, counts / 2048 * (1 - unseen), unseen / 3)
    assert losses["Q4_0"] == pytest.approx(0.5 * float(shares @ error @ (g2[0] / 2048)), rel=1e-4)


def test_rows_that_llama_cpp_looks_up_count_alike():
    """Its callback shows products, and an embedding that is no head has none."""
    values = np.random.default_rng(4).normal(0, 1, (6, 32)).astype(np.float32)
    found, step = statistics({}), step_of("token_embd.weight", values)
    found = replace(found, provenance=replace(found.provenance, engine="llama.cpp"))
    check_statistics([step], found)
    (losses,) = losses_of([step], found, [[BLOCKS["Q4_0"]]])
    packed = libgguf.quantize_rows(values, libgguf.GGMLQuantizationType.Q4_0)
    error = np.square(libgguf.dequantize_rows(packed, libgguf.GGMLQuantizationType.Q4_0).reshape(6, 32) - values)
    assert losses["Q4_0"] == pytest.approx(0.5 * float(error.sum() / np.square(values).sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("found", "said"),
    (
        (statistics({}, tokens=9), "of 9 tokens, too few"),
        (statistics({}), "t is to be rounded, and the statistics lack it"),
        (statistics(sums((1, 16))), r"t: the statistics' inputs are \[1, 16\], the tensor takes \[1, 32\]"),
        (statistics(sums((2, 32))), r"t: the statistics' inputs are \[2, 32\]"),
        (
            statistics(sums((1, 32)), sums((1, 7))),
            r"t: the statistics' outputs are \[1, 7\], the tensor takes \[1, 6\]",
        ),
        (statistics({}, {}, sums((1, 31))), r"t: the statistics' lookups are \[1, 31\]"),
        (statistics(sums((1, 32)), weighted=sums((1, 6))), r"t: the statistics' weighted inputs are \[1, 6\]"),
        (statistics(sums((1, 32)), noise=sums((1, 3))), r"t: the statistics' errors of rounded inputs are \[1, 3\]"),
        (statistics(sums((1, 32), np.nan)), "t: the statistics' inputs hold values that are no sums of squares"),
        (statistics(sums((1, 32), -1.0)), "t: the statistics' inputs hold values that are no sums of squares"),
        (statistics(sums((1, 32)), sums((1, 6), np.inf)), "t: the statistics' outputs hold values that are no sums"),
        (statistics(sums((1, 32)), weighted=sums((1, 32), np.nan)), "t: the statistics' weighted inputs hold values"),
        (statistics(sums((1, 32)), noise=sums((1, 2), np.nan)), "t: the statistics' errors of rounded inputs hold"),
    ),
)
def test_statistics_that_do_not_fit_are_named(found, said):
    with pytest.raises(PlanError, match=said):
        check_statistics([step_of("t", np.ones((6, 32), np.float32))], found)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny GGUF, and made-up statistics of it."""
    folder = tmp_path_factory.mktemp("allocation")
    write_tiny_llama(folder / "model.gguf")
    made_up(folder / "model.gguf", folder / "stats.gguf")
    return folder


def made_up(model, path):
    """Statistics of a model that nobody measured, in a file."""
    random = np.random.default_rng(6)
    entries, outputs, lookups = {}, {}, {}
    for tensor in open_model(model).tensors:
        if len(tensor.shape) == 2:
            rows, columns = tensor.shape
            entries[tensor.name] = Measured(random.random((1, columns)).astype(np.float32) * 4096, np.array([4096]))
            outputs[tensor.name] = Measured(random.random((1, rows)).astype(np.float32), np.array([4096]))
    found = statistics(entries, outputs, lookups, tokens=4096)
    model = fingerprint((tensor.name, tensor.shape) for tensor in open_model(model).tensors)
    found = replace(found, provenance=replace(found.provenance, model=model))
    written(found, path)
    return found


def written(found, path):
    checkpoint = statistics_checkpoint(found)
    steps = tuple(Step(Stored(tensor), tensor) for tensor in checkpoint.tensors)
    execute(Plan(steps, FORMATS["gguf"].layout(checkpoint, path, LayoutOptions())))


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
    like = ["--like", tmp_path / "recipe.txt", "--stats", model / "stats.gguf"]
    assert run("requantize", model / "model.gguf", tmp_path / "three.gguf", *like).exit_code == 0
    three = {tensor.name: tensor.encoding for tensor in open_model(tmp_path / "three.gguf").tensors}
    assert three == {tensor.name: tensor.encoding for tensor in one.tensors}
    two = {tensor.name: tensor for tensor in open_model(tmp_path / "two.gguf").tensors}
    assert {tensor.name: tensor.encoding for tensor in one.tensors} == {n: t.encoding for n, t in two.items()}
    for tensor in one.tensors:
        assert np.array_equal(whole_parts(tensor)["data"], whole_parts(two[tensor.name])["data"]), tensor.name


def planned(*words):
    result = run(*words, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def types_in(plan):
    return {step["to"]: step["to_type"] for step in plan["steps"]}


def test_a_frontier_tells_what_each_size_comes_to(model, tmp_path):
    source, stats = model / "model.gguf", ["--stats", model / "stats.gguf"]
    result = run("requantize", source, *stats, "--frontier", "--json", "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["document"] == "frontier" and len(said["points"]) > 5
    assert [one["bytes"] for one in said["points"]] == sorted(one["bytes"] for one in said["points"])
    for point in said["points"][:: len(said["points"]) // 4]:
        plan = planned("requantize", source, *stats, "--target-size", point["bytes"])
        assert plan["bytes_written"] <= point["bytes"]
        assert plan["expected_kl"] == pytest.approx(point["expected_kl"], rel=1e-6)
        again = planned("requantize", source, *stats, "--target-kl", repr(point["expected_kl"] * (1 + 1e-9)))
        assert again["expected_kl"] <= point["expected_kl"] * (1 + 1e-6)
        assert again["bytes_written"] <= 1.02 * plan["bytes_written"]
    page = (tmp_path / "page.html").read_text()
    assert "<polyline" in page and "nats per token" in page
    assert "bits per weight" in run("requantize", source, *stats, "--frontier").output


def test_losses_are_measured_once_and_those_of_another_model_anew(model, tmp_path, monkeypatch):
    import requant.divergence_cache as cached

    for name in ("model.gguf", "stats.gguf"):
        shutil.copy(model / name, tmp_path / name)
    asked = ["--stats", tmp_path / "stats.gguf", "--target-bpw", 6]
    first = planned("requantize", tmp_path / "model.gguf", *asked)
    assert (tmp_path / "stats.gguf.losses.json").is_file()
    measured = []
    genuine = cached.losses_of
    monkeypatch.setattr(cached, "losses_of", lambda *given: measured.append(len(given[0])) or genuine(*given))
    assert planned("requantize", tmp_path / "model.gguf", *asked) == first and not measured
    write_tiny_llama(tmp_path / "other.gguf", seed=9)
    planned("requantize", tmp_path / "other.gguf", *asked)
    assert measured == [len([one for one in first["steps"] if one["importance"]])]
    (tmp_path / "stats.gguf.losses.json").write_text('{"version": 2, "tensors": {"x": []}}')
    assert planned("requantize", tmp_path / "model.gguf", *asked) == first and len(measured) == 2


def test_statistics_of_a_model_with_other_tensors_are_refused(model, tmp_path):
    found = read_statistics(model / "stats.gguf")
    written(replace(found, provenance=replace(found.provenance, model="0" * 64)), tmp_path / "stats.gguf")
    result = run("requantize", model / "model.gguf", "--stats", tmp_path / "stats.gguf", "--target-bpw", 6)
    assert result.exit_code == 4 and "of a model with other tensors than this one" in result.output


def test_some_tensors_get_no_less_and_some_stay_as_they_are(model):
    asked = ["requantize", model / "model.gguf", "--stats", model / "stats.gguf", "--target-bpw", 8]
    free = types_in(planned(*asked))
    plan = types_in(planned(*asked, "--min-type", "attn_v=Q8_0", "--keep", r"blk\.0\.ffn_down"))
    assert {name: kind for name, kind in plan.items() if "attn_v" in name and kind != "Q8_0"} == {}
    assert plan["blk.0.ffn_down.weight"] == "F32" and free["blk.0.ffn_down.weight"] != "F32"


def test_a_folder_becomes_a_gguf_of_a_size_in_one_pass(model, tmp_path):
    """As by way of a GGUF in F32."""
    tiny_models.make("llama", tmp_path / "folder")
    assert run("convert", tmp_path / "folder", tmp_path / "f32.gguf", "--to", "F32", "--no-vocab").exit_code == 0
    found = made_up(tmp_path / "f32.gguf", tmp_path / "stats.gguf")
    assert found
    asked = ["--stats", tmp_path / "stats.gguf", "--target-bpw", 6]
    whole = run("convert", tmp_path / "folder", tmp_path / "one.gguf", "--no-vocab", *asked, "--json")
    assert whole.exit_code == 0, whole.output
    said = json.loads(whole.stdout)
    beside = planned("requantize", tmp_path / "f32.gguf", *asked)
    assert said["expected_kl"] == pytest.approx(beside["expected_kl"], rel=1e-6)
    one = {tensor.name: tensor.encoding.label for tensor in open_model(tmp_path / "one.gguf").tensors}
    assert one == types_in(beside)


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (["--target-bpw", "5"], "a target needs --stats"),
        (["--types", "Q4_0"], "go with --target-size, --target-bpw"),
        (["--stats", "stats.gguf", "--target-bpw", "5", "--target-kl", "1"], "at a time"),
        (["--stats", "stats.gguf", "--target-kl", "0"], "are predicted to diverge by"),
        (["--stats", "stats.gguf", "--target-bpw", "5", "--keep", "nothing"], "--keep nothing: no tensor"),
        (["--stats", "stats.gguf", "--target-bpw", "5", "--min-type", "attn_v"], "should be REGEX=TYPE"),
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


def test_statistics_follow_their_rows_into_a_folder(tmp_path):
    """What is said of a row of a GGUF is said of the same row in transformers' order: here, the row's own length."""
    tiny_models.make("llama", tmp_path / "folder")
    assert run("convert", tmp_path / "folder", tmp_path / "f32.gguf", "--to", "F32", "--no-vocab").exit_code == 0
    lengths, inputs = {}, {}
    for tensor in open_model(tmp_path / "f32.gguf").tensors:
        if len(tensor.shape) == 2:
            values = whole_parts(tensor)["data"].view("<f4").reshape(tensor.shape)
            lengths[tensor.name] = Measured(np.square(values).sum(1)[None], np.array([1]))
            inputs[tensor.name] = Measured(np.square(values).sum(0)[None], np.array([1]))
    plan = plan_conversion(
        open_model(tmp_path / "folder"), FORMATS["safetensors"], tmp_path / "out", Conversion("MLX-4")
    )
    found = in_names_of(plan.passes[-1].after, statistics(inputs, lengths))
    assert set(found.outputs) == {step.target.name for step in plan.steps if len(step.target.shape) == 2}
    assert len(found.outputs) > 7
    for tensor in open_model(tmp_path / "folder").tensors:
        if len(tensor.shape) == 2:
            values = whole_parts(tensor)["data"].view("<f4").reshape(tensor.shape)
            assert np.allclose(found.outputs[tensor.name].sums[0], np.square(values).sum(1)), tensor.name
            assert np.allclose(found.importance.entries[tensor.name].sums[0], np.square(values).sum(0)), tensor.name


def test_modules_of_mlx_get_bits_for_a_size(tmp_path):
    tiny_models.make("llama", tmp_path / "folder")
    assert run("convert", tmp_path / "folder", tmp_path / "f32.gguf", "--to", "F32", "--no-vocab").exit_code == 0
    made_up(tmp_path / "f32.gguf", tmp_path / "stats.gguf")
    asked = ["convert", tmp_path / "folder", tmp_path / "mlx", "--to", "MLX-4-32", "--stats", tmp_path / "stats.gguf"]
    even = planned(*asked[:5])
    best = planned(*asked, "--target-size", even["bytes_written"])
    assert best["bytes_written"] <= even["bytes_written"]
    result = run(*asked, "--target-size", even["bytes_written"])
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "mlx/config.json").read_text())["quantization"]
    widths = {entry["bits"] for entry in config.values() if isinstance(entry, dict)}
    assert len(widths) > 1 and widths <= {2, 3, 4, 5, 6, 8}
    assert best["expected_kl"] < planned(*asked, "--target-bpw", 4.5)["expected_kl"]
    said = planned(*asked, "--target-bpw", 8, "--types", "MLX-3,MLX-8", "--min-type", "v_proj=MLX-8")
    assert {kind.partition("-g")[0] for kind in types_in(said).values()} <= {"MLX-3b", "MLX-8b", "F32"}
    for recipe, complaint in (
        ("AWQ", "for the layers of MLX, compressed-tensors and GPTQ"),
        ("GPTQ", "the groups that"),
    ):
        refused = run(*asked[:4], recipe, *asked[5:], "--target-bpw", 5, "--dry-run")
        assert refused.exit_code == 4 and complaint in refused.output


def test_layers_of_compressed_tensors_get_4_or_8_bits(tmp_path):
    tiny_models.make("llama", tmp_path / "folder")
    assert run("convert", tmp_path / "folder", tmp_path / "f32.gguf", "--to", "F32", "--no-vocab").exit_code == 0
    made_up(tmp_path / "f32.gguf", tmp_path / "stats.gguf")
    asked = ["convert", tmp_path / "folder", tmp_path / "out", "--to", "W4A16-32", "--stats", tmp_path / "stats.gguf"]
    few = planned(*asked, "--target-kl", 1e6)
    many = planned(*asked, "--target-kl", few["expected_kl"] / 2)
    assert many["bytes_written"] > few["bytes_written"] and many["expected_kl"] < few["expected_kl"]
    result = run(*asked, "--target-size", many["bytes_written"], "--recipe-out", tmp_path / "recipe.txt")
    assert result.exit_code == 0, result.output
    said = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]["config_groups"]
    assert [group["weights"]["num_bits"] for group in said.values()] == [4, 8]
    assert said["group_0"]["targets"] == ["Linear"]
    wide = {name.removesuffix(".weight") for name, kind in types_in(many).items() if kind.startswith("CT-8b-g32")}
    assert wide and set(said["group_1"]["targets"]) == wide
    again = [*asked[:2], tmp_path / "again", *asked[3:5], "--tensor-type-file", tmp_path / "recipe.txt"]
    assert run(*again, "--imatrix", tmp_path / "stats.gguf").exit_code == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_layers_of_gptq_get_widths_of_their_own(tmp_path):
    tiny_models.make("llama", tmp_path / "folder")
    assert run("convert", tmp_path / "folder", tmp_path / "f32.gguf", "--to", "F32", "--no-vocab").exit_code == 0
    made_up(tmp_path / "f32.gguf", tmp_path / "stats.gguf")
    asked = ["convert", tmp_path / "folder", tmp_path / "out", "--to", "GPTQ-4-32", "--stats", tmp_path / "stats.gguf"]
    few = planned(*asked, "--target-kl", 1e6)
    many = planned(*asked, "--target-kl", few["expected_kl"] / 4)
    assert many["bytes_written"] > few["bytes_written"] and many["expected_kl"] < few["expected_kl"]
    result = run(*asked, "--target-size", many["bytes_written"], "--recipe-out", tmp_path / "recipe.txt")
    assert result.exit_code == 0, result.output
    said = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert said == json.loads((tmp_path / "out/quantize_config.json").read_text()) and said["bits"] == 4
    kinds = {n.removesuffix(".weight"): int(k[5]) for n, k in types_in(many).items() if k.startswith("GPTQ")}
    told = {re.sub(r"[\\^$]", "", name.removeprefix("+:")): one["bits"] for name, one in said["dynamic"].items()}
    assert told == {name: bits for name, bits in kinds.items() if bits != 4} and told
    assert {tensor.encoding.bits for tensor in open_model(tmp_path / "out").tensors if "_proj" in tensor.name} == {
        *kinds.values()
    }
    again = [*asked[:2], tmp_path / "again", *asked[3:5], "--tensor-type-file", tmp_path / "recipe.txt"]
    assert run(*again, "--imatrix", tmp_path / "stats.gguf").exit_code == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()
    assert "dynamic" in [loss["subject"] for loss in many["losses"]]


def measured_inputs(folder):
    """Statistics in which q, k and v are given the same, and gate and up; gradients weigh it differently for each."""
    found, random = read_statistics(folder / "stats.gguf"), np.random.default_rng(7)
    entries, weighted = dict(found.importance.entries), {}
    for name, entry in entries.items():
        role = name.split(".")[-2]
        seed = [len(name), *map(ord, {"attn_k": "attn_q", "attn_v": "attn_q", "ffn_gate": "ffn_up"}.get(role, role))]
        sums = np.exp(2 * np.random.default_rng(seed).normal(size=entry.sums.shape)).astype(np.float32)
        entries[name] = Measured(sums * 4096, entry.counts)
        felt = sums * random.uniform(0.5, 2, sums.shape) * found.outputs[name].sums.sum()
        weighted[name] = Measured(felt.astype(np.float32), entry.counts)
    return replace(found, importance=replace(found.importance, entries=entries), weighted=weighted)


def test_types_are_chosen_for_the_smoothed_model(model, tmp_path):
    """All its folds are found, though gradients weigh the same inputs differently; less is expected to be lost.

    Its heads share values, so that attention's output has no fold.
    """
    written(measured_inputs(model), tmp_path / "stats.gguf")
    asked = ["--stats", tmp_path / "stats.gguf", "--target-bpw", 6]
    plain, smoothed, same = (
        planned("requantize", model / "model.gguf", "Q4_0", *asked, *way)
        for way in ([], ["--smooth"], ["--smooth", "0"])
    )
    layers = len({step["to"].split(".")[1] for step in plain["steps"] if step["to"].startswith("blk.")})
    assert smoothed["smoothed_tensors"] == 6 * layers and "smoothed_tensors" not in plain
    assert smoothed["expected_kl"] < 0.95 * plain["expected_kl"]
    assert same["expected_kl"] == pytest.approx(plain["expected_kl"], rel=1e-5)  # the power 0 changes nothing


def test_what_is_expected_of_a_smoothed_model_is_the_formula(model, tmp_path):
    """On what is written, with its factors undone and the statistics of the model as it was."""
    source, found = open_model(model / "model.gguf"), measured_inputs(model)
    smoothing = Smoothing(0.5, None, found.importance, found.weights)

    def planner(recipe, overrides, importance, rehearsal):
        request = Request(recipe, overrides, importance, rehearsal=rehearsal, smoothing=smoothing)
        return plan_requantization(source, "gguf", tmp_path / "best.gguf", request)

    question = Question(planner, "Q4_0", Overrides(), found, GgufTypes(RECIPES["Q4_0"]))
    plan, allocation = plan_allocation(question, Target(bits=6))
    execute(plan)
    best, total = open_model(tmp_path / "best.gguf"), 0.0
    columns, rows = {}, {}
    for one in plan.passes[-1].after.smoothed:
        columns |= dict.fromkeys(one.fold.consumers, one.factors)
        rows |= {one.fold.maker: one.factors[:, None]} if one.fold.kind == "rows" else {}
    assert columns and rows
    for name, _ in allocation.types:
        again = values_of(best[name]) / columns.get(name, 1) * rows.get(name, 1)
        error = np.square(again.astype(np.float64) - values_of(source[name]))
        g2 = found.outputs[name].sums[0] / found.outputs[name].counts[0]
        total += 0.5 * float(g2 @ error @ found.rounding.weights(name)[0])
    assert total == pytest.approx(allocation.expected, rel=1e-3)
