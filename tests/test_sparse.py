"""compressed-tensors' sparse formats: tiles against vectors of 0.12.2, bitmasks against their definition."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from requant.codecs import codec_for
from requant.encodings.sparse import Marlin24
from requant.errors import FormatError, UnsupportedError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.operations.convert import Request, plan_conversion

GOLDEN = Path(__file__).parents[1] / "fixtures" / "encodings" / "compressed"
TILES = {"ct_marlin24_4b_ch": (4, -1), "ct_marlin24_8b_ch": (8, -1), "ct_marlin24_8b_g128": (8, 128)}


@pytest.mark.parametrize("name", TILES)
def test_tiles_are_bit_exact_from_any_tile(name):
    golden, encoding = np.load(GOLDEN / f"{name}.npz"), Marlin24(*TILES[name])
    codes, scales = golden["codes_out_in"], golden["scales_g_out"].astype(np.float32)
    parts = {"packed": golden["weight_packed"], "scales": golden["scale_packed"], "meta": golden["meta"]}
    assert {n: p.shape for n, p in encoding.parts(codes.shape).items()} == {n: a.shape for n, a in parts.items()}
    wanted = codes * np.repeat(scales.T, codes.shape[1] // len(scales), 1)
    for start in (0, 64):
        out = np.empty((len(codes) - start, codes.shape[1]), np.float32)
        codec_for(encoding).decode(parts, out, start)
        assert np.array_equal(out, wanted[start:])


def tensors_of(folder, arrays):
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return detect(folder).read(folder)


def dense_of(folder):
    plan = plan_conversion(detect(folder).read(folder), FORMATS["safetensors"], folder / "dense", Request("F32"))
    execute(plan, Options(workers=2))
    return load_file(folder / "dense" / "model.safetensors")


@pytest.mark.parametrize(("library", "names"), [("CT", None), ("GPTQ", ("B_24", "s", "B_meta"))])
def test_a_module_of_tiles(tmp_path, library, names):
    """Both libraries' names; the tiles are those of one kernel."""
    golden = np.load(GOLDEN / "ct_marlin24_4b_ch.npz")
    stored = ("weight_packed", "scale_packed", "meta")
    arrays = {f"m.{m}": torch.from_numpy(golden[n]) for n, m in zip(stored, names or stored, strict=True)}
    (tensor,) = tensors_of(tmp_path, arrays).tensors
    assert (tensor.name, tensor.shape, tensor.encoding.label) == ("m.weight", (128, 512), f"{library}-4b-g-1-marlin24")
    wanted = golden["codes_out_in"] * golden["scales_g_out"].astype(np.float32).T
    assert np.array_equal(dense_of(tmp_path)["m.weight"].numpy(), wanted)


def bitmask(weight, halves):
    """The arrays of a sparse matrix, from the definition."""
    mask = weight.float().numpy() != 0
    arrays = {
        "compressed": weight.flatten()[torch.from_numpy(mask.reshape(-1))],
        "bitmask": torch.from_numpy(np.packbits(mask, axis=1, bitorder="little")),
        "shape": torch.tensor(weight.shape),
    }
    if halves:
        arrays["compressed"] = arrays["compressed"].reshape(len(weight), -1)
    else:
        arrays["row_offsets"] = torch.from_numpy(np.cumsum([0, *mask.sum(1)])[:-1])
    return arrays


def half_sparse(rows, columns):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, columns // 4, 4)).astype(np.float32)
    values[np.abs(values) < 1e-2] = 1
    np.put_along_axis(values, np.argsort(rng.random(values.shape), -1)[..., :2], 0, -1)
    return torch.from_numpy(values.reshape(rows, columns))


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_bitmasks(tmp_path, halves, dtype):
    weight = half_sparse(48, 100).to(dtype)
    stem = "m" if halves else "m.weight"
    arrays = {f"{stem}.{name}": array for name, array in bitmask(weight, halves).items()}
    wanted = weight.float()
    if dtype is torch.float8_e4m3fn:
        arrays["m.weight_scale"] = torch.rand(48, 1)
        wanted = wanted * arrays["m.weight_scale"]
    (tensor,) = tensors_of(tmp_path, arrays).tensors
    assert (tensor.name, tensor.shape) == ("m.weight", (48, 100))
    assert torch.equal(dense_of(tmp_path)["m.weight"], wanted)


def broken(**changes):
    arrays = bitmask(half_sparse(8, 32).to(torch.bfloat16), halves=False) | changes
    return {f"m.weight.{name}": array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"compressed": None},
        {"shape": None},
        {"shape": torch.tensor([8, -32])},
        {"shape": torch.tensor([8, 1 << 50])},
        {"bitmask": torch.zeros(8, 3, dtype=torch.uint8)},
        {"row_offsets": torch.zeros(7, dtype=torch.int64)},
        {"compressed": torch.zeros(128, dtype=torch.float8_e4m3fn)},
    ],
    ids=[str(n) for n in range(7)],
)
def test_broken_bitmasks_are_named_while_planning(tmp_path, changes):
    with pytest.raises(FormatError, match="m"):
        tensors_of(tmp_path, broken(**changes))


@pytest.mark.parametrize("offset", [-1, 1 << 40, 120])
def test_more_bits_than_numbers(tmp_path, offset):
    tensors_of(tmp_path, broken(row_offsets=torch.full((8,), offset)))
    with pytest.raises(UnsupportedError, match="more bits than numbers"):
        dense_of(tmp_path)


def test_tiles_that_are_none(tmp_path):
    golden = np.load(GOLDEN / "ct_marlin24_4b_ch.npz")
    arrays = {f"m.{n}": torch.from_numpy(golden[n]) for n in ("weight_packed", "scale_packed", "meta")}
    with pytest.raises(FormatError, match="are no tiles"):
        tensors_of(tmp_path, arrays | {"m.weight_packed": torch.zeros(16, 200, dtype=torch.int32)})
