"""Nothing that is not understood passes as plain numbers, whatever lies beside it; and a copy is a copy."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from requant import formats
from requant.cli.main import cli
from requant.errors import Error, FormatError, UnsupportedError
from requant.execution import Options, execute
from requant.formats import FORMATS, detect
from requant.obstacle import AS_STORED
from requant.operations.convert import Request, plan_conversion
from tests.stored import read_folder

E4M3, E8M0 = torch.float8_e4m3fn, torch.float8_e8m0fnu
CODES = (torch.int8, torch.uint8, torch.int16, torch.int32, E4M3, torch.float8_e5m2, torch.int64)


def converted(folder, out, recipe="F32"):
    """The arrays of a folder made of another."""
    source = detect(folder).read(folder)
    plan = plan_conversion(source, FORMATS["safetensors"], out, Request(recipe))
    execute(plan, Options(workers=1))
    return load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())


def store(folder, arrays, config=None):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: array.contiguous() for name, array in arrays.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **(config or {})}))
    return folder


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


#: What a layer is stored as by each scheme that is read -> its arrays, as small as they can be.
LAYERS = {
    "gptq": {
        "qweight": torch.randint(0, 1 << 30, (8, 64), dtype=torch.int32),
        "qzeros": torch.full((2, 8), 0x77777777, dtype=torch.int32),
        "scales": torch.rand(2, 64).half(),
    },
    "awq": {
        "qweight": torch.randint(0, 1 << 30, (64, 8), dtype=torch.int32),
        "qzeros": torch.full((2, 8), 0x07777777, dtype=torch.int32),
        "scales": torch.rand(2, 64).half(),
    },
    "fp8": {"weight": torch.ones(64, 64).to(E4M3), "weight_scale_inv": torch.rand(1, 1)},
    "compressed-tensors": {"weight": torch.ones(64, 64).to(torch.int8), "weight_scale": torch.rand(64, 1)},
    "nvfp4": {
        "weight_packed": torch.randint(0, 256, (64, 32), dtype=torch.uint8),
        "weight_scale": torch.ones(64, 4).to(E4M3),
        "weight_global_scale": torch.ones(1),
    },
    "mlx": {
        "weight": torch.randint(0, 1 << 30, (64, 8), dtype=torch.int32).view(torch.uint32),
        "scales": torch.rand(64, 2).half(),
        "biases": torch.rand(64, 2).half(),
    },
    "bitsandbytes": {"weight": torch.ones(64, 64, dtype=torch.int8), "SCB": torch.rand(64)},
    "plain": {"weight": numbers(64, 64)},
}
METHODS = {"nvfp4": "compressed-tensors", "plain": "fp8"}
UP = "model.layers.0.mlp.up_proj"


def layer(scheme):
    config = {} if scheme == "mlx" else {"quantization_config": {"quant_method": METHODS.get(scheme, scheme)}}
    return {f"{UP}.{name}": array for name, array in LAYERS[scheme].items()}, config


@pytest.mark.parametrize("scheme", LAYERS)
def test_the_layers_themselves_are_read(tmp_path, scheme):
    arrays, config = layer(scheme)
    made, said = converted(store(tmp_path / "in", arrays, config), tmp_path / "out")
    assert {name: array.dtype for name, array in made.items()} == {f"{UP}.weight": torch.float32}
    assert "quantization_config" not in said


#: Endings of what libraries hang on a layer, and any other word.
WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=2, max_size=12)
ENDINGS = st.one_of(
    st.sampled_from(["theta", "pairs", "channel_scales", "hadamard_matrix", "pre_scale", "lut", "had_K", "svd_up"]),
    WORDS,
)
HARMLESS = {"weight", "bias", "pre_quant_scale"}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_array_beside_a_quantized_weight_passes_unknown(tmp_path_factory, data):
    """A random array beside it, of a random dtype: it is known by name, or the reading names it."""
    scheme = data.draw(st.sampled_from(sorted(set(LAYERS) - {"plain"})))
    arrays, config = layer(scheme)
    ending = data.draw(ENDINGS.filter(lambda word: word not in LAYERS[scheme] and word not in HARMLESS))
    shape = data.draw(st.sampled_from([(64,), (1, 64), (8, 32), ()]))
    dtype = data.draw(st.sampled_from([torch.float16, torch.float32, torch.int16, torch.uint8]))
    folder = store(tmp_path_factory.mktemp("m"), arrays | {f"{UP}.{ending}": torch.ones(shape).to(dtype)}, config)
    with pytest.raises(Error) as caught:
        detect(folder).read(folder)
    assert ending in str(caught.value) or UP in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_codes_beside_anything_like_a_scale_never_become_plain_numbers(tmp_path_factory, data):
    """A weight of random dtype and name, and something that is called a scale: converted values are never the codes."""
    dtype = data.draw(st.sampled_from(CODES))
    stem = data.draw(st.sampled_from(["weight", "w", "kernel", "experts.gate_up_proj", "weight_q"]))
    last = stem.rpartition(".")[2]
    scale = data.draw(st.sampled_from([f"{last}_scale", "scale", "scales", f"{last}.absmax", "scale_weight", "zeros"]))
    scale = f"{stem.rpartition('.')[0]}.{scale}".removeprefix(".")
    shape = data.draw(st.sampled_from([(8, 1), (1,), (), (8,), (8, 2)]))
    config = data.draw(st.sampled_from([{}, {"quantization_config": {"quant_method": "fp8"}}]))
    codes = torch.full((8, 16), 3).to(dtype)
    scales = torch.full(shape, 0.5, dtype=data.draw(st.sampled_from([torch.float32, torch.float16])))
    folder = store(tmp_path_factory.mktemp("m"), {f"m.{stem}": codes, f"m.{scale}": scales}, config)
    try:
        made, _ = converted(folder, folder / "out")
    except (FormatError, UnsupportedError):
        return
    assert not (made[f"m.{stem}"].float() == 3).any(), "the codes passed as numbers"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, E4M3, torch.int32])
def test_a_configuration_stays_while_codes_do(tmp_path, dtype):
    """What says that weights are quantized is never taken from what still is."""
    config = {"quantization_config": {"quant_method": "fp8"}}
    folder = store(tmp_path / "in", {"m.mystery": torch.ones(8, 16).to(dtype), "m.norm.weight": torch.ones(16)}, config)
    with pytest.raises(Error, match=r"m\.mystery"):
        converted(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", LAYERS)
def test_a_copy_keeps_every_byte_and_the_configuration(tmp_path, scheme):
    arrays, config = layer(scheme)
    folder = store(tmp_path / "in", arrays, config)
    (folder / "quant_config.json").write_text(json.dumps({"w_bit": 4}))
    made, said = converted(folder, tmp_path / "out", None)
    assert set(made) == set(arrays)
    for name, array in arrays.items():
        assert made[name].dtype == array.dtype
        assert made[name].view(torch.uint8).tolist() == array.view(torch.uint8).tolist() if array.ndim else True
    assert said.get("quantization_config") == config.get("quantization_config")
    assert (tmp_path / "out/quant_config.json").exists()


NOT_UNDERSTOOD = {
    "an unknown key": (
        "gptq",
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "zzz": 1}},
        {},
    ),
    "an unknown method": ("gptq", {"quantization_config": {"quant_method": "zzz"}}, {}),
    "a rotation": (
        "gptq",
        {"quantization_config": {"quant_method": "gptq", "rotation_config": {"backend": "inplace"}}},
        {},
    ),
    "a rotating matrix": ("gptq", {}, {f"{UP}.hadamard_matrix": torch.eye(16)}),
    "an array that nobody knows": ("gptq", {}, {f"{UP}.lowrank_u": torch.ones(4, 4)}),
    "another family": ("gptq", {}, {"m.q.trellis": torch.ones(2, 2, 4, dtype=torch.int16)}),
}


@pytest.mark.parametrize("what", NOT_UNDERSTOOD)
def test_what_is_not_understood_is_shown_and_copied_and_never_converted(tmp_path, what):
    scheme, config, beside = NOT_UNDERSTOOD[what]
    arrays, own = layer(scheme)
    arrays, config = arrays | beside, {"torch_dtype": "float32", "rope": float("inf"), **own, **config}
    folder = store(tmp_path / "in", arrays, config)
    (folder / "quant_config.json").write_text('{"zero": 1}')
    with pytest.raises(UnsupportedError) as refused:
        formats.open(folder)
    shown = CliRunner().invoke(cli, ["inspect", str(folder), "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.output)
    assert {tensor["name"] for tensor in document["tensors"]} == set(arrays)
    assert any(str(refused.value) in notice and AS_STORED in notice for notice in document["notices"])
    out = tmp_path / "out"
    copied = CliRunner().invoke(cli, ["convert", str(folder), str(out)])
    assert copied.exit_code == 0, copied.output
    made = load_file(out / "model.safetensors")
    assert set(made) == set(arrays)
    for name, array in arrays.items():
        assert made[name].dtype == array.dtype
        assert (
            made[name].contiguous().flatten().view(torch.uint8).tolist() == array.flatten().view(torch.uint8).tolist()
        )
    assert (out / "config.json").read_text() == json.dumps(
        json.loads((folder / "config.json").read_text()), indent=2
    ) + "\n"
    assert (out / "quant_config.json").read_text() == '{"zero": 1}'
    others = [
        (tmp_path / "o.gguf",),
        (tmp_path / "o.safetensors",),
        (tmp_path / "o", "--to", "BF16"),
        (tmp_path / "o", "--to", "NF4"),
    ]
    for arguments in others:
        done = CliRunner().invoke(cli, ["convert", str(folder), *map(str, arguments)])
        assert done.exit_code == 3, (arguments, done.output)
        assert not arguments[0].exists()
    for target in formats.FORMATS["gguf"], formats.FORMATS["safetensors"]:
        with pytest.raises(UnsupportedError, match=re.escape(str(refused.value))):
            plan_conversion(formats.opened(folder, as_stored=True)[1], target, tmp_path / "o", Request("F16"))


def test_buffers_of_plain_models_are_no_codes(tmp_path):
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    arrays = {
        "m.embeddings.position_ids": torch.arange(8)[None],
        "h.0.attn.bias": torch.ones(1, 1, 8, 8).byte(),
        "m.relative_position_index": torch.ones(4, 4, dtype=torch.int64),
        "m.norm.scale": torch.ones(4),
        "m.k_proj.k_bias": torch.ones(()),
        "m.attn.k_scale": torch.ones(1),
        "m.tokens": torch.ones(3).byte(),
    }
    layers, _ = layer("bitsandbytes")
    assert len(read_folder(tmp_path, _bytes(tmp_path, arrays | layers), config).tensors) == len(arrays) + 1


def _bytes(folder: Path, arrays) -> bytes:
    save_file({name: array.contiguous() for name, array in arrays.items()}, folder / "arrays")
    return (folder / "arrays").read_bytes()


# FP8 under other names and shapes: weight name, scale name, shape of the scales -> code * scale.
FP8 = {
    "scale_weight": ("m.weight", "m.scale_weight", ()),
    "scale_weight of one": ("m.weight", "m.scale_weight", (1,)),
    "scale": ("m.weight", "m.scale", (2, 2)),
    "qscale_weight of Mistral": ("m.weight", "m.qscale_weight", ()),
    "spread": ("m.weight", "m.weight_scale", (2, 1, 2, 1)),
    "below a stack": ("m.experts.gate_up_proj", "m.experts.gate_up_proj_weight_scale", (3, 200, 1)),
    "inverse": ("m.weight", "m.weight_scale_inv", (2, 2)),
}


@pytest.mark.parametrize("name", FP8)
def test_fp8_under_other_names_is_code_times_scale(tmp_path, name):
    weight, scale, shape = FP8[name]
    codes = numbers(*((3, 200, 144) if len(shape) == 3 else (200, 144))).to(E4M3)
    scales = torch.rand(shape) + 0.5
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    made, _ = converted(store(tmp_path / "in", {weight: codes, scale: scales}, config), tmp_path / "out")
    if name in ("scale", "spread", "inverse"):
        spread = scales.reshape(2, 2).repeat_interleave(128, 0).repeat_interleave(128, 1)[:200, :144]
    else:
        spread = scales
    assert torch.equal(made[weight], codes.float() * spread)
    assert list(made) == [weight]


def test_exponents_under_the_name_scale(tmp_path):
    """DeepSeek V4: blocks under powers of two, and experts of two E2M1 in a byte."""
    exponents = torch.randint(120, 130, (2, 2), dtype=torch.uint8)
    codes = numbers(200, 144).to(E4M3)
    packed = torch.randint(-128, 128, (64, 32), dtype=torch.int8)
    groups = torch.randint(120, 130, (64, 2), dtype=torch.uint8)
    arrays = {
        "m.weight": codes,
        "m.scale": exponents.view(E8M0),
        "e.w1.weight": packed,
        "e.w1.scale": groups.view(E8M0),
    }
    config = {"quantization_config": {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}}
    made, _ = converted(store(tmp_path / "in", arrays, config), tmp_path / "out")
    scales = torch.exp2(exponents.float() - 127)
    spread = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[:200, :144]
    assert torch.equal(made["m.weight"], codes.float() * spread)
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    bytes_ = packed.view(torch.uint8).long()
    values = table[torch.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(64, 64)]
    assert torch.equal(made["e.w1.weight"], values * torch.exp2(groups.float() - 127).repeat_interleave(32, 1))


def test_a_grid_with_spare_rows_is_refused_as_what_it_is(tmp_path):
    arrays = {"m.weight": numbers(200, 128).to(E4M3), "m.weight_scale_inv": torch.rand(3, 1)}
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    with pytest.raises(UnsupportedError, match="its parts were quantized apart and fused"):
        read_folder(tmp_path, _bytes(tmp_path, arrays), config)


COMFY = {
    '{"format": "float8_e4m3fn"}': True,
    '{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}': True,
    '{"format": "nvfp4"}': False,
    '{"format": "float8_e4m3fn", "convrot": 64}': False,
}


@pytest.mark.parametrize("said", COMFY)
def test_descriptions_of_comfyui(tmp_path, said):
    arrays = {"m.weight": numbers(8, 16).to(E4M3), "m.weight_scale": torch.ones(())}
    arrays["m.comfy_quant"] = torch.tensor(list(said.encode()), dtype=torch.uint8)
    if COMFY[said]:
        assert len(read_folder(tmp_path, _bytes(tmp_path, arrays)).tensors) == 1
        return
    with pytest.raises(UnsupportedError, match=r"'m\.comfy_quant' describes a layer quantized by ComfyUI"):
        read_folder(tmp_path, _bytes(tmp_path, arrays))


def test_mxint4_is_a_sign_and_quarters(tmp_path):
    packed, groups = (
        torch.randint(0, 256, (8, 32), dtype=torch.uint8),
        torch.randint(120, 130, (8, 2), dtype=torch.uint8),
    )
    arrays = {"m.weight_packed": packed, "m.weight_scale": groups}
    quarters = torch.tensor([n / 4 for n in range(8)] + [-n / 4 for n in range(8)])
    codes = torch.stack([packed & 15, packed >> 4], -1).reshape(8, 64).long()
    wanted = quarters[codes] * torch.exp2(groups.float() - 127).repeat_interleave(32, 1)
    said = {"quant_method": "auto-round", "packing_format": "auto_round", "data_type": "mx_fp", "bits": 4}
    layered = said | {"extra_config": {"m": {"data_type": "mx_int"}}}
    for number, config in enumerate((said | {"data_type": "mx_int"}, layered)):
        folder = store(tmp_path / str(number), arrays, {"quantization_config": config})
        made, _ = converted(folder, folder / "out")
        assert torch.equal(made["m.weight"], wanted)
    made, _ = converted(store(tmp_path / "fp", arrays, {"quantization_config": said}), tmp_path / "fp/out")
    assert not torch.equal(made["m.weight"], wanted)
    assert np.isfinite(made["m.weight"].numpy()).all()
