"""HQQ against state dicts that hqq 0.2.8 wrote, and a folder of them on its way elsewhere."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file, save

from requant.codecs import codec_for
from requant.encodings import BLOCKS
from requant.encodings.hqq import FIELDS, Hqq
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from tests.stored import parts_of, read_folder, values_of
from tests.tiny_folder import write_tiny_folder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "encodings" / "hqq"
FILES = sorted(path.stem for path in FIXTURES.glob("*.safetensors"))
VECTORS = sorted(path.stem for path in FIXTURES.glob("*.npz"))


def test_there_is_a_file_of_every_packing():
    assert len(FILES) == 11 and len(VECTORS) == 7


@pytest.mark.parametrize("name", FILES)
def test_state_dicts_are_decoded_bit_for_bit(tmp_path, name):
    checkpoint = read_folder(tmp_path, (FIXTURES / f"{name}.safetensors").read_bytes())
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert set(tensors) == {"m.weight", "m.bias", "dequant"} and tensors["m.weight"].shape == (48, 96)
    wanted = load_file(FIXTURES / f"{name}.safetensors")["dequant"].numpy()
    for start in (0, 1, 29, 47):
        assert np.array_equal(values_of(tensors["m.weight"], start), wanted[start:])


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_float32_scales(name):
    golden = np.load(FIXTURES / f"{name}.npz")
    bits, axis = (int(n) for n in re.findall(r"_(\d)b_axis(\d)", name)[0])
    encoding = Hqq(bits, 64, axis, "F32", "I32" if bits == 3 else "U8")
    parts = {"data": golden["W_q"], "scale": golden["scale"], "zero": golden["zero"]}
    assert {part: array.shape for part, array in parts.items()} == {
        part: spec.shape for part, spec in encoding.parts(golden["dequant"].shape).items()
    }
    for start in (0, 7):
        out = np.empty(golden["dequant"][start:].shape, np.float32)
        codec_for(encoding).decode(parts, out, start)
        assert np.array_equal(out, golden["dequant"][start:])


def naive_fields(codes, width):
    """Codes [rows, columns] as fields: slabs of rows, the first in the highest bits."""
    fields, rows = FIELDS[width], len(codes)
    slab = -(-rows // fields)
    padded = np.zeros((slab * fields, codes.shape[1]), np.int64)
    padded[:rows] = codes
    stored = sum(padded[n * slab : (n + 1) * slab] << width * (fields - 1 - n) for n in range(fields))
    return stored.astype(np.int32 if width == 3 else np.uint8)


@pytest.mark.parametrize("width", FIELDS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("shape", "group"), [((16, 24), 24), ((8, 40), 8), ((40, 16), 64)])
def test_any_size_and_group(width, axis, shape, group):
    rng = np.random.default_rng(width)
    encoding = Hqq(width, group, axis, "F32", "I32" if width == 3 else "U8")
    rows, columns = encoding.layout(shape)
    if width != 3 and rows % FIELDS[width]:
        with pytest.raises(PlanError, match="do not divide"):
            encoding.parts(shape)
        return
    codes = rng.integers(0, 1 << width, (rows, columns))
    scale, zero = (rng.uniform(0.5, 2, (rows, 1) if axis else (1, columns)).astype(np.float32) for _ in range(2))
    parts = {"data": naive_fields(codes, width), "scale": scale, "zero": zero}
    assert parts["data"].shape == encoding.parts(shape)["data"].shape
    out = np.empty(shape, np.float32)
    codec_for(encoding).decode(parts, out)
    assert np.array_equal(out, ((codes.astype(np.float32) - zero) * scale).reshape(shape))


def test_labels_are_unique():
    encodings = [Hqq(width, group, axis, "F16", storage) for width in FIELDS for group in (32, 64) for axis in (0, 1)
                 for storage in ("U8", "F16", "I32")]  # fmt: skip
    assert len({encoding.label for encoding in encodings}) == len(encodings)


def stored(name="4b_axis1_bfloat16", **changes):
    """A state dict with some arrays changed, or taken out."""
    arrays = {key: array for key, array in load_file(FIXTURES / f"{name}.safetensors").items() if key != "dequant"}
    for key, array in changes.items():
        if array is None:
            del arrays[f"m.{key}"]
        else:
            arrays[f"m.{key}"] = torch.from_numpy(np.asarray(array))
    return save(arrays)


def text(string):
    return np.frombuffer(string.encode(), np.uint8).copy()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scale": None}, FormatError, "has no 'scale'"),
        ({"zero": None}, FormatError, "lacks 'm.zero'"),
        ({"shape": None}, FormatError, "has no 'shape'"),
        ({"shape": np.int64([48])}, FormatError, "not two sizes"),
        ({"shape": np.int64([-48, 96])}, FormatError, "not two sizes"),
        ({"shape": np.int64([1 << 40, 96])}, FormatError, "'m.scale' is|needs"),
        ({"shape": np.zeros(500, np.int64)}, FormatError, "describe nothing"),
        ({"packing": text("4bit_u9")}, FormatError, "none of"),
        ({"packing": text("2bit_u8")}, FormatError, "needs U8"),
        ({"packing": None, "nbits": np.int32(7)}, FormatError, "'m.nbits' is 7"),
        ({"packing": None, "nbits": None}, FormatError, "neither"),
        ({"W_q": np.zeros((72, 31), np.uint8)}, FormatError, "needs U8"),
        ({"W_q": np.zeros((72, 32), np.int64)}, FormatError, "W_q is I64"),
        ({"scale": np.zeros((12, 12), np.float16)}, FormatError, "'m.scale' is"),
        ({"quant_zero": np.uint8(1)}, UnsupportedError, "quantized themselves"),
    ],
    ids=[str(n) for n in range(15)],
)
def test_what_is_broken_is_named_while_planning(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        read_folder(tmp_path, stored(**changes))


def test_the_number_of_bits_is_enough(tmp_path):
    tensors = read_folder(tmp_path, stored(packing=None)).tensors
    assert "HQQ-4b-g32-axis1-BF16" in {tensor.encoding.label for tensor in tensors}


def hqq_folder(tmp_path):
    """A tiny llama whose linear layers are HQQ, 4 bits in groups of 64 along the inputs."""
    folder = write_tiny_folder(tmp_path / "tiny")
    arrays = {}
    for tensor in detect(folder).read(folder).tensors:
        values = values_of(tensor).reshape(tensor.shape)
        if "_proj" not in tensor.name:
            arrays[tensor.name] = values.astype(np.float16)
            continue
        x = values.reshape(-1, 64)
        scale = ((x.max(1, keepdims=True) - x.min(1, keepdims=True)) / 15).astype(np.float16)
        zero = (-x.min(1, keepdims=True) / scale).astype(np.float16)
        codes = np.rint(x / scale + zero).clip(0, 15).astype(np.uint8)
        described = {"nbits": np.int32(4), "axis": np.int32(1), "shape": np.int64(tensor.shape)}
        described |= {"packing": text("4bit_u8"), "encoded_state_dict": np.uint8(1)}
        found = {"W_q": naive_fields(codes, 4), "scale": scale, "zero": zero} | described
        arrays |= {f"{tensor.name.removesuffix('.weight')}.{key}": np.asarray(array) for key, array in found.items()}
    save_file(arrays, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "hqq"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_to_gguf_to_dense_and_as_it_is(tmp_path):
    source = hqq_folder(tmp_path)
    for destination, recipe, format_name in (
        ("dense", "F32", "safetensors"),
        ("copy", None, "safetensors"),
        ("m.gguf", "Q8_0", "gguf"),
    ):
        plan = plan_conversion(
            detect(source).read(source), FORMATS[format_name], tmp_path / destination, Request(recipe)
        )
        execute(plan, Options(workers=2))
    quantized = {tensor.name: tensor for tensor in detect(source).read(source).tensors}
    assert sum(isinstance(tensor.encoding, Hqq) for tensor in quantized.values()) == 14
    for tensor in detect(tmp_path / "dense").read(tmp_path / "dense").tensors:
        assert np.array_equal(values_of(tensor), values_of(quantized[tensor.name])), tensor.name
    copied = {tensor.name: tensor for tensor in detect(tmp_path / "copy").read(tmp_path / "copy").tensors}
    for name, tensor in quantized.items():
        assert all(np.array_equal(a, parts_of(copied[name])[part]) for part, a in parts_of(tensor).items())
    blocks = {tensor.encoding for tensor in detect(tmp_path / "m.gguf").read(tmp_path / "m.gguf").tensors}
    assert BLOCKS["Q8_0"] in blocks
