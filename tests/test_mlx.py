"""MLX against files that MLX 0.32 wrote, and whole folders on their way to GGUF."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from requant.codecs import codec_for
from requant.encodings import BLOCKS
from requant.encodings.exactness import holds
from requant.encodings.mlx import GROUPS, WIDTHS, MlxAffine
from requant.encodings.scaled import Scaled
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from tests.stored import parts_of, read_folder, values_of
from tests.tiny_folder import write_tiny_folder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "encodings" / "mlx"
FILES = sorted(path.stem for path in FIXTURES.glob("*.safetensors"))
VECTORS = sorted(path.stem for path in FIXTURES.glob("*.npz"))
MXFP4 = Scaled("mlx", "F4", 1, 32, "U8", storage="U32")


def said(name):
    """The configuration of a file by its name."""
    if not name.startswith("affine"):
        mode = name.removesuffix("_experts")
        return {"bits": 8 if mode == "mxfp8" else 4, "group_size": 16 if mode == "nvfp4" else 32, "mode": mode}
    bits, group = (int(n) for n in re.findall(r"_(\d)b_g(\d+)_", name)[0])
    return {"bits": bits, "group_size": group}


def test_there_is_a_file_of_every_mode():
    assert len(FILES) == 18 and len(VECTORS) == 4


@pytest.mark.parametrize("name", FILES)
def test_files_of_mlx_are_decoded_bit_for_bit(tmp_path, name):
    checkpoint = read_folder(tmp_path, (FIXTURES / f"{name}.safetensors").read_bytes(), {"quantization": said(name)})
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    wanted = values_of(tensors["dequant"])
    assert set(tensors) == {"m.weight", "dequant"} and tensors["m.weight"].shape == tensors["dequant"].shape
    for start in (0, 5):
        assert np.array_equal(values_of(tensors["m.weight"], start), wanted[start:])
    assert not checkpoint.notices


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_float32_scales(name):
    golden = np.load(FIXTURES / f"{name}.npz")
    encoding = MlxAffine(int(re.findall(r"_(\d)b", name)[0]), 64, "F32")
    parts = {"data": golden["weight"], "scales": golden["scales"], "biases": golden["biases"]}
    out = np.empty(golden["dequant"].shape, np.float32)
    codec_for(encoding).decode(parts, out)
    assert np.array_equal(out, golden["dequant"])
    codes = codec_for(encoding).unpack(parts, len(out))
    again = {part: np.zeros_like(array) for part, array in parts.items()}
    codec_for(encoding).pack(codes, again)
    assert all(np.array_equal(again[part], parts[part]) for part in parts)


def test_labels_and_sizes():
    encodings = [MlxAffine(bits, group, scale) for bits in WIDTHS for group in GROUPS for scale in ("F16", "BF16")]
    assert len({encoding.label for encoding in encodings}) == len(encodings)
    for encoding in encodings:
        nbytes = sum(part.nbytes for part in encoding.parts((3, 2, 256)).values())
        assert nbytes == 6 * (256 * encoding.bits // 8 + 2 * 2 * 256 // encoding.group)
    with pytest.raises(PlanError, match="whole groups of 64"):
        MlxAffine(4).parts((4, 96))


def test_which_blocks_take_the_codes():
    assert holds(MlxAffine(4, 64), BLOCKS["Q4_1"]) and holds(MlxAffine(5, 32), BLOCKS["Q5_1"])
    assert not holds(MlxAffine(4, 64, "BF16"), BLOCKS["Q4_1"]) and not holds(MlxAffine(6), BLOCKS["Q5_1"])
    assert holds(MXFP4, BLOCKS["MXFP4"])


def only(name, **changes):
    arrays = {key: array for key, array in load_file(FIXTURES / f"{name}.safetensors").items() if key != "dequant"}
    for key, array in changes.items():
        arrays[f"m.{key}"] = array
    return {key: array for key, array in arrays.items() if array is not None}


def test_a_module_of_its_own_counts_before_all(tmp_path):
    quantization = {"group_size": 32, "bits": 8, "m": {"group_size": 64, "bits": 4}}
    checkpoint = read_folder(tmp_path, only("affine_4b_g64_f16"), {"quantization": quantization})
    assert [tensor.encoding.label for tensor in checkpoint.tensors] == ["MLX-4b-g64-F16"]


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({"group_size": 128, "bits": 8, "m": {"group_size": None, "bits": 4}}, "MLX-4b-g64-F16"),
        ({"group_size": 128, "bits": 8, "m": {"group_size": 64, "bits": None}}, "MLX-4b-g64-F16"),
        ({"group_size": None, "bits": None}, "MLX-4b-g64-F16"),
        ({"group_size": 16, "bits": 1, "m": {"group_size": 32, "bits": 8}}, "MLX-8b-g32-F16"),
    ],
)
def test_null_stands_for_what_mlx_takes(tmp_path, config, label):
    checkpoint = read_folder(tmp_path, only("affine_4b_g64_f16"), {"quantization": config})
    assert [tensor.encoding.label for tensor in checkpoint.tensors] == [label] and not checkpoint.notices


@pytest.mark.parametrize(
    ("width", "label"), [(256, "MLX-4b-g64-F16"), (512, "MLX-2b-g128-F16"), (128, "MLX-8b-g32-F16")]
)
def test_a_module_that_is_not_named_has_the_rows_that_the_model_needs(tmp_path, width, label):
    """As mlx-lm loads it: what is said of all may be another pair with the same product of bits and groups."""
    config = {"hidden_size": width, "quantization": {"group_size": 32, "bits": 8}}
    checkpoint = read_folder(tmp_path, only("affine_4b_g64_f16"), config)
    assert [tensor.encoding.label for tensor in checkpoint.tensors] == [label]
    assert bool(checkpoint.notices) == (width != 128)


def test_groups_of_sixteen_are_read(tmp_path):
    arrays = only("affine_4b_g64_f16", scales=np.ones((12, 16), np.float16), biases=np.zeros((12, 16), np.float16))
    checkpoint = read_folder(tmp_path, arrays, {"quantization": {"group_size": 16, "bits": 4}})
    assert [tensor.encoding.label for tensor in checkpoint.tensors] == ["MLX-4b-g16-F16"]
    stored = np.unpackbits(arrays["m.weight"].view(np.uint8), bitorder="little").reshape(12, 256, 4)
    assert np.array_equal(values_of(checkpoint.tensors[0]), (stored * [1, 2, 4, 8]).sum(2))


@pytest.mark.parametrize(("config", "label"), [({}, "MLX-4b-g64-F16"), ({"group_size": 32}, "MLX-8b-g32-F16")])
def test_what_is_not_said_is_told(tmp_path, config, label):
    checkpoint = read_folder(tmp_path, only("affine_4b_g64_f16"), {"quantization": config})
    assert [tensor.encoding.label for tensor in checkpoint.tensors] == [label]
    assert "no configuration says so" in checkpoint.notices[-1]


def test_a_wrong_mode_is_told(tmp_path):
    checkpoint = read_folder(tmp_path, only("mxfp4"), {"quantization": {"mode": "affine"}})
    assert [tensor.encoding for tensor in checkpoint.tensors] == [MXFP4]
    assert "says mode 'affine'; the arrays are mxfp4" in checkpoint.notices[-1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"biases": None}, FormatError, "lacks 'm.biases'"),
        ({"biases": np.zeros((12, 3), np.float16)}, FormatError, "needs F16"),
        ({"scales": np.zeros((12, 3), np.float16)}, UnsupportedError, "no mode of MLX"),
        ({"scales": np.zeros((11, 4), np.float16)}, FormatError, "fits no"),
        ({"scales": np.zeros((12, 0), np.float16)}, FormatError, "fits no"),
        ({"scales": np.zeros((12, 4), np.int32)}, FormatError, "is I32"),
        ({"scales": np.zeros((12, 2), np.uint8), "biases": None}, UnsupportedError, "no mode of MLX"),
    ],
)
def test_what_is_broken_is_named_while_planning(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        read_folder(tmp_path, only("affine_4b_g64_f16", **changes), {"quantization": {"bits": 4, "group_size": 64}})


def naive_affine(values, bits, group):
    """Codes, scales and offsets of each group between its least and its largest value."""
    x = values.reshape(len(values), -1, group)
    low, high = x.min(-1), x.max(-1)
    scales = ((high - low) / (2**bits - 1)).astype(np.float16)
    codes = np.rint((x - low[..., None]) / scales.astype(np.float32)[..., None]).clip(0, 2**bits - 1).astype(np.uint8)
    planes = np.unpackbits(codes.reshape(len(values), -1, 1), axis=2, bitorder="little")[..., :bits]
    words = np.packbits(planes.reshape(len(values), -1), axis=1, bitorder="little").view(np.uint32)
    return words, scales, low.astype(np.float16)


def mlx_folder(tmp_path, bits, group):
    """A tiny llama as `mlx_lm.convert -q` writes it: embeddings too."""
    folder = write_tiny_folder(tmp_path / "tiny")
    arrays = {}
    for tensor in detect(folder).read(folder).tensors:
        values = values_of(tensor)
        if "norm" in tensor.name:
            arrays[tensor.name] = values[0].astype(np.float16) if len(tensor.shape) == 1 else values
            arrays[tensor.name] = values.reshape(tensor.shape).astype(np.float16)
            continue
        module = tensor.name.removesuffix(".weight")
        found = naive_affine(values, bits, group)
        arrays |= dict(zip((f"{module}.weight", f"{module}.scales", f"{module}.biases"), found, strict=True))
    save_file(arrays, folder / "model.safetensors", metadata={"format": "mlx"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = config["quantization_config"] = {"group_size": group, "bits": bits}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def convert(source, destination, recipe, format_name):
    plan = plan_conversion(detect(source).read(source), FORMATS[format_name], destination, Request(recipe))
    execute(plan, Options(workers=2))
    return plan


@pytest.mark.parametrize(("bits", "taken"), [(3, "Q4_1"), (4, "Q4_1"), (6, None)])
def test_a_folder_to_gguf_and_to_dense(tmp_path, bits, taken):
    """Codes of up to five bits are taken over; what is dense has the values of the codes."""
    source = mlx_folder(tmp_path, bits, 64)
    quantized = {tensor.name: tensor for tensor in detect(source).read(source).tensors}
    convert(source, tmp_path / "dense", "F32", "safetensors")
    assert not {"quantization", "quantization_config"} & set(json.loads((tmp_path / "dense/config.json").read_text()))
    for tensor in detect(tmp_path / "dense").read(tmp_path / "dense").tensors:
        assert np.array_equal(values_of(tensor), values_of(quantized[tensor.name])), tensor.name
    convert(source, tmp_path / "copy", None, "safetensors")
    copied = {tensor.name: tensor for tensor in detect(tmp_path / "copy").read(tmp_path / "copy").tensors}
    for name, tensor in quantized.items():
        assert all(np.array_equal(a, parts_of(copied[name])[part]) for part, a in parts_of(tensor).items())
    plan = convert(source, tmp_path / "m.gguf", None, "gguf")
    blocks = {step.target.encoding.label for step in plan.steps if len(step.target.shape) == 2}
    assert blocks == {taken or "F16"}
    assert {step.fidelity.value for step in plan.steps} == {"repack"}
    if taken:
        embedding = next(t for t in detect(tmp_path / "m.gguf").read(tmp_path / "m.gguf").tensors if "embd" in t.name)
        missed = np.abs(values_of(embedding) - values_of(quantized["model.embed_tokens.weight"]))
        assert 0 < missed.max() < 2e-3 * np.abs(values_of(embedding)).max()  # MLX rounds to F16, ggml does not
