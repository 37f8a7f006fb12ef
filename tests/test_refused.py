"""Formats that are recognized and refused by name, whatever fold might take their arrays for its own."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from requant.errors import UnsupportedError
from requant.formats import detect

BYTES, WORDS, FLOATS = np.zeros((8, 32), np.uint8), np.zeros((8, 32), np.int32), np.zeros((8, 32), np.float16)

KNOWN = {
    "EXL3": ({"trellis": np.zeros((2, 2, 64), np.int16), "suh": FLOATS[0], "svh": FLOATS[0]}, "exl3"),
    "torchao": ({"_weight_qdata": BYTES, "_weight_scale": FLOATS}, "torchao"),
    "AQLM": ({"codes": np.zeros((8, 4, 1), np.int16), "codebooks": FLOATS, "scales": FLOATS}, "aqlm"),
    "QuIP#": ({"Qidxs": np.zeros((8, 4), np.int16), "SU": FLOATS[0], "SV": FLOATS[0]}, None),
    "VPTQ": ({"indices": WORDS, "centroids": FLOATS}, "vptq"),
    "SpQR": ({"dense_weights": WORDS, "row_offsets": WORDS[0]}, "spqr"),
    "HIGGS": ({"qweight": WORDS, "scales": FLOATS, "tables2": FLOATS}, "higgs"),
    "FP-Quant": ({"qweight": BYTES, "scales": BYTES, "forward_hadamard_matrix": FLOATS}, "fp_quant"),
    "EETQ": ({"weight": BYTES.view(np.int8), "weight_scales": FLOATS[0]}, "eetq"),
    "quanto": ({"weight._data": BYTES.view(np.int8), "weight._scale": FLOATS[:, :1]}, None),
    "BitNet": ({"weight": BYTES, "weight_scale": FLOATS[0, :1]}, "bitnet"),
    "Quark": ({"weight": WORDS, "weight_scale": FLOATS}, "quark"),
}


def opened(folder, arrays, method):
    save_file({f"model.layers.0.up_proj.{name}": array for name, array in arrays.items()}, folder / "model.safetensors")
    config = {"model_type": "llama"} | ({} if method is None else {"quantization_config": {"quant_method": method}})
    (folder / "config.json").write_text(json.dumps(config))
    return detect(folder).read(folder)


@pytest.mark.parametrize("name", KNOWN)
def test_refused_by_name(tmp_path, name):
    with pytest.raises(UnsupportedError, match=f"is stored as {name}, which is not read"):
        opened(tmp_path, *KNOWN[name])


@pytest.mark.parametrize("method", ["exl3", "torchao", "quark", "bitnet"])
def test_a_label_left_over_on_plain_weights_refuses_nothing(tmp_path, method):
    assert len(opened(tmp_path, {"weight": FLOATS}, method).tensors) == 1


def test_quark_s_eight_bit_floats_are_read(tmp_path):
    import torch
    from safetensors.torch import save_file as save

    arrays = {"m.weight": torch.ones(8, 32).to(torch.float8_e4m3fn), "m.weight_scale": torch.ones(())}
    save(arrays, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "quark"}}))
    assert [tensor.name for tensor in detect(tmp_path).read(tmp_path).tensors] == ["m.weight"]


def test_plain_weights_beside_scales_are_used_as_they_are(tmp_path):
    arrays = {"weight": FLOATS, "weight_scale": FLOATS[:, :1], "weight_zero_point": BYTES[:, :1].view(np.int8)}
    tensors = {tensor.name: tensor for tensor in opened(tmp_path, arrays, "compressed-tensors").tensors}
    assert tensors["model.layers.0.up_proj.weight"].encoding.label == "F16"
