"""HQQ and MLX against vectors of the libraries; folders read, copied and converted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.codecs import codec_for
from requant.encodings import BLOCKS
from requant.encodings.exactness import holds
from requant.encodings.hqq import Hqq, MlxAffine
from requant.errors import FormatError, UnsupportedError
from requant.execute import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from tests.tiny_folder import write_tiny_folder

GOLDEN = Path(__file__).parents[1] / "fixtures" / "encodings"
HQQ = ["hqq_1b_axis0", "hqq_2b_axis0", "hqq_2b_axis1", "hqq_3b_axis1", "hqq_4b_axis0", "hqq_8b_axis0", "hqq_8b_axis1"]


def hqq_golden(name):
    golden = np.load(GOLDEN / "hqq" / f"{name}.npz")
    encoding = Hqq(int(name[4]), 64, int(name[-1]), "F32")
    return encoding, {"data": golden["W_q"], "scales": golden["scale"], "zeros": golden["zero"]}, golden["dequant"]


@pytest.mark.parametrize("name", HQQ)
def test_hqq_is_bit_exact_from_any_row(name):
    encoding, parts, wanted = hqq_golden(name)
    assert {n: p.shape for n, p in encoding.parts(wanted.shape).items()} == {n: a.shape for n, a in parts.items()}
    for start, stop in ((0, 48), (1, 48), (5, 6), (13, 29)):
        out = np.empty((stop - start, wanted.shape[1]), np.float32)
        codec_for(encoding).decode(parts, out, start)
        assert np.array_equal(out, wanted[start:stop])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [3, 4, 5])
def test_hqq_of_any_size_against_a_naive_twin(axis, bits):
    """37 rows of 24 in groups of 12, which fill no slab."""
    rng, shape = np.random.default_rng(bits), (37, 24)
    encoding = Hqq(bits, 12, axis, "F16")
    parts = {name: np.zeros(part.shape, part.dtype.numpy) for name, part in encoding.parts(shape).items()}
    matrix = (74, 12) if axis == 1 else (12, 74)
    codes = rng.integers(0, 1 << bits, matrix)
    slabs = {3: 10, 4: 2, 5: 1}[bits]
    for row in range(matrix[0]):
        slab, at = divmod(row, len(parts["data"]))
        parts["data"][at] |= (codes[row] << (bits * (slabs - 1 - slab) if slabs > 1 else 0)).astype(parts["data"].dtype)
    parts["scales"][...] = rng.random(parts["scales"].shape)
    parts["zeros"][...] = rng.random(parts["zeros"].shape) * 4
    wanted = ((codes.astype(np.float16) - parts["zeros"]) * parts["scales"]).astype(np.float32).reshape(shape)
    for start in (0, 3, 36):
        out = np.empty((37 - start, 24), np.float32)
        codec_for(encoding).decode(parts, out, start)
        assert np.array_equal(out, wanted[start:])


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_mlx_is_exact(bits):
    """To half a unit in the last place: MLX multiplies and adds in one rounding."""
    golden = np.load(GOLDEN / "scaled" / f"mlx_affine_{bits}b_g64.npz")
    encoding, wanted = MlxAffine(bits, 64, "F32"), golden["dequant"]
    parts = {"data": golden["weight"], "scales": golden["scales"], "offsets": golden["biases"]}
    assert {n: p.shape for n, p in encoding.parts(wanted.shape).items()} == {n: a.shape for n, a in parts.items()}
    out, codec = np.empty(wanted.shape, np.float32), codec_for(encoding)
    codec.decode(parts, out)
    assert np.abs(out - wanted).max() < 2e-8
    again = {name: np.zeros_like(array) for name, array in parts.items()}
    codec.pack(codec.unpack(parts, len(wanted)), again)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_mlx_goes_to_q4_1_unrounded_where_scales_are_halves():
    assert holds(MlxAffine(4, 64, "F16"), BLOCKS["Q4_1"])
    assert not holds(MlxAffine(4, 64, "BF16"), BLOCKS["Q4_1"])


def convert(source, destination, recipe, format_name="safetensors"):
    plan = plan_conversion(detect(source).read(source), FORMATS[format_name], destination, Request(recipe))
    execute(plan, Options(workers=2))
    return plan


def mlx_folder(folder):
    """A model as MLX stores it, 4 bits in groups of 64, embeddings included, and what its values are."""
    write_tiny_folder(folder, torch.float16)
    rng = np.random.default_rng(0)
    arrays, wanted = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if tensor.ndim < 2:
            arrays[name] = tensor
            continue
        rows, columns = tensor.shape
        codes = rng.integers(0, 16, (rows, columns), dtype=np.uint8)
        words = (codes[:, 0::2] | codes[:, 1::2] << 4).view(np.uint32)
        scales, offsets = (rng.random((rows, columns // 64)).astype(np.float16) for _ in range(2))
        module = name.removesuffix(".weight")
        arrays |= {name: words, f"{module}.scales": scales, f"{module}.biases": offsets}
        wanted[name] = codes * np.repeat(scales.astype(np.float32), 64, 1) + np.repeat(offsets, 64, 1)
    arrays = {name: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "mlx"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"group_size": 64, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    return wanted


def test_an_mlx_folder(tmp_path):
    wanted = mlx_folder(tmp_path / "mlx")
    plan = convert(tmp_path / "mlx", tmp_path / "copy", None)
    assert {step.fidelity.value for step in plan.steps} == {"copy"}
    plan = convert(tmp_path / "mlx", tmp_path / "model.gguf", None, "gguf")
    assert sum(step.target.encoding.label == "Q4_1" for step in plan.steps) == 15
    convert(tmp_path / "mlx", tmp_path / "dense", "F32")
    assert "quantization" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    for name, values in wanted.items():
        assert np.array_equal(dense[name].numpy(), values.astype(np.float16).astype(np.float32)), name


def read_arrays(folder, arrays, config):
    save_file({f"m.{name}": array for name, array in arrays.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (tensor,) = detect(folder).read(folder).tensors
    return tensor


WORDS = torch.zeros(8, 32, dtype=torch.uint32)
FOUR, TWO = torch.ones(8, 4), torch.ones(8, 2)


@pytest.mark.parametrize(
    ("arrays", "said", "label", "columns"),
    [
        ({"scales": torch.ones(8, 4), "biases": torch.ones(8, 4)}, {}, "MLX-4b-g64-F32", 256),
        (
            {"scales": torch.ones(8, 2), "biases": torch.ones(8, 2)},
            {"bits": 8, "group_size": 64},
            "MLX-8b-g64-F32",
            128,
        ),
        (
            {"scales": torch.ones(8, 2), "biases": torch.ones(8, 2)},
            {"bits": 4, "group_size": 128},
            "MLX-4b-g128-F32",
            256,
        ),
        (
            {"scales": torch.ones(8, 2), "biases": torch.ones(8, 2)},
            {"bits": 4, "group_size": 64, "m": {"bits": 8, "group_size": 64}},
            "MLX-8b-g64-F32",
            128,
        ),
        ({"scales": torch.ones(8, 8, dtype=torch.uint8)}, {}, "FP4-g32-U8-mlx-in-U32", 256),
        ({"scales": torch.ones(8, 16, dtype=torch.uint8)}, {}, "FP4-g16-U8-mlx-in-U32", 256),
        ({"scales": torch.ones(8, 4, dtype=torch.uint8)}, {}, "FP8-g32-U8-mlx-in-U32", 128),
    ],
    ids=[str(n) for n in range(7)],
)
def test_mlx_widths_are_seen_from_shapes(tmp_path, arrays, said, label, columns):
    tensor = read_arrays(tmp_path, {"weight": WORDS, **arrays}, {"quantization": said})
    assert (tensor.encoding.label, tensor.shape) == (label, (8, columns))


@pytest.mark.parametrize(
    "arrays",
    [
        {"scales": torch.ones(7, 4), "biases": torch.ones(7, 4)},
        {"scales": torch.ones(8, 4)},
        {"scales": torch.ones(8, 5), "biases": torch.ones(8, 5)},
        {"scales": torch.ones(8, 3, dtype=torch.uint8)},
        {"scales": torch.ones(8, 4, dtype=torch.int32)},
    ],
    ids=[str(n) for n in range(5)],
)
def test_broken_mlx_modules(tmp_path, arrays):
    with pytest.raises(FormatError, match="m"):
        read_arrays(tmp_path, {"weight": WORDS, **arrays}, {})


def hqq_module(**changes):
    _, parts, _ = hqq_golden("hqq_4b_axis0")
    arrays = {
        "W_q": torch.from_numpy(parts["data"]),
        "scale": torch.from_numpy(parts["scales"]),
        "zero": torch.from_numpy(parts["zeros"]),
        "nbits": torch.tensor([4], dtype=torch.int32),
        "group_size": torch.tensor([64], dtype=torch.int32),
        "axis": torch.tensor([0], dtype=torch.int32),
        "shape": torch.tensor([48, 256]),
        "packing": torch.frombuffer(bytearray(b"4bit_u8"), dtype=torch.uint8),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def test_an_hqq_module(tmp_path):
    tensor = read_arrays(tmp_path, hqq_module(), {})
    assert (tensor.name, tensor.shape) == ("m.weight", (48, 256))
    assert set(tensor.parts) == {"data", "scales", "zeros", "nbits", "group_size", "axis", "shape", "packing"}
    plan = convert(tmp_path / "model.safetensors", tmp_path / "copy", None)
    assert {step.fidelity.value for step in plan.steps} == {"copy"}
    convert(tmp_path / "model.safetensors", tmp_path / "dense", "F32")
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    assert np.array_equal(dense["m.weight"].numpy(), hqq_golden("hqq_4b_axis0")[2])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"zero": None}, FormatError, "no 'zero'"),
        ({"axis": None}, FormatError, "no 'axis'"),
        ({"nbits": torch.tensor([9])}, FormatError, "cannot be"),
        ({"axis": torch.tensor([2])}, FormatError, "cannot be"),
        ({"shape": torch.tensor([48])}, FormatError, "cannot be"),
        ({"shape": torch.tensor([47, 255])}, FormatError, "whole groups"),
        ({"shape": torch.tensor([48, 512])}, FormatError, "needs"),
        ({"W_q": torch.zeros(32, 192)}, UnsupportedError, "view_as_float"),
        ({"quant_scale": torch.tensor([1], dtype=torch.uint8)}, UnsupportedError, "quantized scales"),
        ({"nbits": torch.tensor([4.0])}, FormatError, "no setting"),
        ({"zero": torch.zeros(1, 192, dtype=torch.float16)}, FormatError, "zeros F16"),
    ],
    ids=[str(n) for n in range(11)],
)
def test_broken_hqq_modules(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        read_arrays(tmp_path, hqq_module(**changes), {})
