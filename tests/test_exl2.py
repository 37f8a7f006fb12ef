"""EXL2 against layers that exllamav2's own quantizer and kernels made; the choice of widths; folders there and back."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from requant.architectures.names import SPLIT
from requant.cli.execution import measuring
from requant.cli.main import cli
from requant.codecs import codec_for
from requant.encodings.exl2 import Exl2, exl2_groups
from requant.errors import FormatError, PlanError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.ir import TensorSpec
from requant.kernels_cpu.exl2 import Exl2Codec, Stored, input_order, quantize_group
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.plan import Fidelity
from requant.schemes.exl2 import Option, allocate, encoding_of, exl2, on_measured, stored_bits
from requant.sources import read as bytes_of
from tests.naive_exl2 import dequantized, groups_of, quantized_group, unpacked
from tests.tiny_folder import write_tiny_folder
from tests.tiny_models import make

GOLDEN = Path(__file__).parents[1] / "fixtures" / "encodings" / "exl2"
ALL = Path(os.environ["REQUANT_GOLDEN"]) if "REQUANT_GOLDEN" in os.environ else GOLDEN
NAMES = ["exl2_gs16_2b", "exl2_mix_8_6_5_4_3_2", "exl2_partial_last", "exl2_small_weights_bias"]
PARTS = ("q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm")


def golden_paths():
    assert {f"{name}.npz" for name in NAMES} <= {path.name for path in ALL.glob("exl2_*.npz")}
    return sorted(ALL.glob("exl2_*.npz"))


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


def load(path):
    golden = arrays_of(path)
    groups = [(bits, rows) for bits, rows, *_ in groups_of(golden["q_groups"], len(golden["q_weight"]))]
    parts = {part: golden[part] for part in PARTS}
    inputs, outputs = golden["dequant_in_out"].shape
    return golden, Exl2(exl2_groups(groups)), parts, (outputs, inputs)


def empty_parts(encoding, shape):
    return {name: np.zeros(part.shape, part.dtype.numpy) for name, part in encoding.parts(shape).items()}


def decoded(encoding, parts, shape, start=0):
    out = np.full((shape[0] - start, shape[1]), np.nan, np.float32)
    codec_for(encoding).decode(parts, out, start)
    return out


@pytest.mark.parametrize("path", golden_paths(), ids=lambda path: path.stem)
def test_decoding_is_bit_exact_from_any_row(path):
    golden, encoding, parts, shape = load(path)
    assert {part: spec.shape for part, spec in encoding.parts(shape).items()} == {p: parts[p].shape for p in PARTS}
    wanted = golden["dequant_in_out"].T.astype(np.float32)
    for start in (0, 1, 7, 8, shape[0] - 1):
        assert np.array_equal(decoded(encoding, parts, shape, start), wanted[start:])
    few = np.empty((3, shape[1]), np.float32)
    codec_for(encoding).decode(parts, few, 5)
    assert np.array_equal(few, wanted[5:8])
    assert np.array_equal(dequantized(parts, shape[0]), golden["dequant_in_out"].T)  # the twin knows it too


@pytest.mark.parametrize("path", golden_paths(), ids=lambda path: path.stem)
def test_codes_pack_to_the_same_bytes_and_not_to_those_of_the_gpu(path):
    golden, encoding, _, shape = load(path)
    codes, steps = [], []
    for number, (bits, rows, begin, end) in enumerate(groups_of(golden["q_groups"], len(golden["q_weight"]))):
        codes.append(unpacked(golden["q_weight"][begin:end], bits, rows))
        words = golden["q_scale"].view(np.uint32)[number]
        steps.append((words[:, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(-1) + 1)
    stored = Stored(
        np.ascontiguousarray(np.concatenate(codes).T.astype(np.uint8)),
        np.array(steps, np.uint32),
        golden["q_scale_max"],
        np.argsort(golden["q_invperm"]),
    )
    out = empty_parts(encoding, shape)
    Exl2Codec(encoding).pack(stored, out)
    for part in PARTS:
        assert np.array_equal(out[part], golden[part]), part
    if golden["shuffled_runtime_q_weight"].shape == out["q_weight"].shape and 8 not in {b for b, *_ in encoding.groups}:
        assert not np.array_equal(out["q_weight"], golden["shuffled_runtime_q_weight"])


@pytest.mark.parametrize("path", golden_paths(), ids=lambda path: path.stem)
def test_the_first_group_is_quantized_as_exllamav2_does(path):
    """Later groups, and later rows, carry the errors of those before them: exllamav2 has calibration data."""
    golden, encoding, *_ = load(path)
    bits, rows, _ = encoding.groups[0]
    order = np.argsort(golden["q_invperm"])[:rows]
    group = np.ascontiguousarray(golden["weight"][:, order].T)
    codes, steps, largest = quantize_group(group, bits, np.ones(rows, np.float32))
    words = golden["q_scale"].view(np.uint32)[0]
    assert np.array_equal(steps - 1, (words[:, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).reshape(-1))
    assert largest == golden["q_scale_max"][0]
    height = rows * bits // 32
    assert np.array_equal(codes[0], unpacked(golden["q_weight"][:height], bits, rows)[0])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([2, 3, 4, 5, 6, 8]),
    st.sampled_from([32, 64]),
    st.integers(1, 40),
    st.sampled_from(["normal", "one large", "zero", "tiny", "some zero columns"]),
    st.booleans(),
)
def test_a_group_is_quantized_like_its_twin(seed, bits, rows, outputs, kind, weighted):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, outputs)).astype(np.float32)
    values *= {"normal": 0.05, "zero": 0, "tiny": 1e-6}.get(kind, 1)
    if kind == "one large":
        values[3, outputs // 2] = 1000
    if kind == "some zero columns":
        values[:, ::2] = 0
    weights = (rng.exponential(size=rows) if weighted else np.ones(rows)).astype(np.float32)
    codes, steps, largest = quantize_group(values, bits, weights)
    want_codes, want_steps, want_largest = quantized_group(values, bits, weights)
    assert np.array_equal(steps, want_steps)
    if largest == want_largest:  # sums are added in another order: two factors may be equally good
        assert np.array_equal(codes, want_codes)
    else:
        assert error_of(values, codes, steps, largest, bits, weights) == pytest.approx(
            error_of(values, want_codes, want_steps, want_largest, bits, weights), rel=1e-3
        )


def error_of(values, codes, steps, largest, bits, weights):
    scale = np.square(steps.astype(np.float16)) * (np.float16(largest) * np.float16(1 / 256))
    again = (codes.astype(np.float32) - (1 << (bits - 1))) * scale.astype(np.float32)
    return float((np.abs(again - values).astype(float) ** 3.5).sum(axis=1) @ weights)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 70),
    st.lists(st.tuples(st.sampled_from([2, 3, 4, 5, 6, 8]), st.sampled_from([32, 64, 128])), min_size=1, max_size=5),
    st.booleans(),
)
def test_any_layer_comes_back_within_half_a_step(seed, outputs, groups, permuted):
    groups = sorted(groups, key=lambda group: -group[0])
    encoding = Exl2(exl2_groups(groups), permuted)
    shape = (outputs, encoding.rows)
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    parts = empty_parts(encoding, shape)
    codec_for(encoding).encode(values, parts)
    again = decoded(encoding, parts, shape)
    assert np.array_equal(again, dequantized(parts, outputs).astype(np.float32))
    order = np.argsort(parts["q_invperm"])
    assert np.array_equal(order, input_order(values, None))
    if permuted:
        assert np.array_equal(parts["q_perm"], order)
    row = 0
    for bits, rows in groups:
        here = order[row : row + rows]
        largest = np.abs(values[:, here]).max()
        assert np.abs(again - values)[:, here].max() <= 0.8 * largest / (1 << (bits - 1)) + 0.35 * largest
        row += rows
    padding = parts["q_weight"].shape[1] - outputs
    assert padding == -outputs % 32
    if padding:  # zeros to whoever does not cut it off
        wide = decoded(encoding, parts, (outputs + padding, shape[1]))
        assert not wide[outputs:].any()


def test_importance_decides_which_inputs_get_the_wide_groups_and_whose_error_counts():
    rng = np.random.default_rng(5)
    values = rng.standard_normal((32, 128)).astype(np.float32)
    importance = np.ones(128, np.float32)
    importance[[3, 77, 90]] = 1e4
    encoding = Exl2(((8, 32, 1), (2, 32, 3)))
    plain, weighed = empty_parts(encoding, values.shape), empty_parts(encoding, values.shape)
    codec_for(encoding).encode(values, plain)
    codec_for(encoding).encode(values, weighed, 0, importance)
    assert set(np.argsort(weighed["q_invperm"])[:3]) == {3, 77, 90}
    errors = [np.square(decoded(encoding, parts, values.shape) - values).sum(axis=0) for parts in (plain, weighed)]
    assert errors[1] @ importance < errors[0] @ importance
    nothing = empty_parts(encoding, values.shape)
    codec_for(encoding).encode(values, nothing, 0, np.zeros(128, np.float32))
    assert decoded(encoding, nothing, values.shape).any()


@pytest.mark.parametrize(
    ("text", "inputs", "groups"),
    [
        ("6/3/2@.05/.2 g32/64/64", 704, ((6, 32, 2), (3, 64, 3), (2, 64, 7))),
        ("4/3@.1 g128", 4096, ((4, 128, 4), (3, 128, 28))),
        ("4 g128", 480, ((4, 128, 3), (4, 96, 1))),  # the last group is what is left
        ("8/4@.05 g32/128", 5632, ((8, 32, 9), (4, 128, 41), (4, 96, 1))),
        ("3/2@.05 g64", 64, ((3, 64, 1),)),  # the first takes all
    ],
)
def test_groups_are_counted_as_exllamav2_counts_them(text, inputs, groups):
    encoding = encoding_of(text, inputs)
    assert encoding.groups == groups
    assert encoding.rows == inputs


@pytest.mark.parametrize(("outputs", "inputs"), [(96, 704), (32, 480), (4096, 4096)])
@pytest.mark.parametrize("text", ["6/3/2@.05/.2 g32/64/64", "4 g128", "8/6@.15 g128"])
def test_bits_are_those_of_the_stored_arrays(text, outputs, inputs):
    encoding = encoding_of(text, inputs)
    assert stored_bits(encoding, outputs) == 8 * TensorSpec("w", (outputs, inputs), encoding).nbytes
    assert sum(encoding.weights_by_bits((outputs, inputs)).values()) == outputs * inputs


def options_of(rng, slots):
    result = []
    for _ in range(slots):
        bits = np.cumsum(rng.integers(1, 1000, rng.integers(2, 12)))
        errors = (
            np.sort(rng.exponential(size=bits.size))[::-1] if rng.random() < 0.7 else rng.exponential(size=bits.size)
        )
        result.append([Option({}, int(b), float(e)) for b, e in zip(bits, errors, strict=True)])
    return result


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 24))
def test_the_budget_is_kept_and_well_spent(seed, slots):
    rng = np.random.default_rng(seed)
    options = options_of(rng, slots)
    least = sum(candidates[0].bits for candidates in options)
    most = sum(candidates[-1].bits for candidates in options)
    before = np.inf
    for budget in np.linspace(least, most, 7).astype(int):
        chosen = allocate(options, int(budget))
        assert len(chosen) == slots
        assert sum(option.bits for option in chosen) <= budget
        # no single slot could still be improved with what is left
        left = budget - sum(option.bits for option in chosen)
        for candidates, now in zip(options, chosen, strict=True):
            assert not any(o.error < now.error and o.bits - now.bits <= left for o in candidates)
        error = sum(option.error for option in chosen)
        assert error <= before * 1.25 + 1e-9  # a knapsack by price: nearly monotone, never far from it
        before = min(before, error)
    assert sum(o.error for o in allocate(options, most)) == pytest.approx(
        sum(min(o.error for o in candidates) for candidates in options)
    )


def convert(source, destination, recipe, importance=None):
    plan = plan_conversion(
        detect(source).read(source), FORMATS["safetensors"], destination, Request(recipe, importance=importance)
    )
    execute(plan, Options(workers=2))
    return plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny llama with a head of its own: 4 bits per weight, written by us."""
    root = tmp_path_factory.mktemp("exl2")
    source = write_tiny_folder(root / "tiny")
    convert(source, root / "f16", "F16")
    arrays = load_file(root / "f16" / "model.safetensors")
    rng = np.random.default_rng(1)
    arrays["lm_head.weight"] = rng.standard_normal(arrays["model.embed_tokens.weight"].shape).astype(np.float16)
    save_file(arrays, root / "f16" / "model.safetensors")
    change_config(root / "f16", tie_word_embeddings=False)
    convert(root / "f16", root / "exl2", "EXL2-4.0")
    return root / "exl2"


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def read(path):
    return detect(path).read(path)


def copy_of(folder, destination, arrays=None, **config):
    """The folder again with other arrays or another config, as `output.safetensors` as exllamav2 names it."""
    destination.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".json":
            (destination / file.name).write_bytes(file.read_bytes())
    save_file(arrays or load_file(folder / "model.safetensors"), destination / "output.safetensors")
    change_config(destination, **config)
    return destination


def test_a_folder_is_read_as_what_was_written(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "exl2"
    tensors = {tensor.name: tensor for tensor in read(folder).tensors}
    stored = load_file(folder / "model.safetensors")
    quantized = [tensor for tensor in tensors.values() if isinstance(tensor.encoding, Exl2)]
    assert len(quantized) == 15  # 2 layers of 7, and the head
    assert tensors["model.embed_tokens.weight"].encoding.label == "F16"
    head = tensors["lm_head.weight"]
    assert head.shape == (264, 256)  # not the 288 that are stored
    assert stored["lm_head.q_weight"].shape[1] == 288
    weights = sum(np.prod(t.shape) for t in quantized if t is not head)
    assert 3.7 < sum(8 * t.nbytes for t in quantized if t is not head) / weights <= 4.0
    convert(folder, tmp_path / "copy", None)
    assert read(tmp_path / "copy").config == config
    again = load_file(tmp_path / "copy" / "model.safetensors")
    assert all(np.array_equal(again[name], array) for name, array in stored.items())
    plan = convert(folder, tmp_path / "dense", "F16")
    assert plan.fidelities()[Fidelity.ROUND] == 0
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    for tensor in quantized:
        module = tensor.name.removesuffix(".weight")
        parts = {part: stored[f"{module}.{part}"] for part in PARTS}
        assert np.array_equal(dense[tensor.name], dequantized(parts, tensor.shape[0])), tensor.name
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())


def test_a_stale_index_is_not_believed(folder, tmp_path):
    path = copy_of(folder, tmp_path / "stale")
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {t.name for t in read(path).tensors} == {t.name for t in read(folder).tensors}


def test_a_quantized_head_counts_even_where_the_config_says_it_is_tied(folder, tmp_path):
    path = copy_of(folder, tmp_path / "tied", tie_word_embeddings=True)
    checkpoint = read(path)
    assert any("lm_head is tied" in notice for notice in checkpoint.notices)
    plan = plan_conversion(checkpoint, FORMATS["gguf"], tmp_path / "m.gguf", Request("F16"))
    assert "output.weight" in {step.target.name for step in plan.steps}
    plan = convert(path, tmp_path / "dense", "F16")
    assert any(loss.kind is LossKind.SUSPECT for loss in plan.losses)
    assert json.loads((tmp_path / "dense" / "config.json").read_text())["tie_word_embeddings"] is False
    convert(path, tmp_path / "copy", None)
    assert json.loads((tmp_path / "copy" / "config.json").read_text()) == json.loads((path / "config.json").read_text())


def test_old_files_store_the_permutation_both_ways(folder, tmp_path):
    arrays = load_file(folder / "model.safetensors")
    for name in [name for name in arrays if name.endswith("q_invperm")]:
        arrays[name.replace("q_invperm", "q_perm")] = np.argsort(arrays[name]).astype(np.int32)
    path = copy_of(folder, tmp_path / "old", arrays)
    assert all(t.encoding.permuted for t in read(path).tensors if isinstance(t.encoding, Exl2))
    for name, source in (("new", folder), ("old", path)):
        convert(source, tmp_path / f"{name}-dense", "F32")
    dense = [load_file(tmp_path / f"{name}-dense" / "model.safetensors") for name in ("new", "old")]
    assert all(np.array_equal(array, dense[1][name]) for name, array in dense[0].items())


def test_a_vocabulary_and_biases_are_cut_to_size(folder, tmp_path):
    """32001 tokens are stored as 32032; a single head of 80 as 96, its bias too."""
    rng = np.random.default_rng(0)
    encoding = encoding_of("4 g128", 256)
    arrays = {}
    for module, outputs in (("lm_head", 32001), ("model.layers.0.self_attn.k_proj", 80)):
        parts = empty_parts(encoding, (outputs, 256))
        codec_for(encoding).encode(rng.standard_normal((outputs, 256)).astype(np.float32), parts)
        arrays |= {f"{module}.{part}": array for part, array in parts.items()}
    arrays["model.layers.0.self_attn.k_proj.bias"] = np.arange(96, dtype=np.float16)
    path = copy_of(folder, tmp_path / "padded", arrays, vocab_size=32001, head_dim=80, num_key_value_heads=1)
    shapes = {tensor.name: tensor.shape for tensor in read(path).tensors}
    assert shapes == {
        "lm_head.weight": (32001, 256),
        "model.layers.0.self_attn.k_proj.weight": (80, 256),
        "model.layers.0.self_attn.k_proj.bias": (80,),
    }
    convert(path, tmp_path / "dense", "F16")
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    assert np.array_equal(dense["model.layers.0.self_attn.k_proj.bias"], np.arange(80))
    assert dense["lm_head.weight"].shape == (32001, 256)


def damaged(golden, **changes):
    arrays = {f"m.{part}": golden[part] for part in PARTS}
    for part, array in changes.items():
        if array is None:
            del arrays[f"m.{part}"]
        else:
            arrays[f"m.{part}"] = np.ascontiguousarray(array)
    return arrays


def pairs(*groups):
    return np.array(groups, np.int16).reshape(-1)


TWICE = np.array([0, 0, *range(2, 480)], np.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_scale": None}, "lacks 'm.q_scale'"),
        ({"q_scale_max": None}, "lacks 'm.q_scale_max'"),
        ({"q_invperm": None}, "has no 'q_invperm'"),
        ({"q_groups": None}, "has no 'q_groups'"),
        ({"q_groups": pairs((4, 0), (4, 16), (3, 900))}, r"group 2 has 3 bits in the rows \[900, 49\) of 49"),
        ({"q_groups": pairs((4, 0), (3, 60))}, r"rows \[0, 60\)|rows \[60, 49\)"),
        ({"q_groups": pairs((7, 0))}, "group 0 has 7 bits"),
        ({"q_groups": pairs((0, 0))}, "group 0 has 0 bits"),
        ({"q_groups": pairs((-4, 0))}, "bits in the rows"),
        ({"q_groups": pairs((4, 0), (4, 0))}, r"rows \[0, 0\)"),
        ({"q_groups": np.array([4, 0, 4], np.int16)}, "no pairs"),
        ({"q_groups": np.array([], np.int16)}, "no pairs"),
        ({"q_groups": pairs((4, 1))}, "bits in the rows|begins at row 1"),
        ({"q_groups": np.zeros((4, 2), np.int16)}, "of shape"),
        ({"q_groups": np.zeros(8, np.int32)}, "not I16"),
        ({"q_invperm": TWICE}, "does not name every row once"),
        ({"q_invperm": TWICE + 5}, "does not name every row once"),
        ({"q_invperm": -TWICE}, "does not name every row once"),
        ({"q_invperm": np.arange(479, dtype=np.int32)}, "480, q_invperm 479|480 rows"),
        ({"q_invperm": np.arange(480, dtype=np.int64)}, "not I32"),
        ({"q_weight": np.zeros((49, 2, 32), np.int32)}, "3 dimensions"),
        ({"q_weight": np.zeros((48, 64), np.int32)}, "bits in the rows|q_invperm"),
        ({"q_weight": np.zeros((49, 64), np.float32)}, "not I32"),
        ({"q_scale": np.zeros((4, 7), np.int32)}, "needs I32"),
        ({"q_scale_max": np.zeros(4, np.float32)}, "needs F16"),
    ],
)
def test_what_is_broken_is_named_while_reading(tmp_path, changes, message):
    golden = arrays_of(GOLDEN / "exl2_partial_last.npz")
    save_file(damaged(golden), tmp_path / "whole.safetensors")
    assert read(tmp_path / "whole.safetensors").tensors[0].shape == (64, 480)
    save_file(damaged(golden, **changes), tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=message):
        read(tmp_path / "model.safetensors")


def test_narrow_groups_before_wide_ones_are_refused(tmp_path):
    """exllamav2's kernels would take other rows for the wide ones."""
    encoding = Exl2(((2, 32, 1), (4, 32, 1)))
    parts = empty_parts(encoding, (32, 64))
    codec_for(encoding).encode(np.ones((32, 64), np.float32), parts)
    save_file({f"m.{part}": array for part, array in parts.items()}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match="wider than the one before it"):
        read(tmp_path / "model.safetensors")


@pytest.mark.parametrize("parameters", [["1.5"], ["9"], ["x"], ["4.0", "7"], ["4", "6", "1"], ["nan"]])
def test_targets_that_make_no_sense_are_refused(parameters):
    with pytest.raises(PlanError, match="is not understood"):
        exl2(parameters)


def test_a_target_below_the_least_says_what_the_least_is(tmp_path):
    source = write_tiny_folder(tmp_path / "tiny")
    with pytest.raises(PlanError, match="the least for this model is") as caught:
        convert(source, tmp_path / "exl2", "EXL2-2.0")
    least = caught.value.hint.split()[1]
    convert(source, tmp_path / "exl2", least)


def test_bits_go_where_they_save_most(tmp_path):
    """Better than the same option everywhere, at no more bits; measured on the way."""
    source = write_tiny_folder(tmp_path / "tiny")
    arrays = load_file(convert(source, tmp_path / "f32", "F32").layout.root / "model.safetensors")
    rng = np.random.default_rng(3)
    for name, array in arrays.items():  # layers that differ, as real ones do
        if "layers.1.mlp" in name:
            arrays[name] = (array * rng.exponential(1, array.shape) ** 3).astype(np.float32)
    save_file(arrays, tmp_path / "f32" / "model.safetensors")
    told = []
    on_measured.append(lambda done, total: told.append((done, total)))
    try:
        plan = convert(tmp_path / "f32", tmp_path / "exl2", "EXL2-4.2")
    finally:
        on_measured.pop()
    assert sorted(told) == [(n, 14) for n in range(1, 15)]
    convert(tmp_path / "exl2", tmp_path / "back", "F32")
    again = load_file(tmp_path / "back" / "model.safetensors")
    steps = [step for step in plan.steps if isinstance(step.target.encoding, Exl2)]
    assert len({step.target.encoding for step in steps}) > 3
    chosen = uniform = bits = weights = 0
    for step in steps:
        values, shape = arrays[step.target.name], step.target.shape
        plain = encoding_of("4 g128", shape[1])
        parts = empty_parts(plain, shape)
        codec_for(plain).encode(values, parts)
        signal = np.square(values).sum() / values.size
        uniform += np.square(decoded(plain, parts, shape) - values).sum() / signal
        chosen += np.square(again[step.target.name] - values).sum() / signal
        bits, weights = bits + 8 * step.target.nbytes, weights + values.size
    assert bits / weights <= 4.2
    assert chosen < uniform


def test_layers_that_exl2_cannot_store_stay_halves_and_are_told(tmp_path):
    source = write_tiny_folder(tmp_path / "tiny")
    convert(source, tmp_path / "odd", "F16")
    arrays = load_file(tmp_path / "odd" / "model.safetensors")
    arrays["model.layers.0.self_attn.q_proj.weight"] = np.ones((256, 250), np.float16)
    save_file(arrays, tmp_path / "odd" / "model.safetensors")
    plan = convert(tmp_path / "odd", tmp_path / "exl2", "EXL2-4.5")
    (loss,) = [loss for loss in plan.losses if loss.kind is LossKind.SUBSTITUTED]
    assert loss.subject == "model.layers.0.self_attn.q_proj.weight"


def test_inspect_shows_exl2_as_one_type_and_how_many_weights_have_how_many_bits(tmp_path):
    golden = arrays_of(GOLDEN / "exl2_mix_8_6_5_4_3_2.npz")
    arrays = damaged(golden) | {f"n{name[1:]}": array for name, array in damaged(golden).items()}
    arrays["bias"] = np.zeros(7, np.float16)
    save_file(arrays, tmp_path / "model.safetensors")
    said = CliRunner().invoke(cli, ["inspect", str(tmp_path / "model.safetensors"), "--tensors", "."]).output
    bits = sum(8 * array.nbytes for array in arrays.values()) - 8 * 14
    lines = [line.split() for line in said.splitlines()]
    types = next(line for line in lines if line[:2] == ["EXL2", "2"])
    assert types[2:3] == ["131,072"]
    assert f"{bits / 131072:.3f}" in types
    rows = {}
    for width, count, *_ in groups_of(golden["q_groups"], len(golden["q_weight"])):
        rows[width] = rows.get(width, 0) + 2 * 64 * count
    assert {line[0]: line[1] for line in lines if len(line) == 4 and line[3] == "%" and line[0] in "865432"} == {
        str(width): f"{weights:,}" for width, weights in rows.items()
    }
    assert ["m.weight", "64", "x", "1024", "EXL2", "8/6/5/4/3/2"] in [line[:6] for line in lines]
    said = CliRunner().invoke(cli, ["inspect", str(tmp_path / "model.safetensors"), "--json"]).output
    document = json.loads(said)
    assert document["exl2_weights_by_bits"] == {str(width): weights for width, weights in rows.items()}
    assert document["types"]["EXL2"]["tensors"] == 2
    assert document["tensors"][0]["type"].startswith("EXL2-8b32x")


def test_measuring_shows_a_bar_where_there_is_someone_to_see_it(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("tqdm.std.time", clock := Clock())
    with measuring(quiet=False):
        for done in range(1, 4):
            clock.now += 2
            for tell in on_measured:
                tell(done, 3)
    assert "measuring" in capsys.readouterr().err
    assert not on_measured


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


def test_fused_layers_that_exllamav2_split_are_joined(tmp_path):
    make("phi3", tmp_path / "phi3", dtype=torch.float16)
    arrays = load_file(tmp_path / "phi3" / "model.safetensors")
    config = json.loads((tmp_path / "phi3" / "config.json").read_text())
    head = config["hidden_size"] // config["num_attention_heads"]
    widths = [head * config["num_attention_heads"], *[head * config["num_key_value_heads"]] * 2]
    split = {}
    for name, array in arrays.items():
        for fused, parts in SPLIT.items():
            if f".{fused}." in name:
                sizes = widths if fused == "qkv_proj" else [len(array) // 2] * 2
                pieces = np.split(array, np.cumsum(sizes)[:-1])
                for part, piece in zip(parts, pieces, strict=True):
                    split[name.replace(fused, part)] = np.ascontiguousarray(piece)
                break
        else:
            split[name] = array
    assert len(split) > len(arrays)
    quantized = {}
    for name, array in split.items():
        if "_proj." not in name:
            quantized[name] = array
            continue
        encoding = encoding_of("4 g32", array.shape[1])
        parts = empty_parts(encoding, array.shape)
        codec_for(encoding).encode(array.astype(np.float32), parts)
        quantized |= {f"{name.removesuffix('.weight')}.{part}": data for part, data in parts.items()}
    path = copy_of(tmp_path / "phi3", tmp_path / "exl2", quantized)
    plan = plan_conversion(read(path), FORMATS["gguf"], tmp_path / "m.gguf", Request("F32", vocabulary=False))
    execute(plan, Options(workers=2))
    found = {t.name: t for t in read(tmp_path / "m.gguf").tensors}["blk.0.attn_qkv.weight"]
    data = bytes_of(found.sources["data"]).view(np.float32).reshape(found.shape)
    wanted = []
    for part in SPLIT["qkv_proj"]:
        module = f"model.layers.0.self_attn.{part}"
        outputs = split[f"{module}.weight"].shape[0]
        wanted.append(dequantized({p: quantized[f"{module}.{p}"] for p in PARTS}, outputs))
    assert np.array_equal(data, np.concatenate(wanted))
    convert(path, tmp_path / "dense", "F32")  # transformers wants them joined too
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    assert dense.keys() == arrays.keys()
    assert np.array_equal(dense["model.layers.0.self_attn.qkv_proj.weight"], data)
    del quantized["model.layers.0.self_attn.k_proj.q_weight"]
    with pytest.raises((FormatError, PlanError), match="k_proj"):
        broken = copy_of(tmp_path / "phi3", tmp_path / "broken", quantized)
        plan_conversion(read(broken), FORMATS["gguf"], tmp_path / "n.gguf", Request("F32", vocabulary=False))
