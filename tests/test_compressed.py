"""Packed integers against vectors of the libraries that store them; folders there and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file

from requant.cli.execution import refuse_losses
from requant.codecs import codec_for
from requant.encodings.compressed import Packed, RowPairs
from requant.encodings.exactness import holds
from requant.encodings.gptq import Order
from requant.errors import FormatError, UnsupportedError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.sources import read
from tests import tiny_models
from tests.stored import read_folder
from tests.tiny_folder import write_tiny_folder

GOLDEN = Path(__file__).parents[1] / "fixtures" / "encodings" / "compressed"
STREAMS = [
    f"{bits}b_{kind}"
    for bits, kinds in {
        2: ("asym_channel", "sym_group"),
        3: ("asym_group", "sym_channel"),
        4: ("asym_group", "sym_group"),
        5: ("asym_channel", "sym_group"),
        6: ("asym_group", "sym_channel"),
        7: ("asym_group", "sym_group"),
        8: ("asym_channel", "sym_group"),
    }.items()
    for kind in kinds
]
PARTS = {"packed": "weight_packed", "scales": "weight_scale", "zeros": "weight_zero_point", "shape": "weight_shape"}


def golden_parts(name):
    golden = np.load(GOLDEN / f"ct_pack_{name}.npz")
    width, symmetry, grain = name.split("_")
    encoding = Packed(int(width[0]), -1 if grain == "channel" else 64, symmetry == "sym", "F32")
    specs = encoding.parts(golden["dequant"].shape)
    parts = {part: golden[PARTS[part]] for part in specs}
    assert {part: spec.shape for part, spec in specs.items()} == {part: array.shape for part, array in parts.items()}
    return encoding, parts, golden["dequant"]


def empty_parts(encoding, shape):
    return {name: np.zeros(part.shape, part.dtype.numpy) for name, part in encoding.parts(shape).items()}


@pytest.mark.parametrize("name", STREAMS)
def test_decoding_is_bit_exact_and_codes_give_the_same_words(name):
    encoding, parts, wanted = golden_parts(name)
    codec, again = codec_for(encoding), empty_parts(encoding, wanted.shape)
    for start in (0, 32):
        out = np.empty((len(wanted) - start, wanted.shape[1]), np.float32)
        codec.decode(parts, out, start)
        assert np.array_equal(out, wanted[start:])
        codec.pack(codec.unpack(parts, min(32, 48 - start), start), again, start)
    for part, array in parts.items():
        assert np.array_equal(array, again[part]), part


@pytest.mark.parametrize("bits", [3, 6, 7])
def test_words_with_gaps(bits):
    golden = np.load(GOLDEN / f"ct_legacy_pack_{bits}b.npz")
    codes = golden["codes"]
    encoding = Packed(bits, -1, scale="F32", stream=False)
    assert encoding.parts(codes.shape)["packed"].shape == golden["weight_packed"].shape
    scales = np.full((len(codes), 1), 0.5, np.float32)
    parts = {"packed": golden["weight_packed"], "scales": scales, "shape": np.array(codes.shape)}
    out = np.empty(codes.shape, np.float32)
    codec_for(encoding).decode(parts, out)
    assert np.array_equal(out, codes * np.float32(0.5))


def test_pairs_of_rows_of_modelopt():
    golden = np.load(GOLDEN.parent / "scaled" / "modelopt_int4awq.npz")
    encoding, codes = RowPairs(128), golden["codes"]
    parts = {"data": golden["weight"], "scales": golden["weight_scale"]}
    codec = codec_for(encoding)
    for start in (0, 2):
        out = np.empty((len(codes) - start, codes.shape[1]), np.float32)
        codec.decode(parts, out, start)
        assert np.array_equal(out, (codes * np.repeat(golden["weight_scale"], 128, 1))[start:])
    again = empty_parts(encoding, codes.shape)
    codec.pack(codec.unpack(parts, len(codes)), again)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def naive(parts, encoding, shape):
    """Every code by itself, out of one large integer."""
    rows, columns = shape
    bits, half = encoding.bits, 1 << (encoding.bits - 1)

    def codes(words, count):
        number = sum((int(word) & 0xFFFFFFFF) << 32 * n for n, word in enumerate(words))
        return [(number >> bits * n) & (2 * half - 1) for n in range(count)]

    group = columns if encoding.group < 0 else encoding.group
    out = np.empty(shape, np.float32)
    for row in range(rows):
        for column, code in enumerate(codes(parts["packed"][row], columns)):
            k = column // group
            zero = half if encoding.symmetric else codes(parts["zeros"][:, k], rows)[row]
            out[row, column] = np.float32(code - zero) * parts["scales"][row, k]
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.booleans(), st.sampled_from([-1, 8, 20]), st.integers(1, 40), st.data())
def test_any_width_against_a_naive_twin(bits, symmetric, group, rows, data):
    shape = (rows, 40)
    encoding = Packed(bits, group, symmetric, "F32")
    parts = empty_parts(encoding, shape)
    for name in ("packed", "zeros"):
        if name in parts:
            words = hnp.arrays(np.int32, parts[name].shape, elements=st.integers(-(2**31), 2**31 - 1))
            parts[name] = data.draw(words)
    parts["scales"][...] = np.arange(1, parts["scales"].size + 1, dtype=np.float32).reshape(parts["scales"].shape)
    out = np.empty(shape, np.float32)
    codec_for(encoding).decode(parts, out)
    assert np.array_equal(out, naive(parts, encoding, shape))


def test_scales_of_bfloat16_round_as_compressed_tensors_does():
    encoding, shape = Packed(8, 64, scale="BF16"), (4, 128)
    rng = np.random.default_rng(3)
    parts = empty_parts(encoding, shape)
    codes = rng.integers(0, 256, shape)
    parts["packed"][...] = codes.astype(np.uint8).view(np.int32)
    scales = torch.from_numpy(rng.random((4, 2)).astype(np.float32)).to(torch.bfloat16)
    parts["scales"][...] = scales.view(torch.uint16).numpy()
    out = np.empty(shape, np.float32)
    codec_for(encoding).decode(parts, out)
    wanted = torch.from_numpy(codes - 128).to(torch.bfloat16) * scales.repeat_interleave(64, 1)
    assert np.array_equal(out, wanted.float().numpy())


def test_labels_are_unique():
    encodings = [
        Packed(bits, group, symmetric, scale, stream, order, shape)
        for bits in range(1, 9)
        for group in (-1, 0, 32, 128)
        for symmetric in (True, False)
        for scale in ("F16", "BF16", "F32")
        for stream in (True, False)
        for order in Order
        for shape in ("I64", "I32")
    ]
    assert len({encoding.label for encoding in encodings}) == len(encodings)


def convert(source, destination, recipe, format_name="safetensors"):
    plan = plan_conversion(detect(source).read(source), FORMATS[format_name], destination, Request(recipe))
    execute(plan, Options(workers=2))
    return plan


@pytest.mark.parametrize("recipe", ["W4A16", "W4A16-ASYM", "W4A16-64", "W8A16", "W8A16-128-ASYM"])
def test_a_folder_there_and_back(tmp_path, recipe):
    source = write_tiny_folder(tmp_path / "tiny")
    convert(source, tmp_path / "quantized", recipe)
    config = json.loads((tmp_path / "quantized" / "config.json").read_text())["quantization_config"]
    assert (config["format"], config["quantization_status"]) == ("pack-quantized", "compressed")
    assert config["config_groups"]["group_0"]["weights"]["num_bits"] == int(recipe[1])
    plan = convert(tmp_path / "quantized", tmp_path / "copy", None)
    assert {step.fidelity.value for step in plan.steps} == {"copy"}
    theirs, ours = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("quantized", "copy"))
    assert theirs == ours
    plan = convert(tmp_path / "copy", tmp_path / "dense", "BF16")
    assert "round" not in {step.fidelity.value for step in plan.steps}
    tensors = detect(tmp_path / "quantized").read(tmp_path / "quantized").tensors
    assert {type(tensor.encoding).__name__ for tensor in tensors} == {"Packed", "Dense"}


def test_integers_are_carried_over_unrounded(tmp_path):
    """F16 scales: GPTQ -> compressed-tensors -> Q4_0, no number is rounded."""
    source = write_tiny_folder(tmp_path / "tiny", torch.float16)
    convert(source, tmp_path / "gptq", "GPTQ-4-128")
    plan = convert(tmp_path / "gptq", tmp_path / "packed", "W4A16")
    assert {step.fidelity.value for step in plan.steps} == {"repack", "copy"}
    plan = convert(tmp_path / "packed", tmp_path / "model.gguf", None, "gguf")
    labels = [step.target.encoding.label for step in plan.steps if step.fidelity.value == "repack"]
    assert labels.count("Q4_0") == 14
    convert(tmp_path / "packed", tmp_path / "one", "F32")
    convert(tmp_path / "gptq", tmp_path / "other", "F32")
    one, other = ({t.name: t for t in detect(p).read(p).tensors} for p in (tmp_path / "one", tmp_path / "other"))
    for name, tensor in one.items():
        assert bytes(read(tensor.sources["data"])) == bytes(read(other[name].sources["data"])), name


def test_which_repacks_are_exact():
    from requant.encodings import BLOCKS
    from requant.encodings.scaled import Scaled

    assert holds(Packed(4, 128, scale="F16"), BLOCKS["Q4_0"])
    assert not holds(Packed(4, 128, scale="BF16"), BLOCKS["Q4_0"])
    assert not holds(Packed(4, 128, scale="F16", order=Order.ACT), BLOCKS["Q4_0"])
    assert holds(Packed(8, -1, scale="F16"), BLOCKS["Q8_0"])
    assert holds(Scaled("ct", "I8", scale="F16"), BLOCKS["Q8_0"])
    assert holds(Packed(8, -1, scale="F32"), Scaled("ct", "I8"))


def test_int8_goes_to_q8_0_unrounded(tmp_path):
    rng = np.random.default_rng(0)
    source = write_tiny_folder(tmp_path / "tiny", torch.float16)
    from safetensors.torch import load_file

    arrays = load_file(source / "model.safetensors")
    wanted = {}
    for name in [name for name in arrays if "proj" in name]:
        codes = torch.from_numpy(rng.integers(-128, 128, tuple(arrays[name].shape), dtype=np.int8))
        scale = torch.from_numpy(rng.random((len(codes), 1)).astype(np.float16) / 100)
        arrays |= {name: codes, f"{name}_scale": scale}
        wanted[name] = codes.float() * scale.float()
    save_file(arrays, source / "model.safetensors", metadata={"format": "pt"})
    plan = convert(source, tmp_path / "model.gguf", None, "gguf")
    assert sum(step.target.encoding.label == "Q8_0" for step in plan.steps) == 14
    convert(tmp_path / "model.gguf", tmp_path / "back", "F32")
    back = load_file(tmp_path / "back" / "model.safetensors")
    for name, values in wanted.items():
        assert torch.equal(back[name], values), name


def read_arrays(folder, arrays, config=None):
    save_file({f"m.{name}": array for name, array in arrays.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config or {}}))
    return detect(folder).read(folder)


def module(**changes):
    arrays = {
        "weight_packed": torch.zeros(48, 32, dtype=torch.int32),
        "weight_scale": torch.ones(48, 4, dtype=torch.bfloat16),
        "weight_shape": torch.tensor([48, 256]),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "config", "label"),
    [
        ({}, {}, "CT-4b-g64-BF16"),
        ({"weight_scale": torch.ones(48, 1)}, {}, "CT-4b-g-1-F32"),
        ({"weight_scale": torch.ones(1)}, {}, "CT-4b-tensor-F32"),
        ({"weight_zero_point": torch.zeros(6, 4, dtype=torch.int32)}, {}, "CT-4b-g64-asym-BF16"),
        ({"weight_packed": torch.zeros(48, 64, dtype=torch.int32)}, {}, "CT-8b-g64-BF16"),
        ({"weight_packed": torch.zeros(48, 64, dtype=torch.int32)}, 7, "CT-7b-g64-BF16-gaps"),
        ({"weight_packed": torch.zeros(48, 24, dtype=torch.int32)}, 3, "CT-3b-g64-BF16"),
        ({"weight_packed": torch.zeros(48, 26, dtype=torch.int32)}, 3, "CT-3b-g64-BF16-gaps"),
        ({"weight_shape": torch.tensor([48, 256], dtype=torch.int32)}, {}, "CT-4b-g64-BF16-shape-I32"),
        ({"weight_g_idx": torch.full((256,), -1, dtype=torch.int32)}, {}, "CT-4b-g64-BF16-gidx0"),
        ({"weight_g_idx": torch.arange(256, dtype=torch.int32) // 64}, {}, "CT-4b-g64-BF16-gidx"),
        ({"weight_g_idx": torch.arange(256, dtype=torch.int32) % 4}, {}, "CT-4b-g64-BF16-act"),
    ],
    ids=[str(n) for n in range(12)],
)
def test_widths_and_groups_are_seen_from_shapes(tmp_path, changes, config, label):
    if isinstance(config, int):
        config = {"config_groups": {"group_0": {"targets": ["re:.*"], "weights": {"num_bits": config}}}}
    (tensor,) = read_arrays(tmp_path, module(**changes), config).tensors
    assert (tensor.name, tensor.shape, tensor.encoding.label) == ("m.weight", (48, 256), label)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_scale": None}, "no 'm.weight_scale'"),
        ({"weight_shape": torch.tensor([48, 256, 1, 1])}, "not two sizes"),
        ({"weight_shape": torch.tensor([48, 256, 1])}, "no matrix of 48 by 256 by 1"),
        ({"weight_shape": torch.tensor([-48, 256])}, "says -48 by 256"),
        ({"weight_shape": torch.tensor([47, 256])}, "are no matrix of 47 by 256"),
        ({"weight_shape": torch.tensor([48, 1 << 40])}, "no codes of 1 to 8 bits"),
        ({"weight_scale": torch.ones(48, 3)}, "3 groups for rows of 256"),
        ({"weight_scale": torch.ones(47, 4)}, "needs F32"),
        ({"weight_scale": torch.ones(48, 4, dtype=torch.int8)}, "are no matrix"),
        ({"weight_zero_point": torch.zeros(5, 4, dtype=torch.int32)}, "needs I32"),
        ({"weight_g_idx": torch.full((256,), 4, dtype=torch.int32)}, "names group 4"),
        ({"weight_g_idx": torch.zeros(255, dtype=torch.int32)}, "not I32"),
    ],
    ids=[str(n) for n in range(12)],
)
def test_what_is_broken_is_named_while_planning(tmp_path, changes, message):
    with pytest.raises(FormatError, match=message):
        read_arrays(tmp_path, module(**changes))


def test_rotated_weights_are_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="transform_config"):
        read_arrays(tmp_path, module(), {"transform_config": {"config_groups": {"u": {}}}})


def test_a_width_that_the_configuration_does_not_name_is_told(tmp_path):
    config = {"config_groups": {"group_0": {"weights": {"num_bits": 8}}}}
    assert any("does not name" in notice for notice in read_arrays(tmp_path, module(), config).notices)


def test_an_activation_order_is_not_carried_over(tmp_path):
    """What reads the folder would take the groups for consecutive columns."""
    source = write_tiny_folder(tmp_path / "tiny", torch.float16)
    convert(source, tmp_path / "gptq", "GPTQ-4-32")
    arrays = load_file(tmp_path / "gptq" / "model.safetensors")
    for name in [name for name in arrays if name.endswith("g_idx")]:
        arrays[name] = arrays[name].flip(0).contiguous()
        arrays[name][0] = 0  # not in any order
    save_file(arrays, tmp_path / "gptq" / "model.safetensors")
    plan = convert(tmp_path / "gptq", tmp_path / "packed", "W4A16-32")
    assert {loss.kind for loss in plan.losses} == {LossKind.REQUANTIZED}
    assert not any(name.endswith("g_idx") for name in load_file(tmp_path / "packed" / "model.safetensors"))


def test_zero_points_that_are_not_stored_are_told(tmp_path):
    """Libraries leave out those that are 0; a shard may also be missing."""
    arrays = {"m.weight_packed": np.zeros((8, 16), np.int32), "m.weight_scale": np.ones((8, 1), np.float32)}
    arrays["m.weight_shape"] = np.array([8, 128])
    for symmetric in (True, False):
        groups = {"group_0": {"weights": {"num_bits": 4, "symmetric": symmetric}}}
        found = read_folder(tmp_path, arrays, {"quantization_config": {"config_groups": groups}})
        assert any("no zero points are stored" in notice for notice in found.notices) is not symmetric


@pytest.mark.parametrize(
    ("family", "recipe", "experts"),
    [
        *(("mixtral", recipe, 3) for recipe in ("NVFP4", "W8A8", "W4A16")),
        *(("mixtral", recipe, 0) for recipe in ("FP8", "FP8-BLOCK", "W4A16-32")),
        *(("qwen2moe", recipe, 1) for recipe in ("W4A16-32", "MXFP4")),
        ("gptoss", "NVFP4", 0),
    ],
)
def test_experts_that_a_library_does_not_load_are_told(tmp_path, family, recipe, experts):
    """tests/test_compressed_consumers.py loads them. A line for all of a kind; what is written is as asked."""
    tiny_models.make(family, tmp_path / "tiny", dtype=torch.bfloat16)
    source = detect(tmp_path / "tiny").read(tmp_path / "tiny")
    plan = plan_conversion(source, FORMATS["safetensors"], tmp_path / "quantized", Request(recipe))
    told = [loss for loss in plan.losses if loss.kind is LossKind.UNLOADED]
    assert len(told) == experts
    assert all(".*." in loss.subject and "transformers 5.23" in loss.detail for loss in told)
    refuse_losses(plan, frozenset({LossKind.SUBSTITUTED}))
