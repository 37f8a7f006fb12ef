"""Every strategy, width, type and format of compressed-tensors, from arrays that it made itself.

`fixtures/encodings/compressed/make.py` has the product; the slow test asks the library anew, with more sizes.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from requant.encodings.compressed import Packed
from requant.encodings.gptq import Order
from requant.errors import UnsupportedError
from requant.formats import detect
from tests.models import consumer
from tests.stored import values_of

FIXTURES = Path(__file__).parents[1] / "fixtures" / "encodings" / "compressed"


def modules_of(name):
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        return sorted(file.metadata())


def module_of(name, module):
    """The arrays of a module, what they decompress to, and the configuration."""
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        said = json.loads(file.metadata()[module])
        keys = [key for key in file.keys() if key.startswith(f"{module}.")]  # noqa: SIM118 (it is no mapping)
        arrays = {key.removeprefix(f"{module}."): file.get_tensor(key) for key in keys}
    return arrays, arrays.pop("dequant"), said


def configuration(said, version="0.20.0"):
    group = {"targets": ["Linear"], "format": said["format"], "weights": {**said["weights"]}}
    return {
        "quant_method": "compressed-tensors",
        "format": said["format"],
        "version": version,
        "config_groups": {"group_0": group},
    }


def read(folder, arrays, quantization, prefix="model.layers.0.mlp.up_proj."):
    save_file({prefix + name: array for name, array in arrays.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": quantization}))
    return detect(folder).read(folder)


def same_values(tensor, wanted, narrow=None):
    """Bit for bit, from any row on. narrow: the dtype to which the library rounds at the end."""
    wanted = wanted.float().numpy().reshape(-1, wanted.shape[-1])
    granule = tensor.encoding.granule(tensor.shape)
    starts = (0, granule) if granule < len(wanted) else (0,)
    for start in starts:
        ours = torch.from_numpy(values_of(tensor, start))
        if not np.array_equal((ours if narrow is None else ours.to(narrow).float()).numpy(), wanted[start:]):
            return False
    return True


def narrowed(module):
    """Under a scale of the whole tensor, 0.20 rounds to bfloat16 whatever the model's dtype."""
    return torch.bfloat16 if ".tensor_group." in module else None


@pytest.mark.parametrize("module", modules_of("product"))
def test_values_are_those_the_library_decompresses(tmp_path, module):
    arrays, wanted, said = module_of("product", module)
    checkpoint = read(tmp_path, arrays, configuration(said))
    (tensor,) = checkpoint.tensors
    assert tensor.name == "model.layers.0.mlp.up_proj.weight" and tensor.shape == wanted.shape
    assert same_values(tensor, wanted, narrowed(module))
    assert not checkpoint.notices


@pytest.mark.parametrize("module", modules_of("ordered"))
def test_packing_with_gaps_and_orders_of_old_files(tmp_path, module):
    """Three and six bits of one format name are packed in two ways; the label tells which."""
    arrays, wanted, said = module_of("ordered", module)
    (tensor,) = read(tmp_path, arrays, configuration(said, "0.10.2")).tensors
    assert same_values(tensor, wanted)
    order = Order.ACT if module.endswith("order") else Order.MISSING
    bits = said["weights"]["num_bits"]
    assert tensor.encoding == Packed(bits, 32, scale="BF16", stream=bits == 4, order=order)
    assert ("gaps" in tensor.encoding.label) == (bits != 4)


@pytest.mark.parametrize(("version", "stream"), [("0.10.2", False), ("0.16.3", False), ("0.17.0", True), ("", True)])
def test_the_version_decides_where_rows_are_short(tmp_path, version, stream):
    """Six bits in rows of 60: twelve words either way."""
    arrays = {"weight_packed": torch.zeros(4, 12, dtype=torch.int32), "weight_shape": torch.tensor([4, 60])}
    arrays["weight_scale"] = torch.ones(4, 1)
    said = {"format": "pack-quantized", "weights": {"num_bits": 6, "strategy": "channel"}}
    (tensor,) = read(tmp_path, arrays, configuration(said, version)).tensors
    assert tensor.encoding.stream is stream


def test_a_valid_block_of_128_by_128_is_read(tmp_path):
    """Int8 in pack-quantized, the block that vLLM's kernels take: one scale for four million pairs is no damage."""
    arrays, _, said = module_of("product", "pack-quantized.8.block.sym")
    said["weights"]["block_structure"] = [128, 128]
    arrays["weight_scale"] = arrays["weight_scale"][:1, :1].contiguous()
    (tensor,) = read(tmp_path, arrays, configuration(said)).tensors
    assert tensor.encoding == Packed(8, 128, scale=tensor.encoding.scale, rows=128)
    assert tensor.encoding.label.startswith("CT-8b-128x128")


@pytest.mark.parametrize(
    ("module", "more", "message"),
    [
        ("pack-quantized.4.group.sym", {"weight_global_scale": torch.ones(1)}, "one more scale of packed integers"),
        ("int-quantized.8.channel.sym", {"weight_global_scale": torch.ones(1)}, "one more scale, which"),
        ("nvfp4-pack-quantized.4.tensor_group.sym", {"weight_zero_point": torch.zeros(20, 4)}, "zero point of 4 or 6"),
        ("mxfp6-pack-quantized.6.group.sym", {"weight_zero_point": torch.zeros(20, 2)}, "zero point of 4 or 6"),
        ("int-quantized.8.channel.sym", {"weight": torch.zeros(20, 64, dtype=torch.int16)}, "more than 8 bits"),
    ],
)
def test_what_the_library_itself_does_not_take_back_is_refused(tmp_path, module, more, message):
    arrays, _, said = module_of("product", module)
    with pytest.raises(UnsupportedError, match=message):
        read(tmp_path, {**arrays, **more}, configuration(said))


def stacked(arrays, count):
    """A stack of experts as transformers 5 names it: `gate_up_proj_packed`, …; each matrix has other numbers."""
    made = {}
    for name, array in arrays.items():
        if name == "weight_shape":
            made["_shape"] = torch.tensor([count, *array.tolist()])
        else:
            ending = name.removeprefix("weight")
            rolled = [array.view(torch.uint8).roll(0 if array.numel() < 2 else 2 * n, 0) for n in range(count)]
            made[ending] = torch.stack([one.view(array.dtype) for one in rolled])
    return made


#: A width of each format is enough here.
STACKS = [name for name in modules_of("product") if not name.startswith(tuple(f"pack-quantized.{n}" for n in "125678"))]


@pytest.mark.parametrize("module", STACKS)
def test_stacks_of_experts_have_the_values_of_their_matrices(tmp_path, module):
    arrays, _, said = module_of("product", module)
    stacks, folders = stacked(arrays, 3), [tmp_path / str(n) for n in range(4)]
    for folder in folders:
        folder.mkdir()
    prefix = "model.layers.0.mlp.experts.gate_up_proj"
    checkpoint = read(folders[3], stacks, configuration(said), prefix)
    (stack,) = checkpoint.tensors
    assert stack.name == prefix and len(stack.shape) == 3 and not checkpoint.notices
    matrices = []
    for n, folder in enumerate(folders[:3]):
        shape = {"weight_shape": arrays["weight_shape"]} if "weight_shape" in arrays else {}
        own = {f"weight{name}": array[n].contiguous() for name, array in stacks.items() if name != "_shape"}
        (matrix,) = read(folder, {**own, **shape}, configuration(said)).tensors
        matrices.append(values_of(matrix))
    assert np.array_equal(values_of(stack), np.concatenate(matrices), equal_nan=True)


def maker():
    spec = importlib.util.spec_from_file_location("make_compressed", FIXTURES / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(32, 96), (100, 192)])
def test_the_library_asked_anew(tmp_path, shape, dtype):
    """Every combination under every dtype of scales; blocks that are cut at both edges."""
    consumer("compressed_tensors")
    make, wrong = maker(), []
    for number, (module, name, arguments) in enumerate(make.product()):
        torch.manual_seed(number)
        arrays = make.quantized(name, arguments, dtype, shape)
        wanted = arrays.pop("dequant")
        said = {"format": name, "weights": make.plain(arguments)}
        (tensor,) = read(tmp_path, arrays, configuration(said)).tensors
        if not same_values(tensor, wanted, narrowed(module)):
            wrong.append(module)
    assert wrong == []
