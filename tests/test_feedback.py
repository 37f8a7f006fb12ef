"""Rounding with error feedback, beside GPTQ as its paper has it (naive_feedback) and beside GPTQModel's own class."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from requant import feedback
from requant.cli.calibrate import _write
from requant.codecs import codec_for
from requant.encodings import BLOCKS
from requant.errors import PlanError
from requant.execution import execute
from requant.expressions import Context, Form
from requant.feedback import ColumnOrder, Feedback, FeedbackOptions, Scales, correction_of, inverse_factor
from requant.formats import open as open_model
from requant.inspection.origin import origin_of
from requant.kernels_cpu.corrected import corrected_groups
from requant.kernels_cpu.feedback import Corrected, Grid
from requant.kernels_cpu.ggml import DECODERS
from requant.kernels_cpu.ggml_feedback import CODABLE
from requant.kernels_cpu.groups import dequantize, round_to_groups
from requant.operations.calibrate import Request as Calibration
from requant.operations.calibrate import calibrate
from requant.operations.convert import Request, plan_conversion
from tests import naive_feedback, tiny_models
from tests.command import run
from tests.stored import values_of


def given(columns, tokens=400, seed=0):
    """E[x xᵀ] of inputs that depend on each other, some of them large."""
    draw = np.random.default_rng(seed)
    mixing = draw.normal(size=(columns, columns)) / np.sqrt(columns) + np.eye(columns)
    x = draw.normal(size=(tokens, columns)) @ mixing * np.exp(draw.normal(size=columns))
    return (x.T @ x / tokens).astype(np.float32)


def weights(rows, columns, seed=1):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def output_error(found, wanted, hessian):
    miss = (found - wanted).astype(np.float64)
    return float(np.einsum("ij,jk,ik", miss, hessian.astype(np.float64), miss))


@pytest.mark.parametrize("columns", (1, 64, 65, 300))
def test_the_factor_is_cholesky_of_the_inverse(columns):
    hessian = given(columns)
    assert np.allclose(inverse_factor(hessian, 0.01, "h"), naive_feedback.inverse_factor(hessian, 0.01), atol=2e-5)


@pytest.mark.parametrize(("columns", "most"), [(1025, 4096), (1200, 512)], ids=["double", "single"])
def test_a_large_factor_inverts_what_is_damped_and_takes_no_more_than_is_said(monkeypatch, columns, most):
    """U H Uᵀ is the unit matrix; of sizes that halve unevenly, down to where products leave out zeros."""
    monkeypatch.setattr(feedback, "_DOUBLES", most)
    mean = given(columns)
    tracemalloc.start()
    upper = inverse_factor(mean, 0.01, "h")
    peak = tracemalloc.get_traced_memory()[1] + mean.nbytes
    tracemalloc.stop()
    assert peak <= 1.02 * feedback.factor_bytes(columns)
    assert upper.dtype == np.float32 and not np.tril(upper, -1).any()
    damped = mean.astype(np.float64) + 0.01 * np.diagonal(mean).mean(dtype=np.float64) * np.eye(columns)
    unit = upper.astype(np.float64) @ damped @ upper.T.astype(np.float64)
    assert np.abs(unit - np.eye(columns)).max() < (2e-6 if most == 4096 else 2e-5)


def test_what_is_no_hessian_is_named():
    with pytest.raises(PlanError, match="h: its Hessian is not positive definite"):
        inverse_factor(-given(32), 0.01, "h")
    assert np.array_equal(inverse_factor(np.zeros((8, 8), np.float32), 1.0, "h"), np.eye(8, dtype=np.float32))


@pytest.mark.parametrize("order", list(ColumnOrder))
@pytest.mark.parametrize(("bits", "symmetric", "size"), ((4, True, 64), (4, False, 32), (3, False, 128), (2, True, -1)))
def test_codes_are_those_of_the_paper(bits, symmetric, size, order):
    """In double precision and without blocks; a tie that falls the other way moves the codes after it."""
    hessian, values = given(256), weights(48, 256)
    group = 256 if size < 0 else size
    options = FeedbackOptions(0.01, order, Scales.RANGE)
    found = corrected_groups(values, correction_of(hessian, options, "h"), size, bits, symmetric, "F32")
    sequence = np.arange(256) if order is ColumnOrder.STORED else np.argsort(-np.diagonal(hessian), kind="stable")
    factor = naive_feedback.inverse_factor(hessian[np.ix_(sequence, sequence)], 0.01)
    grid = naive_feedback.range_grid(group, bits, symmetric)
    if order is ColumnOrder.STATIC:
        grids = [grid(first, values.astype(np.float64)) for first in range(0, 256, group)]
        wanted = naive_feedback.rounded(values[:, sequence], factor, lambda i, _: grids[sequence[i] // group])
    else:
        wanted = naive_feedback.rounded(values[:, sequence], factor, grid)
    assert (found.codes[:, sequence] == wanted).mean() > 0.995
    if order is ColumnOrder.ACT:
        assert np.array_equal(found.groups[sequence], np.arange(256) // group)
    else:
        assert found.groups is None


def test_kernels_take_whole_rows_of_any_number_and_levels_in_a_table():
    hessian, values = given(130), weights(7, 130)
    factor = inverse_factor(hessian, 0.05, "h")
    levels = np.array([-6, -3, -1, 0, 1, 3, 6], np.float32)
    steps = np.abs(values).max(1, keepdims=True) / 6
    grid = Grid(steps, np.zeros_like(steps), np.zeros(130, np.int32), 6, levels)
    found = Corrected(values, factor).round(0, 130, grid)
    left = values.astype(np.float64)
    for i in range(130):
        code = np.abs(left[:, i, None] / steps - levels).argmin(1)
        assert (found[:, i] == code).mean() > 0.7
        error = (left[:, i] - steps[:, 0] * levels[found[:, i]]) / factor[i, i]
        left[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])


@pytest.mark.parametrize("order", list(ColumnOrder))
@pytest.mark.parametrize("scales", list(Scales))
def test_outputs_are_nearer_than_those_of_plain_rounding(order, scales):
    hessian, values = given(256), weights(64, 256)
    errors = []
    for what in (hessian, np.diag(np.diagonal(hessian))):  # without anything off the diagonal nothing is made up for
        correction, found = correction_of(what, FeedbackOptions(0.01, order, scales), "h"), np.empty_like(values)
        dequantize(corrected_groups(values, correction, 64, 4, True, "F16"), 64, "F32", found)
        errors.append(output_error(found, values, hessian))
    assert errors[0] < 0.75 * errors[1]


def test_a_hessian_that_is_diagonal_rounds_each_weight_to_the_nearest():
    hessian, values = np.diag(np.diagonal(given(128))), weights(20, 128)
    correction = correction_of(hessian, FeedbackOptions(1e-6), "h")
    plain = round_to_groups(values, correction.weights, 32, 4, False, "F16")
    found = corrected_groups(values, correction, 32, 4, False, "F16")
    assert np.array_equal(found.scales, plain.scales) and np.array_equal(found.zeros, plain.zeros)
    assert (found.codes == plain.codes).mean() > 0.999  # ties


def test_rows_know_nothing_of_each_other():
    hessian, values = given(96), weights(50, 96)
    correction = correction_of(hessian, FeedbackOptions(), "h")
    whole = corrected_groups(values, correction, 32, 4, False, "F16")
    parts = [corrected_groups(values[at : at + 13], correction, 32, 4, False, "F16") for at in range(0, 50, 13)]
    assert np.array_equal(whole.codes, np.concatenate([part.codes for part in parts]))
    assert np.array_equal(whole.scales, np.concatenate([part.scales for part in parts]))


@pytest.mark.parametrize("label", CODABLE)
def test_codes_and_scales_of_blocks_are_found_and_put_back(label):
    """What a block holds is what its grid says of its codes, and putting those in makes the same bytes."""
    encoding, how = BLOCKS[label], CODABLE[label]
    values = weights(24, encoding.values, seed=3) * np.exp(weights(24, 1, seed=4))
    blocks, again = np.empty((24, encoding.nbytes), np.uint8), np.empty_like(values)
    codec_for(encoding).encode(values, {"data": blocks}, 0, np.ones(encoding.values, np.float32))
    codec_for(encoding).decode({"data": blocks}, again)
    grid = how.grid(blocks, encoding.values, DECODERS[label])
    steps, bases = grid.steps[:, grid.groups], grid.bases[:, grid.groups]
    with np.errstate(all="ignore"):
        scaled = np.where(steps == 0, 0, (again - bases) / steps)
    if grid.levels is None:
        codes = np.rint(scaled).astype(np.uint8)
    else:
        codes = np.abs(scaled[..., None] - grid.levels).argmin(-1).astype(np.uint8)
    refilled, redone = blocks.copy(), np.empty_like(values)
    how.put(np.full_like(codes, how.top), refilled)
    assert label == "Q8_0" or not np.array_equal(refilled, blocks)
    how.put(codes, refilled)
    codec_for(encoding).decode({"data": refilled}, redone)
    assert np.array_equal(redone, again)
    assert np.array_equal(refilled, blocks) or (steps == 0).any()


@pytest.mark.parametrize("label", CODABLE)
def test_outputs_of_blocks_are_nearer_than_with_an_importance_matrix(label):
    encoding, hessian, values = BLOCKS[label], given(512), weights(40, 512)
    width = 512 // encoding.values * encoding.nbytes
    found = []
    for correction in (correction_of(hessian, FeedbackOptions(0.05), "h"), None):
        data, again = np.empty((40, width), np.uint8), np.empty_like(values)
        codec = codec_for(encoding)
        if correction is None:
            codec.encode(values, {"data": data}, 0, np.ascontiguousarray(np.diagonal(hessian)))
        else:
            codec.encode_corrected(values, {"data": data}, 0, correction)
        codec.decode({"data": data}, again)
        found.append(output_error(again, values, hessian))
    assert found[0] < 0.85 * found[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny llama, and E[x xᵀ] of its matrices over random tokens."""
    folder = tmp_path_factory.mktemp("feedback")
    tiny_models.make("llama", folder / "model")
    drawn = np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, 1280).tolist()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "requant.operations.calibrate.windows_of",
            lambda *_: [tuple(drawn[i : i + 64]) for i in range(0, 1280, 64)],
        )
        plan = plan_conversion(open_model(folder / "model"), "safetensors", folder / "plan", Request("F32"))
        found = calibrate(plan, Calibration(window=64, hessians=folder))
    return folder / "model", found


def errors_of(folder, statistics, target, recipe, options):
    """Squared errors of the outputs of all matrices, without feedback and with it."""
    source, sums = open_model(folder), []
    for fed in (None, Feedback(statistics.hessians, options, tokens=1280)):
        request = Request(recipe, importance=statistics.importance, vocabulary=False, feedback=fed)
        if fed is not None and options.order is ColumnOrder.ACT:
            request = replace(request, importance=None)
        plan = plan_conversion(source, "gguf" if target.suffix else "safetensors", target, request)
        execute(plan, overwrite=True)
        total, written = 0.0, {tensor.name: tensor for tensor in open_model(target).tensors}
        corrected = [step for step in plan.steps if step.corrections is not None]
        assert len(corrected) >= (14 if fed else 0)
        for step in plan.steps:
            if step.target.name not in {one.target.name for one in corrected} and fed:
                continue
            hessian = statistics.hessians.get(step.target.name) or statistics.hessians.get(ggml_name(step.target.name))
            if hessian is not None and "norm" not in step.target.name:
                exact = np.empty(step.target.shape, np.float32)
                step.values.fill(Form.VALUES, range(len(exact)), exact, Context())
                total += output_error(values_of(written[step.target.name]), exact, hessian[0].mean())
        sums.append(total)
    return sums


def ggml_name(name):
    words = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    words |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    parts = name.split(".")
    return f"blk.{parts[2]}.{words[parts[-2]]}.weight" if len(parts) > 4 and parts[-2] in words else ""


@pytest.mark.parametrize(
    ("recipe", "order"),
    (
        ("Q4_0", ColumnOrder.STORED),
        ("GPTQ-4-32", ColumnOrder.STORED),
        ("GPTQ-3-32-ASYM", ColumnOrder.ACT),
        ("GPTQ-4-32", ColumnOrder.STATIC),
        ("W4A16-32-ASYM", ColumnOrder.STORED),
        ("W8A16", ColumnOrder.STORED),
        ("AWQ-32", ColumnOrder.STORED),
        ("W8A8", ColumnOrder.STATIC),
        ("FP8", ColumnOrder.STORED),
        ("FP8-BLOCK", ColumnOrder.STATIC),
        ("NVFP4", ColumnOrder.STORED),
        ("MXFP4", ColumnOrder.STATIC),
    ),
)
def test_whole_models_have_nearer_outputs(tiny, tmp_path, recipe, order):
    folder, statistics = tiny
    target = tmp_path / ("model.gguf" if recipe.startswith("Q") else "model")
    plain, ours = errors_of(folder, statistics, target, recipe, FeedbackOptions(0.02, order))
    assert ours < 0.85 * plain
    if recipe.startswith("GPTQ"):
        said = json.loads((target / "config.json").read_text())["quantization_config"]
        assert said["damp_percent"] == 0.02 and said["meta"]["feedback"]["tokens"] == 1280
        assert (said["desc_act"], said["static_groups"]) == (order is ColumnOrder.ACT, order is ColumnOrder.STATIC)
    said = origin_of(open_model(target)).rounding
    assert said == f"with error feedback (GPTQ) by 1280 tokens, damping 0.02, act-order {order.value}"


def test_what_feedback_cannot_do_is_told(tiny, tmp_path):
    folder, statistics = tiny
    source = open_model(folder)

    def planned(recipe, name="m.gguf", order=ColumnOrder.STORED, hessians=statistics.hessians):
        feedback = Feedback(hessians, FeedbackOptions(order=order))
        request = Request(recipe, importance=statistics.importance, vocabulary=False, feedback=feedback)
        return plan_conversion(source, "gguf" if "." in name else "safetensors", tmp_path / name, request)

    with pytest.raises(PlanError, match="takes no error feedback"):
        planned("NF4", "m")
    with pytest.raises(PlanError, match="no place for columns in the order"):
        planned("Q4_0", order=ColumnOrder.ACT)
    with pytest.raises(PlanError, match="no place for columns in the order"):
        planned("W4A16-32", "m", ColumnOrder.ACT)
    with pytest.raises(PlanError, match="for what is quantized"):
        planned("BF16", "m")
    other = {name: tuple(replace(one, columns=7) for one in matrices) for name, matrices in statistics.hessians.items()}
    with pytest.raises(PlanError, match=r"the Hessians are of 1 x 7 inputs"):
        planned("Q4_0", hessians=other)
    few = {name: one for name, one in statistics.hessians.items() if "ffn_up" not in name}
    losses = [loss for loss in planned("Q4_0", hessians=few).losses if "without error feedback" in loss.detail]
    assert {loss.subject for loss in losses} >= {"blk.0.ffn_up.weight", "blk.1.ffn_up.weight"}


def test_kernels_and_plans_know_the_same_types():
    from requant.feedback import _BLOCKS

    assert set(CODABLE) == _BLOCKS


def test_the_commands_say_what_was_done(tiny, tmp_path):
    """With statistics that have Hessians GPTQ is GPTQ unasked; a GGUF is asked for feedback."""
    folder, statistics = tiny
    stats, as_gguf = tmp_path / "stats.gguf", tmp_path / "f32.gguf"
    _write(statistics, stats, overwrite=False)
    few = replace(statistics, provenance=replace(statistics.provenance, tokens=1000))
    _write(few, tmp_path / "few.gguf", overwrite=False)
    assert run("convert", folder, as_gguf, "--to", "F32", "--no-vocab", "-q").exit_code == 0
    words = ["--stats", stats, "--json"]
    for command, options, tensors in (
        (["convert", folder, tmp_path / "gptq", "--to", "GPTQ-4-32"], ["--act-order", "groups"], 14),
        (["convert", folder, tmp_path / "static", "--to", "GPTQ-4-32"], [], 14),
        (["convert", folder, tmp_path / "plain", "--to", "GPTQ-4-32"], ["--no-feedback"], 0),
        (["convert", folder, tmp_path / "a.gguf", "--to", "Q4_0", "--no-vocab"], [], 0),
        (["convert", folder, tmp_path / "b.gguf", "--to", "Q4_0", "--no-vocab"], ["--feedback"], 14),
        (["requantize", as_gguf, tmp_path / "c.gguf", "Q4_0"], ["--feedback", "--damping", "0.1"], 14),
    ):
        result = run(*command, *words, *options)
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout).get("feedback", {"tensors": 0})
        assert said["tensors"] >= tensors and bool(said["tensors"]) == bool(tensors)
    for name, told in (
        ("gptq", "0.05, act-order groups"),
        ("static", "0.05, act-order static"),
        ("c.gguf", "0.1, act-order none"),
    ):
        origin = json.loads(run("inspect", tmp_path / name, "--json").stdout)["origin"]
        assert origin["rounding"] == f"with error feedback (GPTQ) by 1280 tokens, damping {told}"
    assert "with error feedback" in run("convert", folder, "--to", "W8A16", "--stats", stats, "--dry-run").output
    for options, complaint in (
        (["--feedback"], "need --stats"),
        (["--stats", stats, "--damping", "0.1"], "go with --feedback"),
        (["--stats", stats, "--imatrix", stats], "leave out --imatrix"),
        (["--stats", tmp_path / "few.gguf", "--feedback"], "of 1000 tokens, too few for error feedback"),
    ):
        result = run("convert", folder, tmp_path / "d.gguf", "--to", "Q4_0", *options)
        assert result.exit_code in (2, 4) and complaint in result.output
