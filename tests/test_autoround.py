"""Folders that auto-round 0.16.1 made: layouts by `packing_format`, bits of layers, and its own dequantized values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from tests.stored import read_folder, values_of

GOLDEN = Path(__file__).parents[1] / "fixtures/encodings/autoround"
#: kind -> what its layers are, q_proj and down_proj.
KINDS = {
    "sym4": ("GPTQ-4b-g32-nogidx", "GPTQ-4b-g32-nogidx"),
    "asym4_awq": ("AWQ-4b-g32", "AWQ-4b-g32"),
    "asym2": ("GPTQ-2b-g32-asym-v2-nogidx", "GPTQ-2b-g32-asym-v2-nogidx"),
    "asym3": ("GPTQ-3b-g32-asym-v2-nogidx", "GPTQ-3b-g32-asym-v2-nogidx"),
    "asym4_auto_gptq": ("GPTQ-4b-g32-asym-nogidx", "GPTQ-4b-g32-asym-nogidx"),
    "asym4_gptqmodel": ("GPTQ-4b-g32-asym-v2", "GPTQ-4b-g32-asym-v2"),
    "mixed": ("GPTQ-8b-g32-nogidx", "GPTQ-4b-g32-nogidx"),
    "mxfp4": ("FP4-g32-U8-packed", "FP4-g32-U8-packed"),
    "mxfp4_rotated": ("FP4-g32-U8-packed*hadamard-32", "FP4-g32-U8-packed*hadamard-32"),
    "mxfp8": ("FP8-g32-U8-ct", "FP8-g32-U8-ct"),
    "mxint4": ("MXINT4-g32-U8-packed", "MXINT4-g32-U8-packed"),
}
FLOATS = {"float8_e4m3fn": torch.float8_e4m3fn, "bfloat16": torch.bfloat16}


def golden(kind):
    """(stored arrays as a safetensors file, quantization_config, dequantized weights)."""
    stored, values = {}, {}
    with safe_open(GOLDEN / f"{kind}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        for key in file.keys():  # noqa: SIM118 - no mapping
            part, _, name = key.partition(".")
            name, _, dtype = name.partition("@")
            array = file.get_tensor(key)
            if part == "stored":
                stored[name] = array.view(FLOATS[dtype]) if dtype else array
            else:
                values[name] = array.numpy()
    return save(stored), config, values


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_auto_round_s_own_layers(tmp_path, kind):
    stored, config, values = golden(kind)
    checkpoint = read_folder(tmp_path, stored, {"quantization_config": config})
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert checkpoint.notices == ()
    assert len(values) == 2
    labels = {name: tensors[name].encoding.label for name in values}
    assert labels == dict(zip(sorted(labels, reverse=True), KINDS[kind], strict=True))
    for name, wanted in values.items():
        ours = values_of(tensors[name])
        if kind == "mxfp4_rotated":  # its hook multiplies by the root of 1/32 in BF16
            wanted = wanted * np.float32(32**-0.5 / float(torch.tensor(32**-0.5, dtype=torch.bfloat16)))
            assert np.abs(ours - wanted).max() < 1e-6 * np.abs(wanted).max()
        else:
            assert np.array_equal(ours, wanted), np.abs(ours - wanted).max()
