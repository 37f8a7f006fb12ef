"""Families that are not read are named, whether their arrays or only their configuration tell."""

import numpy as np
import pytest
import torch
from safetensors.torch import save

from requant.errors import FormatError, UnsupportedError
from tests.stored import read_folder

BYTES, HALVES = np.zeros((8, 16), np.uint8), np.zeros((8, 16), np.float16)
WORDS = np.zeros((8, 16), np.int32)

ARRAYS = {
    "EXL3": {"trellis": np.zeros((2, 2, 48), np.int16), "suh": HALVES[0], "svh": HALVES[0]},
    "AQLM": {"codes": np.zeros((8, 2, 1), np.int16), "codebooks": HALVES, "scales": HALVES},
    "QuIP#": {"Qidxs": np.zeros((8, 2), np.int64), "SU": HALVES[0], "SV": HALVES[0]},
    "VPTQ": {"indices": WORDS, "centroids.weight": HALVES},
    "SpQR": {"dense_weights": np.zeros(9, np.int64), "row_offsets": WORDS[0], "col_vals": WORDS[0]},
    "HIGGS": {"weight": np.zeros((8, 16), np.int16), "scales": HALVES, "tables": HALVES, "tables2": HALVES},
    "FP-Quant": {"qweight": BYTES, "scales": BYTES, "forward_hadamard_matrix": HALVES},
    "torchao": {"_weight_qdata": BYTES, "_weight_scale": HALVES},
    "quanto": {"weight._data": BYTES, "weight._scale": HALVES},
    "EETQ": {"weight": np.zeros((8, 16), np.int8), "weight_scales": HALVES[0]},
    "Quark": {"weight": WORDS, "weight_quantizer.scale": HALVES},
    "AWQ with divided activations": {"act.scales": HALVES[0]},
    "BitNet": {"weight": BYTES, "weight_scale": np.ones(1, np.float32)},
}


@pytest.mark.parametrize("family", ARRAYS)
def test_arrays_tell_without_any_configuration(tmp_path, family):
    with pytest.raises(UnsupportedError, match=f"'model.m.*' is quantized by {family}, which is not read here") as told:
        read_folder(tmp_path, {f"model.m.{name}": array for name, array in ARRAYS[family].items()})
    assert told.value.hint


@pytest.mark.parametrize("method", ["torchao", "quark", "aqlm", "vptq", "spqr", "higgs", "eetq", "quanto", "fp_quant"])
def test_the_configuration_tells_when_arrays_do_not(tmp_path, method):
    config = {"quantization_config": {"quant_method": method}}
    with pytest.raises(UnsupportedError, match="strange' is quantized by"):
        read_folder(tmp_path, {"model.m.strange": WORDS}, config)
    floats = read_folder(tmp_path, {"model.m.weight": HALVES, "model.m.positions": np.arange(4)}, config)
    assert len(floats.tensors) == 2  # quantized when loaded, not stored so


def test_fp8_of_quark_is_read(tmp_path):
    """It has the arrays of others."""
    config = {"quantization_config": {"quant_method": "quark"}}
    arrays = {"m.weight": torch.zeros(8, 16, dtype=torch.float8_e4m3fn), "m.weight_scale": torch.ones(1)}
    tensors = read_folder(tmp_path, save(arrays), config).tensors
    assert [tensor.encoding.label for tensor in tensors] == ["FP8-tensor-F32-ct"]


@pytest.mark.parametrize("names", [["codes"], ["indices"], ["codebooks"], ["tables2"]])
def test_a_common_name_alone_is_no_family(tmp_path, names):
    assert read_folder(tmp_path, {f"m.{name}": HALVES for name in names}).tensors


def test_plain_weights_beside_scales_are_used_as_they_are(tmp_path):
    arrays = {"m.weight": HALVES, "m.weight_scale": HALVES[:, :1], "m.weight_zero_point": np.zeros((8, 1), np.int8)}
    config = {"quantization_config": {"quant_method": "compressed-tensors"}}
    tensors = {tensor.name: tensor for tensor in read_folder(tmp_path, arrays, config).tensors}
    assert tensors["m.weight"].encoding.label == "F16"


def test_quark_s_words_are_not_read(tmp_path):
    arrays = {"m.weight": WORDS, "m.weight_scale": HALVES}
    with pytest.raises(UnsupportedError, match="Quark"):
        read_folder(tmp_path, arrays, {"quantization_config": {"quant_method": "quark"}})


# What is left of a module of which a part is missing: a copy, or plain numbers, would lack the weight.
LEFT = {
    "GPTQ without codes": {"qzeros": WORDS, "scales": HALVES, "g_idx": np.arange(8, dtype=np.int32)},
    "EXL2 without codes": {"q_scale": WORDS, "q_scale_max": HALVES[0], "q_invperm": np.arange(8, dtype=np.int32)},
    "compressed-tensors without codes": {"weight_scale": HALVES, "weight_shape": np.array([8, 16])},
    "compressed-tensors without a shape": {"weight_packed": WORDS, "weight_scale": HALVES},
    "NVFP4 without scales": {"weight_packed": BYTES, "weight_global_scale": HALVES[0, :1]},
    "FP8 without codes": {"weight_scale": HALVES},
    "NF4 without its description": {"weight": BYTES, "weight.absmax": HALVES[0], "weight.quant_map": HALVES[0]},
    "HQQ without codes": {"unpack_view_dtype": np.zeros(11, np.uint8), "scale": HALVES, "zero": HALVES},
    "gpt-oss without blocks": {"gate_up_proj_scales": np.zeros((2, 8, 4), np.uint8)},
}


@pytest.mark.parametrize("case", LEFT)
def test_parts_without_their_others_are_named(tmp_path, case):
    with pytest.raises(FormatError, match=r"'model\.m\..*is a part of a quantized weight whose others are missing"):
        read_folder(tmp_path, {f"model.m.{name}": array for name, array in LEFT[case].items()})


@pytest.mark.parametrize("codes", [BYTES, BYTES.astype(np.int8), WORDS])
def test_weights_of_integers_need_scales(tmp_path, codes):
    good = {"a.weight": BYTES.astype(np.int8), "a.weight_scale": np.ones((8, 1), np.float32)}
    with pytest.raises(FormatError, match=r"'b\.weight' is [IU]\d+ and has no scales"):
        read_folder(tmp_path, good | {"b.weight": codes})
    assert read_folder(tmp_path, {"b.weight": codes}).tensors  # a table of numbers is no model


def test_scales_of_a_model_that_is_quantized_have_a_weight(tmp_path):
    """Their name alone says nothing: MLX and GPTQ use it, and plain models may."""
    config = {"quantization_config": {"quant_method": "mlx", "bits": 4}}
    assert read_folder(tmp_path, {"m.scales": HALVES, "m.biases": HALVES}).tensors
    with pytest.raises(FormatError, match=r"'m\.(biases|scales)' is a part"):
        read_folder(tmp_path, {"m.scales": HALVES, "m.biases": HALVES}, config)
    arrays = {"m.weight": HALVES, "m.scales": HALVES}
    assert len(read_folder(tmp_path, arrays, config).tensors) == 2


def test_scales_of_attention_belong_to_no_weight(tmp_path):
    names = [f"m.self_attn.{name}" for name in ("q_scale", "k_scale", "v_scale", "k_scale_inv", "prob_scale")]
    config = {"quantization_config": {"quant_method": "fp8"}}
    assert len(read_folder(tmp_path, dict.fromkeys(names, HALVES[0, :1]), config).tensors) == len(names)
