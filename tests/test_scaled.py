"""Scaled floats against vectors of the libraries that store them; folders there and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save, save_file

from requant.codecs import codec_for
from requant.encodings import BLOCKS, DENSE
from requant.encodings.scaled import BESIDE, FP8_BLOCK, MXFP4, NVFP4, Scaled
from requant.encodings.small_floats import takes
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from requant.sources import read
from tests.stored import read_folder
from tests.tiny_folder import write_tiny_folder

GOLDEN = Path(__file__).parents[1] / "fixtures" / "encodings" / "scaled"
E4M3 = "weight__float8_e4m3fn_as_u8"
MODELOPT_NVFP4 = Scaled("modelopt", "F4", 1, 16, "F8_E4M3", whole="multiplies", whole_form="scalar")

#: golden -> (encoding, arrays of the golden by part)
VECTORS = {
    "ct_float-quantized_fp8_block128": (Scaled("ct", "F8_E4M3", 128, 128), {"data": E4M3, "scales": "weight_scale"}),
    "ct_float-quantized_fp8_tensor": (Scaled("ct", "F8_E4M3", form="one"), {"data": E4M3, "scales": "weight_scale"}),
    "ct_int-quantized_w8_channel": (Scaled("ct", "I8"), {"data": "weight", "scales": "weight_scale"}),
    "fp8_block128_transformers": (FP8_BLOCK, {"data": "weight_fp8_u8", "scales": "weight_scale_inv"}),
    "ct_mxfp8-quantized_g32": (Scaled("ct", "F8_E4M3", 1, 32, "U8"), {"data": E4M3, "scales": "weight_scale"}),
    "ct_mxfp6-pack-quantized_g32": (
        Scaled("packed", "F6_E2M3", 1, 32, "U8"),
        {"data": "weight_packed", "scales": "weight_scale"},
    ),
    "modelopt_nvfp4": (
        MODELOPT_NVFP4,
        {"data": "weight", "scales": "weight_scale_e4m3_u8", "whole": "weight_scale_2"},
    ),
    "mlx_nvfp4": (Scaled("mlx", "F4", 1, 16, "U8", storage="U32"), {"data": "weight", "scales": "scales"}),
    "mlx_mxfp4": (Scaled("mlx", "F4", 1, 32, "U8", storage="U32"), {"data": "weight", "scales": "scales"}),
}


def load(name):
    return np.load(GOLDEN / f"{name}.npz")


def empty_parts(encoding, shape):
    return {name: np.zeros(part.shape, part.dtype.numpy) for name, part in encoding.parts(shape).items()}


def encoded(encoding, values, importance=None):
    parts, codec = empty_parts(encoding, values.shape), codec_for(encoding)
    if encoding.whole or encoding.form in ("one", "scalar"):
        codec.begin(float(np.abs(values).max(initial=0)), parts)
    codec.encode(values, parts, 0, importance)
    return parts


def decoded(encoding, parts, shape, start=0):
    rows = int(np.prod(shape[:-1]))
    out = np.empty((rows - start, shape[-1]), np.float32)
    if encoding.sliced:  # as the executor hands them over: the rows of the run alone
        runs = {name: array.reshape(rows, -1)[start:] for name, array in parts.items()}
        codec_for(encoding).decode(runs, out)
    else:
        codec_for(encoding).decode(parts, out, start)
    return out


@pytest.mark.parametrize("name", VECTORS)
def test_decoding_is_bit_exact_from_any_row(name):
    golden = load(name)
    encoding, arrays = VECTORS[name]
    wanted = golden["dequant"]
    specs = encoding.parts(wanted.shape)
    assert set(specs) == set(arrays)
    parts = {part: golden[array].reshape(specs[part].shape) for part, array in arrays.items()}
    assert all(parts[part].nbytes == spec.nbytes for part, spec in specs.items())
    for start in (0, 1, 5):
        assert np.array_equal(decoded(encoding, parts, wanted.shape, start), wanted[start:])


def test_gpt_oss_is_bit_exact():
    golden = load("mxfp4_gptoss")
    encoding = Scaled("gpt-oss", "F4", 1, 32, "U8")
    wanted = golden["dequant_expert_in_out"].transpose(0, 2, 1)
    parts = {"data": golden["blocks"], "scales": golden["scales"]}
    assert {name: spec.shape for name, spec in encoding.parts(wanted.shape).items()} == {
        name: array.shape for name, array in parts.items()
    }
    assert np.array_equal(decoded(encoding, parts, wanted.shape), wanted.reshape(-1, wanted.shape[-1]))


@pytest.mark.parametrize(
    "name", ["ct_float-quantized_fp8_block128", "ct_float-quantized_fp8_tensor", "fp8_block128_transformers"]
)
def test_encoding_gives_the_library_s_bytes(name):
    golden = load(name)
    encoding, arrays = VECTORS[name]
    parts = encoded(encoding, golden["weight_in"])
    for part, array in arrays.items():
        assert np.array_equal(parts[part], golden[array]), part


@pytest.mark.parametrize("element", ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_every_code_under_every_grain(element):
    """Against torch: 256 codes, in runs of sixteen and in what is left over."""
    dtype = getattr(torch, {"F8_E4M3": "float8_e4m3fn"}.get(element, "float8_" + element[3:].lower()))
    codes = np.stack([np.roll(np.arange(256, dtype=np.uint8), n) for n in range(7)])[:, :251].copy()
    values = torch.from_numpy(codes).view(dtype).float().numpy()
    values[np.isnan(values)] = np.nan  # torch's are signalling ones
    for encoding, scales in (
        (Scaled("ct", element), np.float32([[0.5 + n] for n in range(7)])),
        (Scaled("ct", element, form="scalar"), np.float32(0.3)),
        (Scaled("inv", element, 4, 100), np.arange(1, 7, dtype=np.float32).reshape(2, 3) / 7),
    ):
        full = np.repeat(np.repeat(scales, 4, 0), 100, 1)[:7, :251] if encoding.rows == 4 else scales
        ours = decoded(encoding, {"data": codes, "scales": scales}, codes.shape)
        assert np.array_equal(ours, values * full, equal_nan=True)


def test_scales_of_sixteen_bits_round_as_compressed_tensors_does():
    codes = np.arange(256, dtype=np.uint8).reshape(4, 64)
    codes[codes & 127 == 127] = 0
    scales = torch.tensor([[0.1], [0.02], [3.3], [1.7]]).to(torch.bfloat16)
    encoding = Scaled("ct", "F8_E4M3", scale="BF16")
    ours = decoded(encoding, {"data": codes, "scales": scales.view(torch.uint16).numpy()}, codes.shape)
    theirs = torch.from_numpy(codes).view(torch.float8_e4m3fn).to(torch.bfloat16) * scales
    assert np.array_equal(ours, theirs.float().numpy())
    assert encoding.values == DENSE["BF16"]


def test_zero_points_are_taken_off():
    codes = np.arange(-32, 32, dtype=np.int8).reshape(2, 32)
    zeros, scales = np.int8([[3], [-4]]), np.float32([[0.5], [2]])
    encoding = Scaled("ct", "I8", zero="I8")
    ours = decoded(encoding, {"data": codes, "scales": scales, "zeros": zeros}, codes.shape)
    assert np.array_equal(ours, (codes - zeros.astype(np.float32)) * scales)


def test_stacks_with_blocks_that_are_cut():
    """Each matrix of a stack has its own row of cut blocks."""
    codes = np.full((3, 5, 8), 0x38, np.uint8)  # 1.0
    scales = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    encoding = Scaled("stack-inv", "F8_E4M3", 4, 4)
    wanted = np.repeat(np.repeat(scales, 4, 1), 4, 2)[:, :5]
    for start in (0, 5, 10):
        ours = decoded(encoding, {"data": codes, "scales": scales}, codes.shape, start)
        assert np.array_equal(ours, wanted.reshape(15, 8)[start:])
    assert encoding.granule(codes.shape) == 5
    assert np.array_equal(
        encoded(encoding, wanted.reshape(3, 5, 8).reshape(15, 8).reshape(3, 5, 8)[0])["data"].shape, (5, 8)
    )


def naive_e2m1(values, encoding, parts):
    """Codes by trying all values under the scales that were stored."""
    levels = np.float32([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    ours = decoded(encoding, parts, values.shape)
    scales = codec_for(encoding).unpack(parts, len(values)).scales
    if encoding.whole:
        scales = scales / parts["whole"] if encoding.whole == "divides" else scales * parts["whole"]
    scales = np.repeat(scales, encoding.columns, 1)
    best = np.abs(np.abs(values)[..., None] - levels * scales[..., None]).min(-1)
    return np.abs(values - ours), best


@pytest.mark.parametrize("encoding", [NVFP4, MXFP4, MODELOPT_NVFP4], ids=lambda e: e.label)
@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.float32, (4, 64), elements=st.floats(-1e3, 1e3, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x))
)
def test_four_bit_floats_are_the_nearest_under_their_scales(encoding, values):
    parts = encoded(encoding, values)
    missed, least = naive_e2m1(values, encoding, parts)
    assert (missed <= least * (1 + 1e-5) + 1e-6).all()


def test_four_bit_floats_beat_rounding_to_the_largest_value():
    golden = load("modelopt_nvfp4")
    values = golden["weight_in"]
    theirs = ((golden["dequant"] - values) ** 2).mean()
    for encoding in (NVFP4, MODELOPT_NVFP4):
        ours = ((decoded(encoding, encoded(encoding, values), values.shape) - values) ** 2).mean()
        assert ours < 0.85 * theirs


def test_importance_is_heeded():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((16, 64)).astype(np.float32)
    importance = rng.uniform(0.01, 10, 64).astype(np.float32) ** 2
    for encoding in (NVFP4, MXFP4):
        plain = decoded(encoding, encoded(encoding, values), values.shape)
        weighed = decoded(encoding, encoded(encoding, values, importance), values.shape)
        assert ((weighed - values) ** 2 * importance).sum() < ((plain - values) ** 2 * importance).sum()


def test_zeros_stay_zeros():
    for encoding in (NVFP4, MXFP4, FP8_BLOCK, Scaled("ct", "F8_E4M3"), Scaled("ct", "F8_E4M3", form="one")):
        values = np.zeros((4, 64), np.float32)
        assert not decoded(encoding, encoded(encoding, values), values.shape).any()


def test_unpacked_codes_are_packed_again():
    golden = load("modelopt_nvfp4")
    for encoding in (MXFP4, Scaled("gpt-oss", "F4", 1, 32, "U8"), Scaled("mlx", "F4", 1, 16, "U8", storage="U32")):
        values = golden["weight_in"]
        parts = encoded(encoding, values)
        again = empty_parts(encoding, values.shape)
        codec = codec_for(encoding)
        codec.pack(codec.unpack({k: v.reshape(len(values), -1) for k, v in parts.items()}, len(values)), again)
        assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_labels_are_unique():
    encodings = [
        Scaled(kind, element, rows, columns, scale, form, zero, whole)
        for kind in ("ct", "inv", "modelopt", "packed")
        for element in ("F8_E4M3", "F8_E5M2", "I8", "F4")
        for rows, columns in ((1, 0), (1, 16), (1, 32), (128, 128), (0, 0))
        for scale in ("F32", "BF16", "U8")
        for form in ("grid", "rows")
        for zero in ("", "I8")
        for whole in ("", "divides")
    ]
    assert len({encoding.label for encoding in encodings}) == len(encodings)


def convert(source, destination, recipe, format_name="safetensors"):
    plan = plan_conversion(detect(source).read(source), FORMATS[format_name], destination, Request(recipe))
    execute(plan, Options(workers=2))
    return plan


@pytest.mark.parametrize("recipe", ["FP8", "FP8-BLOCK", "W8A8", "NVFP4", "MXFP4"])
def test_a_folder_there_and_back(tmp_path, recipe):
    source = write_tiny_folder(tmp_path / "tiny")
    convert(source, tmp_path / "quantized", recipe)
    config = json.loads((tmp_path / "quantized" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == ("fp8" if recipe == "FP8-BLOCK" else "compressed-tensors")
    plan = convert(tmp_path / "quantized", tmp_path / "copy", None)
    assert {step.fidelity.value for step in plan.steps} == {"copy"}
    theirs, ours = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("quantized", "copy"))
    assert theirs == ours
    convert(tmp_path / "copy", tmp_path / "dense", "F32")
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    quantized = detect(tmp_path / "quantized").read(tmp_path / "quantized")
    dense = {t.name: t for t in detect(tmp_path / "dense").read(tmp_path / "dense").tensors}
    assert {type(tensor.encoding).__name__ for tensor in quantized.tensors} == {"Scaled", "Dense"}
    assert {t.name: t.shape for t in quantized.tensors} == {name: t.shape for name, t in dense.items()}
    convert(tmp_path / "copy", tmp_path / "model.gguf", "Q4_0", "gguf")


def test_four_bit_floats_go_to_ggml_and_back_unrounded(tmp_path):
    convert(write_tiny_folder(tmp_path / "tiny"), tmp_path / "mxfp4", "MXFP4")
    plan = convert(tmp_path / "mxfp4", tmp_path / "model.gguf", None, "gguf")
    repacked = [step for step in plan.steps if step.target.encoding == BLOCKS["MXFP4"]]
    assert len(repacked) == 14
    assert {step.fidelity.value for step in repacked} == {"repack"}
    assert not any(loss.kind.value == "requantized" for loss in plan.losses)
    plan = convert(tmp_path / "model.gguf", tmp_path / "again", "MXFP4")
    assert {step.fidelity.value for step in plan.steps} <= {"repack", "copy"}
    tensors = [{t.name: t for t in detect(p).read(p).tensors} for p in (tmp_path / "mxfp4", tmp_path / "again")]
    folded = [name for name, tensor in tensors[0].items() if isinstance(tensor.encoding, Scaled)]
    assert len(folded) == 14
    for name in folded:
        for part in ("data", "scales"):
            theirs, ours = (bytes(read(group[name].sources[part])) for group in tensors)
            assert theirs == ours, name


def read_arrays(folder, arrays, config=None):
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **(config or {})}))
    return {tensor.name: tensor for tensor in detect(folder).read(folder).tensors}


FP8 = torch.float8_e4m3fn
ONES = torch.ones(256, 384).to(FP8)


@pytest.mark.parametrize(
    ("arrays", "label"),
    [
        ({"weight": ONES, "weight_scale_inv": torch.ones(2, 3)}, "FP8-128x128-F32-inv"),
        ({"weight": ONES, "weight_scale_inv": torch.ones(2, 3, dtype=torch.bfloat16)}, "FP8-128x128-BF16-inv"),
        ({"weight": ONES, "weight_scale_inv": torch.ones(2, 3).to(torch.float8_e8m0fnu)}, "FP8-128x128-F8_E8M0-inv"),
        ({"weight": ONES, "weight_scale_inv": torch.ones(2, 3, dtype=torch.uint8)}, "FP8-128x128-U8-inv"),
        ({"weight": ONES, "weight_scale": torch.ones(())}, "FP8-tensor-F32-ct-scalar"),
        ({"weight": ONES, "weight_scale": torch.ones(1)}, "FP8-tensor-F32-ct"),
        ({"weight": ONES, "weight_scale": torch.ones(1, 1)}, "FP8-allxall-F32-ct"),
        ({"weight": ONES, "weight_scale": torch.ones(256, 1)}, "FP8-channel-F32-ct"),
        ({"weight": ONES, "weight_scale": torch.ones(256)}, "FP8-channel-F32-ct-rows"),
        ({"weight": ONES, "weight_scale": torch.ones(256, 3)}, "FP8-g128-F32-ct"),
        ({"weight": ONES, "weight_scale": torch.ones(4, 6)}, "FP8-64x64-F32-ct"),
        ({"weight": ONES[:200, :300].contiguous(), "weight_scale": torch.ones(2, 3)}, "FP8-128x128-F32-ct"),
        ({"weight": ONES.to(torch.float8_e5m2), "weight_scale": torch.ones(1)}, "FP8-E5M2-tensor-F32-ct"),
        ({"weight": ONES.to(torch.int8), "weight_scale": torch.ones(256, 1)}, "INT8-channel-F32-ct"),
        (
            {
                "weight": torch.zeros(8, 32, dtype=torch.int8),
                "weight_scale_inv": torch.ones(8, 2).to(torch.float8_e8m0fnu),
            },
            "FP4-g32-F8_E8M0-inv-in-I8",
        ),
        (
            {"weight": torch.zeros(8, 32, dtype=torch.uint8), "weight_scale": torch.ones(8, 2, dtype=torch.uint8)},
            "FP4-g32-U8-modelopt",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_shares_a_scale_is_seen_from_shapes(tmp_path, arrays, label):
    tensors = read_arrays(tmp_path, {f"m.{name}": array for name, array in arrays.items()})
    assert {name: tensor.encoding.label for name, tensor in tensors.items()} == {"m.weight": label}


def test_fp8_whose_scales_are_lost_is_no_plain_fp8(tmp_path):
    (tensor,) = read_arrays(tmp_path, {"m.weight": ONES}).values()
    assert tensor.encoding.label == "F8_E4M3"
    with pytest.raises(FormatError, match="is FP8 and has no scales"):
        read_arrays(tmp_path, {"m.weight": ONES}, {"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(FormatError, match="is FP8 and has no scales"):
        read_arrays(tmp_path, {"m.weight": ONES, "n.weight": ONES.clone(), "n.weight_scale": torch.ones(1)})


def test_activation_scales_stay_and_are_left_out_of_other_formats(tmp_path):
    source = write_tiny_folder(tmp_path / "tiny")
    convert(source, tmp_path / "fp8", "FP8")
    arrays = load_file(tmp_path / "fp8" / "model.safetensors")
    arrays["model.layers.0.mlp.up_proj.input_scale"] = torch.ones(())
    arrays["model.layers.0.self_attn.k_scale"] = torch.ones(())
    save_file(arrays, tmp_path / "fp8" / "model.safetensors")
    assert "model.layers.0.self_attn.k_scale" in {
        t.name for t in detect(tmp_path / "fp8").read(tmp_path / "fp8").tensors
    }
    for destination, recipe, format_name in (("m.gguf", "F16", "gguf"), ("dense", "BF16", "safetensors")):
        plan = convert(tmp_path / "fp8", tmp_path / destination, recipe, format_name)
        dropped = {loss.subject for loss in plan.losses if loss.kind.value == "tensor dropped"}
        assert dropped == {"model.layers.0.mlp.up_proj.input_scale", "model.layers.0.self_attn.k_scale"}


@pytest.mark.parametrize("name", ["m.input_scale", "m.act_scale", "a.k_scale", "m.input_scale_ub"])
def test_names_of_activation_scales(name):
    assert BESIDE.fullmatch(name)
    assert not BESIDE.fullmatch(name + ".weight")
    assert not BESIDE.fullmatch("m.weight_packed")


def test_gpt_oss_experts_are_folded(tmp_path):
    golden = load("mxfp4_gptoss")
    arrays = {
        "e.down_proj_blocks": torch.from_numpy(golden["blocks"]),
        "e.down_proj_scales": torch.from_numpy(golden["scales"]),
    }
    tensors = read_arrays(tmp_path, arrays | {"e.down_proj_bias": torch.zeros(2, 12)})
    assert tensors["e.down_proj.weight"].shape == (2, 12, 64)
    assert set(tensors) == {"e.down_proj.weight", "e.down_proj_bias"}


def test_gpt_oss_experts_become_parameters_of_transformers(tmp_path):
    """Plain numbers are transposed, expert by expert, under the parameter's name; codes stay as they are."""
    golden = load("mxfp4_gptoss")
    arrays = {f"e.down_proj_{name}": torch.from_numpy(golden[name]) for name in ("blocks", "scales")}
    read_arrays(tmp_path, arrays)
    convert(tmp_path / "model.safetensors", tmp_path / "copy", None)
    assert set(load_file(tmp_path / "copy" / "model.safetensors")) == set(arrays)
    for recipe in ("F32", "BF16", "NF4"):
        convert(tmp_path / "model.safetensors", tmp_path / recipe, recipe)
        (tensor,) = load_file(tmp_path / recipe / "model.safetensors").items()
        assert tensor[0] == "e.down_proj"
        assert np.array_equal(tensor[1].float().numpy(), golden["dequant_expert_in_out"]), recipe


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"weight_scale_inv": torch.ones(2, 3)}, FormatError, "and no 'weight'"),
        ({"weight": ONES, "weight_scale": torch.ones(3, 7)}, FormatError, "no grid over"),
        ({"weight": ONES, "weight_scale": torch.ones(256, 5)}, FormatError, "no grid over"),
        ({"weight": ONES, "weight_scale": torch.ones(0, 0)}, FormatError, "no grid over"),
        ({"weight": ONES, "weight_scale": torch.ones(256, dtype=torch.int32)}, FormatError, "cannot be under"),
        ({"weight": ONES[0], "weight_scale": torch.ones(1)}, FormatError, "cannot be under"),
        (
            {"weight": ONES, "weight_scale": torch.ones(1), "svdquant_lora_a": torch.ones(8, 384)},
            UnsupportedError,
            "ModelOpt",
        ),
        (
            {"weight": torch.zeros(8, 32, dtype=torch.uint8), "weight_scale": torch.ones(8, 4).to(FP8)},
            FormatError,
            "no 'm.weight_scale_2'",
        ),
        (
            {
                "weight": torch.zeros(8, 32, dtype=torch.uint8),
                "weight_scale": torch.ones(8, 3).to(FP8),
                "weight_scale_2": torch.ones(()),
            },
            FormatError,
            "3 scales for rows of 64",
        ),
        (
            {"weight_packed": torch.zeros(8, 32, dtype=torch.uint8), "weight_scale": torch.ones(8, 4).to(FP8)},
            FormatError,
            "no 'm.weight_global_scale'",
        ),
        (
            {
                "weight_packed": torch.zeros(8, 32, dtype=torch.uint8),
                "weight_scale": torch.ones(8, 5, dtype=torch.uint8),
            },
            FormatError,
            "neither FP4 nor FP6",
        ),
        (
            {
                "weight_packed": torch.zeros(8, 32, dtype=torch.uint8),
                "weight_scale": torch.ones(8, 4).to(FP8),
                "weight_global_scale": torch.ones(2),
            },
            FormatError,
            "no scale of a tensor of shape",
        ),
        (
            {
                "weight": ONES.to(torch.int8),
                "weight_scale": torch.ones(256, 1),
                "weight_zero_point": torch.ones(2, dtype=torch.int8),
            },
            FormatError,
            "needs I8",
        ),
    ],
    ids=[str(n) for n in range(13)],
)
def test_what_is_broken_is_named_while_planning(tmp_path, arrays, error, message):
    with pytest.raises(error, match=message):
        read_arrays(tmp_path, {f"m.{name}": array for name, array in arrays.items()})


def test_rows_that_are_no_whole_groups_stay_dense_and_are_told(tmp_path):
    with pytest.raises(PlanError, match="does not divide"):
        MXFP4.parts((4, 48))


def test_four_bit_floats_know_whose_codes_they_take():
    assert takes(MXFP4, BLOCKS["MXFP4"])
    assert takes(BLOCKS["MXFP4"], Scaled("gpt-oss", "F4", 1, 32, "U8"))
    assert takes(Scaled("mlx", "F4", 1, 16, "U8", storage="U32"), BLOCKS["NVFP4"])
    assert not takes(NVFP4, BLOCKS["NVFP4"])  # its scale of the whole tensor has no place there
    assert not takes(MXFP4, BLOCKS["NVFP4"])


@pytest.mark.parametrize("part", ["FP8-BLOCK weight_scale_inv", "NVFP4 weight_scale", "W4A16-ASYM weight_zero_point"])
def test_transposed_parts_are_told(tmp_path, part):
    """They have as many numbers as those that are meant, and would be read as other weights."""
    recipe, name = part.split()
    destination = tmp_path / "m"
    convert(write_tiny_folder(tmp_path / "dense"), destination, recipe)
    arrays = load_file(destination / "model.safetensors")
    key = f"model.layers.0.mlp.up_proj.{name}"
    arrays[key] = arrays[key].reshape(arrays[key].shape[::-1])
    save_file(arrays, destination / "model.safetensors")
    with pytest.raises(FormatError, match=name):
        detect(destination).read(destination)


def test_scales_of_other_blocks_than_the_configuration_says(tmp_path):
    arrays = {"m.weight": torch.zeros(512, 256, dtype=torch.float8_e4m3fn), "m.weight_scale_inv": torch.ones(4, 1)}
    assert read_folder(tmp_path, save(arrays)).tensors[0].encoding.columns == 256
    with pytest.raises(FormatError, match=r"weight_scale_inv.* is no grid"):
        read_folder(tmp_path, save(arrays), {"quantization_config": {"weight_block_size": [128, 128]}})


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_what_is_divided_by_infinity_is_no_number(number):
    """Not zero, which would look like weights."""
    parts = empty_parts(NVFP4, (2, 32))
    parts["data"][...], parts["scales"][...], parts["whole"][...] = 0x22, 0x38, number
    out = np.zeros((2, 32), np.float32)
    codec_for(NVFP4).decode(parts, out)
    assert np.isnan(out).all() and np.isnan(codec_for(NVFP4).unpack(parts, 2).whole)
