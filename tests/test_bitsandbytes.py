"""bitsandbytes against vectors made by bitsandbytes 0.50.2, and whole folders there and back."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from requant.codecs import codec_for
from requant.encodings import F16
from requant.encodings.bitsandbytes import FourBit, RowInt8
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.execution import Options, execute
from requant.expressions import Stored
from requant.formats import FORMATS, detect
from requant.ir import Tensor
from requant.kernels_cpu.bitsandbytes import TABLES, dynamic_map
from requant.operations.convert import Request, plan_conversion
from requant.plan import Move
from requant.schemes import scheme_named
from tests.tiny_folder import write_tiny_folder

GOLDEN = Path(__file__).parents[1] / "fixtures" / "encodings" / "bitsandbytes"
FOUR_BIT = [
    "bnb_nf4_dq_33x65_float16",
    "bnb_fp4_dq_33x65_float16",
    "bnb_nf4_sq_48x96_float16",
    "bnb_fp4_sq_48x96_float16",
    "bnb_nf4_dq_64x256_bfloat16",
]


def load(name):
    return np.load(GOLDEN / f"{name}.npz")


def four_bit(golden):
    key = next(name for name in golden.files if "quant_state." in name)
    state = json.loads(bytes(golden[key]))
    encoding = FourBit(
        state["quant_type"], state["dtype"], state["blocksize"], "nested_offset" in state, "U8", len(golden[key])
    )
    return encoding, tuple(state["shape"]), encoding.stored_names("weight")


def empty_parts(encoding, shape):
    parts = encoding.parts(shape).items()
    return {name: np.zeros(spec.nbytes, np.uint8).view(spec.dtype.numpy).reshape(spec.shape) for name, spec in parts}


@pytest.mark.parametrize("name", FOUR_BIT)
def test_decoding_is_bit_exact_from_any_row(name):
    golden = load(name)
    encoding, shape, names = four_bit(golden)
    parts = {part: golden[names[part]] for part in encoding.parts(shape)}
    assert all(parts[part].shape == spec.shape for part, spec in encoding.parts(shape).items())
    for start in (0, 1, 5):
        out = np.empty((shape[0] - start, shape[1]), np.float32)
        codec_for(encoding).decode(parts, out, start)
        assert np.array_equal(out, golden["dequant"][start:])  # but for the sign of FP4's second zero


@pytest.mark.parametrize("name", FOUR_BIT)
def test_encoding_gives_the_same_bytes(name):
    golden = load(name)
    encoding, shape, names = four_bit(golden)
    parts = empty_parts(encoding, shape)
    codec_for(encoding).encode(golden["weight_in"], parts)
    for part, array in parts.items():
        if part != "quant_state":
            assert np.array_equal(array, golden[names[part]]), part
    state, theirs = (json.loads(bytes(a)) for a in (parts["quant_state"], golden[names["quant_state"]]))
    assert state == theirs


def test_tables_are_the_library_s():
    golden = load("bnb_codebooks")
    assert np.array_equal(TABLES["nf4"], golden["nf4"])
    assert np.array_equal(TABLES["fp4"], golden["fp4"])
    assert np.array_equal(dynamic_map(), golden["dynamic8"])


def test_int8_is_bit_exact_both_ways():
    golden = load("bnb_int8")
    encoding, shape = RowInt8(marked=False), golden["weight"].shape
    out = np.empty(shape, np.float32)
    codec_for(encoding).decode({"data": golden["weight"], "SCB": golden["SCB"]}, out)
    assert np.array_equal(out, golden["dequant"])
    parts = empty_parts(encoding, shape)
    codec_for(encoding).encode(golden["weight_in"], parts)
    assert np.array_equal(parts["data"], golden["weight"])
    assert np.array_equal(parts["SCB"], golden["SCB"])


def test_a_row_of_zeros_stays_zero():
    for encoding in (FourBit(), FourBit(double=True), FourBit("fp4"), RowInt8()):
        parts = empty_parts(encoding, (4, 64))
        codec_for(encoding).encode(np.zeros((4, 64), np.float32), parts)
        out = np.full((4, 64), 7, np.float32)
        codec_for(encoding).decode(parts, out)
        assert not out.any()


def convert(source, destination, recipe):
    plan = plan_conversion(detect(source).read(source), FORMATS["safetensors"], destination, Request(recipe))
    execute(plan, Options(workers=2))
    return plan


@pytest.mark.parametrize("recipe", ["NF4", "NF4-DQ", "NF4-128", "FP4", "INT8"])
def test_a_folder_there_and_back(tmp_path, recipe):
    """What was rounded once is the same numbers again after dense and quantized copies of it."""
    source = write_tiny_folder(tmp_path / "tiny")
    convert(source, tmp_path / "quantized", recipe)
    config = json.loads((tmp_path / "quantized" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "bitsandbytes"
    convert(tmp_path / "quantized", tmp_path / "copy", None)
    assert detect(tmp_path / "copy").read(tmp_path / "copy").config == config
    convert(tmp_path / "copy", tmp_path / "dense", "F32")
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    quantized = detect(tmp_path / "quantized").read(tmp_path / "quantized")
    dense = {t.name: t for t in detect(tmp_path / "dense").read(tmp_path / "dense").tensors}
    kinds = {type(tensor.encoding).__name__ for tensor in quantized.tensors}
    assert kinds == {"RowInt8" if recipe == "INT8" else "FourBit", "Dense"}
    assert {t.name: t.shape for t in quantized.tensors} == {name: t.shape for name, t in dense.items()}


def broken(folder, **changes):
    golden = load("bnb_nf4_sq_48x96_float16")
    names = {name: golden[name] for name in golden.files if name.startswith("weight") and name != "weight_in"}
    arrays = {f"m.{name}": array for name, array in names.items()}
    for name, array in changes.items():
        key = next(k for k in arrays if k.endswith(name))
        if array is None:
            del arrays[key]
        else:
            arrays[key] = array
    save_file(arrays, folder / "model.safetensors")
    return detect(folder / "model.safetensors").read(folder / "model.safetensors")


def state(**changes):
    golden = load("bnb_nf4_sq_48x96_float16")
    found = json.loads(bytes(golden["weight.quant_state.bitsandbytes__nf4"])) | changes
    return np.frombuffer(json.dumps(found).encode(), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"absmax": None}, "lacks 'm.weight.absmax'"),
        ({"m.weight": None}, "a quant_state, and no weight"),
        ({"absmax": np.ones(71, np.float32)}, "needs F32"),
        ({"__nf4": np.frombuffer(b"{", np.uint8)}, "invalid JSON"),
        ({"__nf4": np.frombuffer(b"[]", np.uint8)}, "must be an object"),
        ({"__nf4": state(shape=[48, -96])}, "the shape is"),
        ({"__nf4": state(shape=[1 << 40, 96])}, "needs"),
        ({"__nf4": state(blocksize=0)}, "the blocksize is 0"),
        ({"__nf4": state(quant_type="fp4")}, "expected 'nf4'"),
        ({"__nf4": state(dtype="int4")}, "expected 'nf4'"),
    ],
)
def test_what_is_broken_is_named_while_planning(tmp_path, changes, message):
    with pytest.raises(FormatError, match=message):
        broken(tmp_path, **changes)


def test_gpu_layouts_are_refused_by_name(tmp_path):
    golden = load("bnb_int8")
    arrays = {"m.weight": golden["weight"], "m.SCB": golden["SCB"], "m.weight_format": np.array(2, np.uint8)}
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match="layout of one kind of GPU"):
        detect(tmp_path / "model.safetensors").read(tmp_path / "model.safetensors")


@pytest.mark.parametrize("recipe", ["NF4", "INT8"])
def test_transposed_matrices_are_refused(recipe):
    """gpt2's lie in the file as [in, out]; bitsandbytes' layers would multiply by the transpose of what is meant."""
    move = Move("transformer.h.0.attn.c_proj.weight", Stored(Tensor("w", (64, 64), F16, {})))
    scheme = scheme_named(recipe)
    assert scheme.apply([move], {"model_type": "llama"}).encodings[0] != F16
    with pytest.raises(PlanError, match="gpt2 keeps its matrices transposed"):
        scheme.apply([move], {"model_type": "gpt2"})


def _linear(*names):
    return [Move(f"{name}.weight", Stored(Tensor(name, (64, 64), F16, {}))) for name in names]


@pytest.mark.parametrize(("recipe", "key"), [("NF4", "llm_int8_skip_modules"), ("AWQ-4-32", "modules_to_not_convert")])
def test_linear_layers_that_stay_dense_are_listed(recipe, key):
    """transformers replaces every linear layer that is not in the list by a quantized one."""
    scheme, block = scheme_named(recipe), "model.layers.0.mlp"
    usual = _linear(f"{block}.down_proj", "lm_head", "model.embed_tokens")
    assert scheme.apply(usual, {}).quantization[key] == {"NF4": ["lm_head"]}.get(recipe)
    routed = _linear(f"{block}.down_proj", f"{block}.gate", "pooler.dense", "lm_head")
    assert sorted(scheme.apply(routed, {}).quantization[key]) == ["lm_head", f"{block}.gate", "pooler.dense"]


def test_transposed_matrices_are_not_read_either(tmp_path):
    """transformers turns gpt2's matrices before it quantizes them: square ones would be read as their transposes."""
    source = write_tiny_folder(tmp_path / "tiny")
    folder = tmp_path / "quantized"
    plan = plan_conversion(detect(source).read(source), FORMATS["safetensors"], folder, Request("NF4"))
    execute(plan, Options(workers=2))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(UnsupportedError, match="transposed the matrices of this gpt2"):
        detect(folder).read(folder)
