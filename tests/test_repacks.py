"""Integers carried from one encoding to another: which can be, that they arrive, and that whole folders keep them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from requant.codecs import Codes, codec_for
from requant.encodings import BF16, BLOCKS, DENSE, F16, F32
from requant.encodings.awq import Awq, Kind, Marlin
from requant.encodings.exactness import holds, keeps_codes
from requant.encodings.gptq import Gptq, Order, Zeros
from requant.errors import FormatError, PlanError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.plan import Fidelity
from requant.sources import read
from tests.tiny_folder import write_tiny_folder

SYM, ASYM = Gptq(4, 64), Gptq(4, 64, symmetric=False, zeros=Zeros.V2)
AWQ, AWQ_SYM = Awq(Kind.GEMM, 64), Awq(Kind.GEMM, 64, symmetric=True)
BLOCK = {label: BLOCKS[label] for label in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K")}


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        (SYM, "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0"),
        (ASYM, "Q5_0 Q8_0"),
        (AWQ, "Q5_0 Q8_0"),
        (AWQ_SYM, "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0"),
        (Marlin(128), "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0"),
        (Awq(Kind.GEMV_FAST, 64), "Q4_1 Q5_1"),
        (Gptq(2, -1, symmetric=False), "Q4_0 Q5_0 Q8_0"),
        (Gptq(3, 32), "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0"),
        (Gptq(5, 32), "Q5_0 Q5_1 Q8_0"),
        (Gptq(7, 32, symmetric=False), "Q8_0"),
        (Gptq(8, 32), "Q8_0"),
        (Gptq(8, 32, symmetric=False), ""),
        (Gptq(4, 16), ""),
        (Gptq(4, 48), ""),
        (Gptq(4, 64, order=Order.ACT), ""),
        (Gptq(4, 64, scale="BF16"), ""),
    ],
)
def test_which_blocks_take_which_integers(source, taken):
    assert [label for label, block in BLOCK.items() if holds(source, block)] == taken.split()


def test_which_integers_take_each_other():
    for one in (SYM, ASYM, AWQ, AWQ_SYM):
        assert holds(one, ASYM)
        assert holds(one, AWQ)
        assert holds(one, Gptq(8, 32, symmetric=False, zeros=Zeros.V2))
        assert holds(one, SYM) == (one in (SYM, AWQ_SYM))
    assert not holds(SYM, Gptq(4, 128))
    assert not holds(Gptq(8, 64), SYM)
    assert holds(BLOCKS["Q4_0"], Gptq(4, 32))
    assert holds(BLOCKS["Q8_0"], Gptq(8, 32))
    act = Gptq(4, 64, order=Order.ACT)
    assert holds(act, Gptq(4, 64, order=Order.ACT, zeros=Zeros.V2))
    assert not holds(act, Gptq(4, 32, order=Order.ACT))
    assert not holds(SYM, act)


def test_offsets_keep_codes_but_round_zeros():
    for source in (ASYM, AWQ, Gptq(3, 32, symmetric=False)):
        assert keeps_codes(source, BLOCKS["Q4_1"])
        assert not holds(source, BLOCKS["Q4_1"])
    assert not keeps_codes(Gptq(8, 32, symmetric=False), BLOCKS["Q4_1"])
    assert not keeps_codes(Gptq(4, 32, symmetric=False, order=Order.ACT), BLOCKS["Q4_1"])
    assert not keeps_codes(BLOCKS["Q4_K"], BLOCKS["Q4_1"])
    assert not keeps_codes(F16, BLOCKS["Q4_1"])


def test_values_are_of_the_dtype_of_the_scales():
    assert [label for label in ("F16", "BF16", "F32", "F64") if holds(SYM, DENSE[label])] == ["F16", "F32", "F64"]
    assert holds(Gptq(4, 64, scale="BF16"), BF16)
    assert not holds(Gptq(4, 64, scale="F32"), F16)
    assert holds(BLOCKS["Q4_K"], F32)
    assert not holds(BLOCKS["Q4_K"], F16)


def random_codes(bits, symmetric, rows, columns, group, seed):
    rng = np.random.default_rng(seed)
    groups = 1 if group < 0 else columns // group
    zeros = rng.integers(0, 1 << bits, (rows, groups)).astype(np.float32)
    if symmetric:
        zeros[:] = 1 << (bits - 1)
    scales = (rng.random((rows, groups)) - 0.25).astype(np.float16).astype(np.float32)
    return Codes(rng.integers(0, 1 << bits, (rows, columns)).astype(np.uint8), scales, zeros)


def stored(encoding, codes):
    shape = codes.codes.shape
    parts = {name: np.zeros(spec.shape, spec.dtype.numpy) for name, spec in encoding.parts(shape).items()}
    codec_for(encoding).pack(codes, parts)
    return parts


def products(codes):
    """Every value before it is rounded, in float32, where these products are exact."""
    group = np.arange(codes.codes.shape[1]) // (codes.codes.shape[1] // codes.scales.shape[1])
    if codes.offsets is not None:
        return codes.codes * codes.scales[:, group] + codes.offsets[:, group]
    return (codes.codes - codes.zeros[:, group]) * codes.scales[:, group]


ENCODINGS = [Gptq(b, g, s, Zeros.V2) for b in (2, 3, 4, 5, 8) for g in (-1, 32, 64) for s in (True, False)]
ENCODINGS += [Awq(kind, g) for kind in Kind for g in (32, 64)] + [AWQ_SYM, Marlin(64), Marlin(-1, awq=True)]
ENCODINGS += [BLOCK[label] for label in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.sampled_from(ENCODINGS[:30] + ENCODINGS[38:41]), st.sampled_from(ENCODINGS), st.integers(0, 9))
def test_what_is_taken_arrives(source, target, seed):
    numbers = source.integers
    codes = random_codes(numbers.bits, numbers.symmetric, 64, 128, numbers.group, seed)
    parts = stored(source, codes)
    assume(holds(source, target))
    again = stored(target, codec_for(source).unpack(parts, 64))
    back = codec_for(target).unpack(again, 64)
    assert np.array_equal(products(back), products(codes))
    out = np.empty((64, 128), np.float32)
    codec_for(target).decode(again, out)
    assert np.array_equal(out.astype(np.float16), products(codes).astype(np.float16))


def test_blocks_come_back_byte_for_byte():
    rows = (np.random.default_rng(0).standard_normal((64, 128)) * 0.1).astype(np.float32)
    for label in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        codec = codec_for(BLOCK[label])
        parts = {"data": np.zeros((64, 4, BLOCK[label].nbytes), np.uint8)}
        codec.encode(rows, parts)
        assert np.array_equal(stored(BLOCK[label], codec.unpack(parts, 64))["data"], parts["data"]), label


def test_the_smallest_code_of_eight_bits_is_read_by_ggml_too():
    codes = Codes(np.zeros((1, 32), np.uint8), np.full((1, 1), 0.5, np.float32), np.full((1, 1), 128, np.float32))
    out = np.empty((1, 32), np.float32)
    codec_for(BLOCKS["Q8_0"]).decode(stored(BLOCKS["Q8_0"], codes), out)
    assert (out == -64).all()


# Whole folders


def converted(source: Path, destination: Path, recipe=None):
    form = detect(source)
    target = "gguf" if destination.suffix == ".gguf" else "safetensors"

    plan = plan_conversion(form.read(source), FORMATS[target], destination, Request(recipe=recipe))
    execute(plan, Options(workers=2))
    return plan


def decoded(path):
    """Every tensor's values, by name."""
    found = {}
    for tensor in detect(path).read(path).tensors:
        parts = {
            name: read(tensor.sources[name]).view(spec.dtype.numpy).reshape(spec.shape)
            for name, spec in tensor.parts.items()
        }
        out = np.empty((int(np.prod(tensor.shape[:-1])), tensor.shape[-1]), np.float32)
        codec_for(tensor.encoding).decode(parts, out)
        found[tensor.name] = out
    return found


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("dense") / "m", torch.float16)


def same(one, other):
    left, right = decoded(one), decoded(other)
    assert left.keys() == right.keys()
    return all(np.array_equal(left[name].astype(np.float16), right[name].astype(np.float16)) for name in left)


@pytest.mark.parametrize(
    ("recipe", "block"),
    [
        ("GPTQ-4-32", "Q4_0"),
        ("GPTQ-4-64-ASYM", "Q5_0"),
        ("GPTQ-8-128", "Q8_0"),
        ("GPTQ-3--1", "Q4_0"),
        ("AWQ-4-32", "Q5_0"),
    ],
)
def test_a_gguf_of_a_quantized_folder_is_exact_by_default_and_leads_back(dense, tmp_path, recipe, block):
    folder = tmp_path / "quantized"
    converted(dense, folder, recipe)
    plan = converted(folder, tmp_path / "m.gguf")
    assert Fidelity.ROUND not in {step.fidelity for step in plan.steps}
    assert plan.losses == ()
    kinds = {t.encoding.label for t in detect(tmp_path / "m.gguf").read(tmp_path / "m.gguf").tensors}
    assert kinds == {block, "F16", "F32"}
    converted(tmp_path / "m.gguf", tmp_path / "back", "F16")
    converted(folder, tmp_path / "plain", "F16")
    assert same(tmp_path / "plain", tmp_path / "back")


def test_zeros_as_offsets_are_told_and_small(dense, tmp_path):
    converted(dense, tmp_path / "awq", "AWQ-4-32")
    plan = converted(tmp_path / "awq", tmp_path / "m.gguf", "Q4_1")
    kept = [step for step in plan.steps if step.keeps_codes]
    assert len(kept) == 14
    assert all(step.fidelity is Fidelity.ROUND for step in kept)
    told = [
        loss for loss in plan.losses if loss.kind is LossKind.REQUANTIZED and "codes and scales kept" in loss.detail
    ]
    assert len(told) == 14
    converted(tmp_path / "m.gguf", tmp_path / "back", "F32")
    left, right = decoded(tmp_path / "awq"), decoded(tmp_path / "back")
    for name in left:
        if "_proj" in name:
            assert np.abs(left[name] - right[name]).max() <= 2**-10 * np.abs(left[name]).max()


def test_gptq_and_awq_become_each_other_exactly(dense, tmp_path):
    converted(dense, tmp_path / "awq", "AWQ-4-64")
    plan = converted(tmp_path / "awq", tmp_path / "gptq", "GPTQ")
    assert {s.target.encoding.label for s in plan.steps if s.fidelity is Fidelity.REPACK} == {"GPTQ-4b-g64-asym-v2"}
    assert Fidelity.ROUND not in {step.fidelity for step in plan.steps}
    config = json.loads((tmp_path / "gptq" / "config.json").read_text())["quantization_config"]
    assert (config["checkpoint_format"], config["group_size"], config["sym"]) == ("gptq_v2", 64, False)
    assert same(tmp_path / "awq", tmp_path / "gptq")
    converted(tmp_path / "gptq", tmp_path / "again", "AWQ")
    assert weights(tmp_path / "again") == (tmp_path / "awq" / "model.safetensors").read_bytes()
    assert not (tmp_path / "again" / "quantize_config.json").exists()


def test_versions_of_zeros(dense, tmp_path):
    converted(dense, tmp_path / "v1", "GPTQ-4-128")
    plan = converted(tmp_path / "v1", tmp_path / "v2", "GPTQ-4-128-V2")
    assert Fidelity.ROUND not in {step.fidelity for step in plan.steps}
    assert json.loads((tmp_path / "v2" / "quantize_config.json").read_text())["checkpoint_format"] == "gptq_v2"
    assert same(tmp_path / "v1", tmp_path / "v2")
    converted(tmp_path / "v2", tmp_path / "again", "GPTQ-V1")
    assert weights(tmp_path / "again") == (tmp_path / "v1" / "model.safetensors").read_bytes()


def test_a_block_file_becomes_gptq_exactly(dense, tmp_path):
    converted(dense, tmp_path / "m.gguf", "Q4_0")
    plan = converted(tmp_path / "m.gguf", tmp_path / "gptq", "GPTQ")
    linear = [step for step in plan.steps if "_proj" in step.target.name]
    assert {(s.target.encoding.label, s.fidelity) for s in linear} == {("GPTQ-4b-g32", Fidelity.REPACK)}


def test_dense_again_leaves_nothing_that_speaks_of_quantization(dense, tmp_path):
    converted(dense, tmp_path / "gptq", "GPTQ-4-32")
    converted(tmp_path / "gptq", tmp_path / "dense", "F16")
    assert not (tmp_path / "dense" / "quantize_config.json").exists()
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    converted(tmp_path / "gptq", tmp_path / "same")
    assert (tmp_path / "same" / "quantize_config.json").exists()
    assert weights(tmp_path / "same") == (tmp_path / "gptq" / "model.safetensors").read_bytes()


def test_importance_changes_what_is_kept(dense):
    rows = (np.random.default_rng(3).standard_normal((32, 64)) * 0.1).astype(np.float32)
    weights = np.where(np.arange(64) % 8 == 0, 1000, 1).astype(np.float32)
    encoding = Gptq(2, 32)
    errors = []
    for importance in (None, weights):
        parts = {name: np.zeros(spec.shape, spec.dtype.numpy) for name, spec in encoding.parts(rows.shape).items()}
        codec_for(encoding).encode(rows, parts, 0, importance)
        out = np.empty_like(rows)
        codec_for(encoding).decode(parts, out)
        errors.append(float((weights * np.square(out - rows)).sum()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("recipe", ["GPTQ-5-128", "GPTQ-4-100", "GPTQ-4-128-X", "AWQ-8-128", "AWQ-3", "GPTQ-4-128-32"])
def test_what_is_no_scheme_is_refused(dense, tmp_path, recipe):
    with pytest.raises(PlanError, match="not understood"):
        converted(dense, tmp_path / "m", recipe)


def test_layers_that_do_not_fit_stay_dense_and_are_listed(dense, tmp_path):
    plan = converted(dense, tmp_path / "m", "GPTQ-4-512")
    config = json.loads((tmp_path / "m" / "config.json").read_text())["quantization_config"]
    dense_now = [loss.subject for loss in plan.losses if loss.kind is LossKind.SUBSTITUTED]
    assert len(dense_now) == 12  # all but the two down projections have rows of 256
    assert len(config["dynamic"]) == 12
    assert all(pattern.startswith("-:^model") for pattern in config["dynamic"])


CARRIED = {  # what is quantized -> where its scales lie, what it is repacked to
    "GPTQ-4-32": ("scales", ["AWQ-4-32", "GPTQ-4-32-V2"]),
    "AWQ-4-32": ("scales", ["GPTQ-4-32"]),
    "MXFP4": ("weight_scale", []),
    "NVFP4": ("weight_global_scale", []),
}


@pytest.mark.parametrize(("recipe", "to"), [(recipe, to) for recipe in CARRIED for to in (None, *CARRIED[recipe][1])])
def test_scales_that_are_no_numbers_are_found_where_codes_are_carried(dense, tmp_path, recipe, to):
    """Nothing is decoded in a repack: NaN would go unseen into the file."""
    quantized, destination = tmp_path / "quantized", tmp_path / ("out" if to else "out.gguf")
    converted(dense, quantized, recipe)
    arrays = load_file(quantized / "model.safetensors")
    scales = arrays[f"model.layers.0.mlp.up_proj.{CARRIED[recipe][0]}"]
    scales.view(-1)[-1] = 255 if recipe == "MXFP4" else float("nan")
    save_file(arrays, quantized / "model.safetensors")
    with pytest.raises((FormatError, PlanError), match="is nan"):
        converted(quantized, destination, to)
    assert not destination.exists() or not any(destination.iterdir())
    if recipe == "NVFP4":  # found while planning
        return
    form, target = detect(quantized), FORMATS["safetensors" if to else "gguf"]
    plan = plan_conversion(form.read(quantized), target, destination, Request(to))
    receipt = execute(plan, Options(replace_nan=0.0))
    assert list(receipt.replaced.values()) == [32]
    found = next(values for name, values in decoded(destination).items() if "up" in name and "0" in name)
    assert not found[-1, -32:].any() and found[-1, :-32].any()


@pytest.mark.parametrize("to", ["GPTQ", "AWQ"])
def test_one_plain_layer_is_no_reason_to_round_the_others(dense, tmp_path, to):
    """GPTQModel's `dynamic` and AWQ's `modules_to_not_convert` leave some as they are."""
    converted(dense, tmp_path / "first", "GPTQ-4-32")
    arrays, plain = load_file(tmp_path / "first" / "model.safetensors"), load_file(dense / "model.safetensors")
    name = "model.layers.0.self_attn.v_proj."
    kept = {key: array for key, array in arrays.items() if not key.startswith(name)}
    save_file(kept | {f"{name}weight": plain[f"{name}weight"]}, tmp_path / "first" / "model.safetensors")
    plan = converted(tmp_path / "first", tmp_path / "second", to)
    assert [step.target.name for step in plan.steps if step.fidelity is Fidelity.ROUND] == [f"{name}weight"]
