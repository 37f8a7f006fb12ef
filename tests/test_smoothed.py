"""ModelOpt's scales of inputs (`pre_quant_scale`): weights mean what a model computes with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.codecs import codec_for
from requant.encodings import F32
from requant.encodings.compressed import RowPairs
from requant.encodings.scaled import Scaled
from requant.encodings.smoothed import Smoothed
from requant.errors import FormatError, UnsupportedError
from requant.execution import execute
from requant.formats import FORMATS, detect
from requant.losses import LossKind
from requant.operations.convert import Request, plan_conversion
from requant.plan import Fidelity
from tests.stored import read_folder, values_of
from tests.test_scaled import MODELOPT_NVFP4, encoded

FP8, ROWS, COLUMNS = torch.float8_e4m3fn, 64, 256
RNG = np.random.default_rng(8)
WEIGHT = RNG.standard_normal((ROWS, COLUMNS)).astype(np.float32)
GOLDEN = Path(__file__).parents[1] / "fixtures" / "encodings" / "scaled"


def scales(dtype=torch.bfloat16):
    return torch.from_numpy(RNG.uniform(0.1, 4, COLUMNS)).to(dtype)


def nvfp4():
    parts = encoded(MODELOPT_NVFP4, WEIGHT)
    blocks = torch.from_numpy(parts["scales"]).view(FP8)
    whole = torch.tensor(float(parts["whole"]))
    return {"weight": torch.from_numpy(parts["data"]), "weight_scale": blocks, "weight_scale_2": whole}


def int4():
    golden = np.load(GOLDEN / "modelopt_int4awq.npz")
    return {name: torch.from_numpy(golden[name]) for name in ("weight", "weight_scale")}


def fp8():
    return {"weight": torch.from_numpy(WEIGHT).to(FP8), "weight_scale": torch.rand(ROWS, 1)}


LAYERS = {
    "nvfp4": (nvfp4, MODELOPT_NVFP4),
    "int4": (int4, RowPairs(128)),
    "fp8": (fp8, Scaled("ct", "F8_E4M3")),
    "dense": (lambda: {"weight": torch.from_numpy(WEIGHT)}, F32),
}
CONFIG = {"quantization_config": {"quant_method": "modelopt"}}


def write(folder, arrays):
    folder.mkdir(exist_ok=True)
    save_file({f"model.layers.0.m.{name}": array for name, array in arrays.items()}, folder / "model.safetensors")
    return read_folder(folder, (folder / "model.safetensors").read_bytes(), CONFIG)


@pytest.mark.parametrize("name", LAYERS)
def test_columns_are_multiplied(tmp_path, name):
    make, encoding = LAYERS[name]
    arrays, inputs = make(), scales()
    (plain,) = write(tmp_path / "plain", arrays).tensors
    (tensor,) = write(tmp_path / "m", {**arrays, "pre_quant_scale": inputs}).tensors
    assert plain.encoding == encoding
    assert tensor.encoding == Smoothed(encoding, "BF16")
    wanted = values_of(plain) * inputs.float().numpy()
    for start in (0, 2, 6):
        assert np.array_equal(values_of(tensor, start), wanted[start:])
    # what ModelOpt computes: the inputs times their scales, then the product with the weight as it is stored
    x = RNG.standard_normal((5, COLUMNS))
    assert np.allclose(x * inputs.double().numpy() @ values_of(plain).T, x @ values_of(tensor).T, atol=1e-3)


@pytest.mark.parametrize("name", LAYERS)
def test_folders_are_copied_or_become_plain(tmp_path, name):
    arrays = {**LAYERS[name][0](), "pre_quant_scale": scales(torch.float32)}
    source = write(tmp_path / "m", arrays)
    execute(plan_conversion(source, FORMATS["safetensors"], tmp_path / "copy", Request()))
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("m", "copy"))
    assert before.keys() == after.keys()
    assert all(torch.equal(array.float(), after[key].float()) for key, array in before.items())
    for recipe, fidelity in (("F32", Fidelity.REPACK), ("NF4", Fidelity.ROUND)):
        plan = plan_conversion(source, FORMATS["safetensors"], tmp_path / recipe, Request(recipe))
        assert {step.fidelity for step in plan.steps} == {fidelity}
        assert (LossKind.REQUANTIZED in {loss.kind for loss in plan.losses}) == (recipe == "NF4")
        execute(plan)
        (again,) = detect(tmp_path / recipe).read(tmp_path / recipe).tensors
        wanted = values_of(source.tensors[0])
        assert np.abs(values_of(again) - wanted).max() <= (0 if recipe == "F32" else 0.2) * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"pre_quant_scale": torch.ones(COLUMNS - 1)}, FormatError, r"F32\[255\]; .* has rows of 256"),
        ({"pre_quant_scale": torch.ones(COLUMNS, dtype=torch.int32)}, FormatError, r"I32\[256\]"),
        ({"pre_quant_scale": torch.ones(2, COLUMNS // 2)}, FormatError, "has rows of 256"),
        ({"pre_quant_scale": torch.ones(COLUMNS), "svdquant_lora_a": torch.ones(8, COLUMNS)}, UnsupportedError, "SVD"),
    ],
)
def test_what_cannot_be_meant(tmp_path, arrays, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path / "m", {**nvfp4(), **arrays})


def test_scales_without_a_weight_and_of_other_families(tmp_path):
    with pytest.raises(FormatError, match="has no 'weight'"):
        write(tmp_path / "m", {"pre_quant_scale": torch.ones(COLUMNS)})
    integers = {"weight": torch.ones(ROWS, COLUMNS, dtype=torch.int64), "pre_quant_scale": torch.ones(COLUMNS)}
    with pytest.raises(UnsupportedError, match="its inputs have scales"):
        write(tmp_path / "m", integers)


def test_it_is_never_written():
    codec = codec_for(Smoothed(F32))
    with pytest.raises(UnsupportedError, match="read, not written"):
        codec.encode(np.zeros((1, 4), np.float32), {})
