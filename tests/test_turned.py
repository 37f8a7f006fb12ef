"""Rotated weights: turned back by the matrices that libraries turn inputs with, or refused by name."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from requant.codecs import codec_for
from requant.encodings.gptq import Gptq
from requant.encodings.scaled import Scaled
from requant.encodings.turned import Turned
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.kernels_cpu.turned import turn_blocks
from tests.models import consumer
from tests.stored import read_folder, values_of
from tests.test_gptq import V1, load, parts_of


def sylvester(size):
    """The slow, obvious matrix."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(size)


@given(st.integers(0, 8), st.integers(1, 5), st.integers(0, 9))
def test_blocks_are_multiplied_by_sylvester_s_matrix(power, blocks, seed):
    block = 1 << power
    values = np.random.default_rng(seed).standard_normal((3, blocks * block)).astype(np.float32)
    wanted = (values.reshape(-1, block).astype(np.float64) @ sylvester(block)).reshape(values.shape)
    turned = values.copy()
    turn_blocks(turned.reshape(-1), block)
    assert np.allclose(turned, wanted, rtol=0, atol=1e-5)
    turn_blocks(turned.reshape(-1), block)  # its own inverse
    assert np.allclose(turned, values, rtol=0, atol=1e-5)


def rotated(tmp_path, module, name="gptq_4b_g32_sym_seq", **config):
    said = {"quant_method": "gptq", "bits": 4, "group_size": 32, "rotation": "hadamard"} | config
    arrays = {f"{module}.{part}": np.ascontiguousarray(array) for part, array in parts_of(name, V1).items()}
    return read_folder(tmp_path, arrays, {"quantization_config": said})


@pytest.mark.parametrize("mode", ["hadamard", "random"])  # a random matrix turns the residual stream on both sides
def test_gptqmodel_s_down_proj_is_turned_back(tmp_path, mode):
    (tensor,) = rotated(tmp_path, "model.layers.0.mlp.down_proj", rotation=mode).tensors
    stored = load("gptq_4b_g32_sym_seq")["dequant_in_out"].T.astype(np.float32)
    columns = stored.shape[1]
    assert tensor.encoding == Turned(Gptq(4, 32), columns)
    assert tensor.encoding.label == f"GPTQ-4b-g32*hadamard-{columns}"
    assert np.allclose(values_of(tensor), stored.astype(np.float64) @ sylvester(columns), rtol=0, atol=1e-5)
    assert np.array_equal(values_of(tensor, 32), values_of(tensor)[32:])


def test_a_rotation_without_the_layer_it_turns_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"rotation .*no such layer is here"):
        rotated(tmp_path, "model.layers.0.mlp.up_proj")


@pytest.mark.slow
def test_it_is_the_matrix_that_gptqmodel_turns_inputs_with():
    utils = consumer("gptqmodel.quantization.rotation.hadamard_utils")
    for size in (64, 256, 1024):
        inputs = torch.randn(5, size, dtype=torch.float64)
        ours = inputs.numpy().astype(np.float32)
        turn_blocks(ours.reshape(-1), size)
        assert np.allclose(ours, utils.matmul_hadU(inputs).numpy(), rtol=0, atol=1e-4)


ROTATIONS = {
    "a random matrix": {"hadamard_type": "random_hadamard"},
    "the residual stream": {"backend": "inplace"},
    "QuaRot": {"hadamard_type": "inplace_quarot_hadamard"},
    "fused into weights": {"fuse_online_to_weight": True},
    "no power of two": {"block_size": 24},
    "no block": {"block_size": None},
    "another key": {"shear": 3},
    "another algorithm": {"algorithm": "cayley"},
}


def packed():
    rng = np.random.default_rng(2)
    return {
        "m.up_proj.weight_packed": rng.integers(0, 256, (8, 32), np.uint8),
        "m.up_proj.weight_scale": rng.integers(120, 130, (8, 2), np.uint8),
    }


def said(rotation, **config):
    known = {"algorithm": "hadamard", "backend": "auto", "block_size": 32, "hadamard_type": "hadamard"}
    quantization = {"quant_method": "auto-round", "data_type": "mx_fp", "bits": 4, "rotation_config": known | rotation}
    return {"quantization_config": quantization | config}


@pytest.mark.parametrize("kind", ROTATIONS)
def test_other_rotations_of_auto_round_are_refused_by_name(tmp_path, kind):
    with pytest.raises(UnsupportedError, match="rotat") as caught:
        read_folder(tmp_path, packed(), said(ROTATIONS[kind]))
    assert "remove" not in caught.value.hint


def test_the_plain_one_is_turned_back(tmp_path):
    for name in ("turned", "plain"):
        (tmp_path / name).mkdir()
    (tensor,) = read_folder(tmp_path / "turned", packed(), said({})).tensors
    assert tensor.encoding == Turned(Scaled("packed", "F4", 1, 32, "U8"), 32)
    (stored,) = read_folder(tmp_path / "plain", packed(), {}).tensors
    plain = values_of(stored)
    wanted = (plain.reshape(-1, 32).astype(np.float64) @ sylvester(32)).reshape(plain.shape)
    assert np.allclose(values_of(tensor), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("data_type", ["int", "fp"])
def test_auto_round_turns_integers_otherwise(tmp_path, data_type):
    """Its dispatcher rotates the residual stream then, which no block of inputs shows."""
    with pytest.raises(UnsupportedError, match="rotation_config of auto-round"):
        read_folder(tmp_path, packed(), said({}, data_type=data_type))


SIDE = ["hadamard_matrix", "spinquant_r1_matrix", "spinquant_r4", "input_rotation", "had_K", "rotation_matrix"]


@pytest.mark.parametrize("name", SIDE)
@pytest.mark.parametrize("weight", [np.zeros((8, 16), np.float16), np.zeros((8, 16), np.float32)])
def test_a_matrix_that_turns_inputs_is_named_beside_any_weight(tmp_path, name, weight):
    arrays = {"m.weight": weight, f"m.{name}": np.eye(16, dtype=np.float32)}
    with pytest.raises(UnsupportedError, match=rf"m\.{name}' says that .* has rotated the inputs"):
        read_folder(tmp_path, arrays)


def test_it_is_read_and_never_written():
    encoding = Turned(Scaled("packed", "F4", 1, 32, "U8"), 32)
    with pytest.raises(UnsupportedError, match="is read, not written"):
        codec_for(encoding).encode(np.zeros((1, 32), np.float32), {})
    with pytest.raises(PlanError, match="no blocks of 64"):
        Turned(encoding.stored, 64).parts((8, 96))


def test_a_damaged_layer_is_an_error_before_it_is_turned(tmp_path):
    arrays = packed() | {"m.up_proj.weight_scale": np.zeros((8, 3), np.uint8)}
    with pytest.raises((FormatError, UnsupportedError)):
        read_folder(tmp_path, arrays, said({}))
