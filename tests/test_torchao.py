"""torchao's weights, quantized and flattened by torchao itself, are the values that it dequantizes them to."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from requant.errors import UnsupportedError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from tests.models import consumer
from tests.stored import read_folder, values_of

#: kind -> (torchao's configuration and its arguments, what the encoding is called).
KINDS = {
    "int8": ("Int8WeightOnlyConfig", {}, "INT8-channel-F32-torchao-zero-I8"),
    "int8 with int8 inputs": ("Int8DynamicActivationInt8WeightConfig", {}, "INT8-channel-F32-torchao-zero-I8"),
    "float8": ("Float8WeightOnlyConfig", {}, "FP8-channel-F32-torchao"),
    "4 bits in groups": (
        "IntxWeightOnlyConfig",
        {"weight_dtype": torch.int4, "granularity": ("PerGroup", 32)},
        "INT8-g32-BF16-torchao-zero-I8",
    ),
    "3 bits by row": (
        "IntxWeightOnlyConfig",
        {"weight_dtype": torch.int3, "granularity": ("PerAxis", 0)},
        "INT8-channel-BF16-torchao-zero-I8",
    ),
    "4 bits with int8 inputs": (
        "Int8DynamicActivationIntxWeightConfig",
        {"weight_dtype": torch.int4, "weight_granularity": ("PerGroup", 32)},
        "INT8-g32-BF16-torchao-zero-I8",
    ),
}


def configured(kind):
    """torchao's own configuration."""
    quantization = consumer("torchao.quantization")
    name, arguments, _ = KINDS[kind]
    made = {
        key: getattr(quantization, value[0])(value[1]) if isinstance(value, tuple) else value
        for key, value in arguments.items()
    }
    return getattr(quantization, name)(**made)


def store(folder, how, names=("model.layers.0.mlp.up_proj",)):
    """A folder as transformers saves it, and what torchao dequantizes its weights to."""
    flatten_tensor_state_dict = consumer("torchao.prototype.safetensors.safetensors_support").flatten_tensor_state_dict
    quantize_ = consumer("torchao.quantization").quantize_
    arrays, metadata, values = {}, {"format": "pt"}, {}
    torch.manual_seed(3)
    for name in names:
        layer = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False, dtype=torch.bfloat16))
        layer[0].weight.data += 0.02
        quantize_(layer, how)
        flat, told = flatten_tensor_state_dict({f"{name}.weight": layer[0].weight.data})
        arrays |= flat
        metadata |= told
        values[f"{name}.weight"] = layer[0].weight.data.dequantize().float().numpy()
    metadata["tensor_names"] = json.dumps([f"{name}.weight" for name in names])
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / "model.safetensors", metadata)
    config = {"model_type": "llama", "quantization_config": {"quant_method": "torchao", "quant_type": {"default": {}}}}
    (folder / "config.json").write_text(json.dumps(config))
    return values


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_torchao_s(tmp_path, kind):
    label = KINDS[kind][-1]
    wanted = store(tmp_path, configured(kind))
    (tensor,) = detect(tmp_path).read(tmp_path).tensors
    assert tensor.encoding.label == label
    rounded = torch.from_numpy(values_of(tensor)).bfloat16().float().numpy()  # torchao gives the dtype of the model
    assert np.array_equal(rounded, wanted[tensor.name])


@pytest.mark.slow
def test_a_converted_folder_says_nothing_of_torchao_any_more(tmp_path):
    wanted = store(tmp_path / "in", configured("int8"), ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"))
    source = detect(tmp_path / "in").read(tmp_path / "in")
    plan = plan_conversion(source, FORMATS["safetensors"], tmp_path / "out", Request("BF16"))
    execute(plan, Options(workers=1))
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        for name, value in wanted.items():
            assert np.array_equal(file.get_tensor(name).float().numpy(), value)
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())


@pytest.mark.slow
def test_a_copy_stays_torchao_s(tmp_path):
    store(tmp_path / "in", configured("4 bits in groups"))
    source = detect(tmp_path / "in").read(tmp_path / "in")
    execute(plan_conversion(source, FORMATS["safetensors"], tmp_path / "out", Request()), Options(workers=1))
    with (
        safe_open(tmp_path / "in/model.safetensors", "pt") as old,
        safe_open(tmp_path / "out/model.safetensors", "pt") as new,
    ):
        assert new.metadata() == old.metadata()
        assert {name: new.get_tensor(name).tolist() for name in new.keys()} == {  # noqa: SIM118 - no mapping
            name: old.get_tensor(name).tolist()
            for name in old.keys()  # noqa: SIM118 - no mapping
        }
    before, after = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("in", "out"))
    assert after["quantization_config"] == before["quantization_config"]


@pytest.mark.parametrize("kind", ["Int4Tensor", "Int4TilePackedTo4dTensor", "NVFP4Tensor", "MXTensor", "FutureTensor"])
def test_other_classes_are_named(tmp_path, kind):
    arrays = {"m._weight_qdata": torch.zeros(8, 16, dtype=torch.uint8), "m._weight_scale": torch.ones(8, 1)}
    said = json.dumps({"_type": kind, "_data": {}, "_tensor_data_names": ["qdata", "scale"]})
    save_file(arrays, tmp_path / "model.safetensors", {"m.weight": said, "tensor_names": '["m.weight"]'})
    with pytest.raises(UnsupportedError, match=f"torchao's {kind}, which is not read"):
        detect(tmp_path).read(tmp_path)


@pytest.mark.slow
def test_an_array_that_scales_the_inputs_is_refused(tmp_path):
    store(tmp_path, configured("int8"))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    arrays["model.layers.0.mlp.up_proj._weight_act_pre_scale"] = torch.ones(64)
    save_file(arrays, tmp_path / "model.safetensors", metadata)
    with pytest.raises(UnsupportedError, match="_weight_act_pre_scale' lies beside a quantized weight"):
        detect(tmp_path).read(tmp_path)


@pytest.mark.parametrize("zeros", [True, False])
def test_what_a_row_of_numbers_means(tmp_path, zeros):
    rng = np.random.default_rng(5)
    codes, scales = rng.integers(-128, 128, (8, 64), np.int8), rng.random((8, 2), np.float32)
    points = rng.integers(-8, 8, (8, 2), np.int8) if zeros else np.zeros((8, 2), np.int8)
    arrays = {"m._weight_qdata": codes, "m._weight_scale": scales}
    arrays |= {"m._weight_zero_point": points} if zeros else {}
    said = json.dumps({"_type": "IntxUnpackedToInt8Tensor", "_data": {"block_size": [1, 32]}})
    (tensor,) = read_folder(tmp_path, arrays, metadata={"m.weight": said, "tensor_names": '["m.weight"]'}).tensors
    wanted = (codes.astype(np.float32) - points.repeat(32, 1)) * scales.repeat(32, 1)
    assert np.array_equal(values_of(tensor), wanted)
    assert tensor.shape == (8, 64)


@pytest.mark.parametrize("said", [None, "{", "[]", '{"_type": 3}', "9" * 5000])
def test_a_class_that_is_not_told_is_refused(tmp_path, said):
    arrays = {"m._weight_qdata": np.zeros((8, 16), np.int8), "m._weight_scale": np.ones((8, 1), np.float32)}
    with pytest.raises(UnsupportedError, match=r"'m\._weight_qdata' is quantized by torchao, which is not read"):
        read_folder(tmp_path, arrays, metadata=None if said is None else {"m.weight": said})
