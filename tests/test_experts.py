"""Experts in every layout that libraries store them in, to GGUF and to folders."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.errors import PlanError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion
from requant.operations.inspect import report
from tests import tiny_models
from tests.expert_layouts import LAYOUTS, laid_out
from tests.stored import values_of

FAMILIES = ("mixtral", "qwen2moe", "qwen3moe", "olmoe")
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Folders with single experts, as transformers saves them."""
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp("single") / family
        tiny_models.make(family, folders[family], dtype=torch.bfloat16)
    return folders


def convert(source, destination, recipe, format_name="safetensors"):
    request = Request(recipe, vocabulary=False)
    plan = plan_conversion(detect(source).read(source), FORMATS[format_name], destination, request)
    execute(plan, Options(workers=2))
    return plan


def tensors_of(path):
    return {tensor.name: tensor for tensor in detect(path).read(path).tensors}


def same_tensors(one, other):
    """Names, types and values of two files."""
    ours, theirs = tensors_of(one), tensors_of(other)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert (tensor.shape, tensor.encoding) == (theirs[name].shape, theirs[name].encoding), name
        assert np.array_equal(values_of(tensor), values_of(theirs[name])), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_is_the_same_from_every_layout(tmp_path, single, family, layout):
    usual = convert(single[family], tmp_path / "single.gguf", "Q8_0", "gguf")
    plan = convert(laid_out(single[family], tmp_path / "other", layout), tmp_path / "other.gguf", "Q8_0", "gguf")
    same_tensors(tmp_path / "other.gguf", tmp_path / "single.gguf")
    assert plan.losses == usual.losses


def nvfp4(name, array, wholes):
    """What ModelOpt stores of a matrix or a stack: E2M1 codes, scales of E4M3, and one of the whole, or of parts."""
    rng = np.random.default_rng(len(name))
    *stack, rows, columns = array.shape
    scales = rng.integers(1, 100, (*stack, rows, columns // 16)).astype(np.uint8)
    shape = {"one": (), "matrices": tuple(stack), "halves": (*stack, 2)}[wholes if "gate_up" in name else "one"]
    shape = tuple(stack) if wholes != "one" and "gate_up" not in name else shape
    stem = f"{name}_weight" if stack else name
    return {
        name: torch.from_numpy(rng.integers(0, 256, (*stack, rows, columns // 2)).astype(np.uint8)),
        f"{stem}_scale": torch.from_numpy(scales).view(torch.float8_e4m3fn),
        f"{stem}_scale_2": torch.from_numpy(np.array(0.001 * (1 + rng.random(shape)), np.float32)),
        f"{stem.removesuffix('weight')}input_scale": torch.tensor(0.1),
    }


def packed(name, array):
    """What compressed-tensors stores of a stack in 4 bits with zero points."""
    rng = np.random.default_rng(len(name))
    *stack, rows, columns = array.shape
    words = rng.integers(-(2**31), 2**31, (*stack, rows, columns // 8)).astype(np.int32)
    zeros = rng.integers(-(2**31), 2**31, (*stack, rows // 8, columns // 16)).astype(np.int32)
    scales = (0.001 * (1 + rng.random((*stack, rows, columns // 16)))).astype(np.float32)
    arrays = {"packed": words, "scale": scales, "zero_point": zeros, "shape": np.array(array.shape)}
    return {f"{name}_{part}": torch.from_numpy(one) for part, one in arrays.items()}


COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 16, "symmetric": False}}
    },
}
STORED = {
    "nvfp4-one": (MODELOPT, lambda name, array: nvfp4(name, array, "one")),
    "nvfp4-matrices": (MODELOPT, lambda name, array: nvfp4(name, array, "matrices")),
    "nvfp4-halves": (MODELOPT, lambda name, array: nvfp4(name, array, "halves")),
    "packed": (COMPRESSED, packed),
}


def projections(folder, family):
    """ggml's name -> values [experts, out, in] of the stacks in a folder that has them as transformers 5 does."""
    found = {}
    for name, tensor in tensors_of(folder).items():
        if len(tensor.shape) < 3:
            continue
        values, layer = values_of(tensor).reshape(tensor.shape), name.split(".")[2]
        half = values.shape[1] // 2
        parts = {"gate": values[:, :half], "up": values[:, half:]}
        parts = {"down": values} if name.endswith("down_proj") else parts
        found |= {f"blk.{layer}.ffn_{part}_exps.weight": array for part, array in parts.items()}
    return found


@pytest.mark.parametrize("family", ["mixtral", "qwen3moe"])
@pytest.mark.parametrize("stored", STORED)
def test_quantized_stacks_have_their_values_in_a_gguf(tmp_path, single, family, stored):
    """Gate and up are halves of one stack of codes: each takes the scales that are its own."""
    quantization, store = STORED[stored]
    source = laid_out(single[family], tmp_path / "stacks", "in_memory", quantization, store)
    wanted = projections(source, family)
    assert len(wanted) == 6
    convert(source, tmp_path / "m.gguf", "F32", "gguf")
    ours = tensors_of(tmp_path / "m.gguf")
    for name, values in wanted.items():
        assert np.array_equal(values_of(ours[name]).reshape(values.shape), values), name


def test_codes_of_stacks_are_carried_over(tmp_path, single):
    """NVFP4 stays NVFP4: a scale for each expert beside it, its own for gate and for up."""
    source = laid_out(single["mixtral"], tmp_path / "stacks", "in_memory", *STORED["nvfp4-halves"])
    plan = convert(source, tmp_path / "m.gguf", None, "gguf")
    steps = {step.target.name: step for step in plan.steps}
    gate = steps["blk.0.ffn_gate_exps.weight"]
    assert (gate.target.encoding.label, gate.fidelity.value) == ("NVFP4", "repack")
    scales = {
        name: values_of(tensors_of(tmp_path / "m.gguf")[f"blk.0.ffn_{name}_exps.scale"]) for name in ("gate", "up")
    }
    stored = load_file(source / "model.safetensors")["model.layers.0.mlp.experts.gate_up_proj_weight_scale_2"]
    assert np.array_equal(scales["gate"].ravel(), stored[:, 0]) and np.array_equal(scales["up"].ravel(), stored[:, 1])


@pytest.mark.parametrize("stored", STORED)
def test_parameters_of_quantized_stacks_are_counted(tmp_path, single, stored):
    """Two codes in a byte are two parameters; scales are none."""
    source = laid_out(single["qwen3moe"], tmp_path / "stacks", "in_memory", *STORED[stored])
    counted, wanted = (report(detect(path).read(path), "x") for path in (source, single["qwen3moe"]))
    beside = sum("input_scale" in name for name in tensors_of(source))
    assert counted.total.weights == wanted.total.weights + beside


def transposed(folder):
    """Stacks with outputs as rows, as transformers 5 may save what has them as columns on the hub."""
    path = folder / "model.safetensors"
    stacks = ("experts.gate_up_proj", "experts.down_proj")
    tensors = {
        name: value.transpose(1, 2).contiguous() if name.endswith(stacks) else value
        for name, value in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_gguf_is_the_same_whether_outputs_of_stacks_are_rows_or_columns(tmp_path):
    for name in ("hub", "saved"):
        tiny_models.make("qwen3vlmoe-packed", tmp_path / name)
    transposed(tmp_path / "saved")
    for name in ("hub", "saved"):
        convert(tmp_path / name, tmp_path / f"{name}.gguf", "F32", "gguf")
    same_tensors(tmp_path / "hub.gguf", tmp_path / "saved.gguf")


@pytest.mark.parametrize("width", [32, 64])
def test_stacks_whose_shapes_do_not_tell_rows_from_columns_are_refused(tmp_path, width):
    tiny_models.make("qwen3vlmoe-packed", tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["moe_intermediate_size"] = width
    path.write_text(json.dumps(config))
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    for name in tensors:
        if name.endswith("experts.gate_up_proj"):
            tensors[name] = torch.zeros(4, 64, 2 * width)
        elif name.endswith("experts.down_proj"):
            tensors[name] = torch.zeros(4, width, 64)
    save_file(tensors, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PlanError, match="do not tell whether experts"):
        convert(tmp_path / "m", tmp_path / "m.gguf", "F32", "gguf")
