"""AWQ against vectors made by AutoAWQ 0.2.9, in the layouts of all its kernels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from requant.codecs import Codes, codec_for
from requant.encodings.awq import Awq, Kind, Marlin
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.formats import FORMATS
from tests import naive_groups as naive
from tests.stored import parts_of, values_of

GOLDEN = Path(__file__).parents[1] / "fixtures" / "encodings" / "awq"
KINDS = {"gemm": Kind.GEMM, "gemv": Kind.GEMV, "gemvfast": Kind.GEMV_FAST}
NAMES = ["gemm_g-1", "gemm_g32", "gemm_g64", "gemv_g128", "gemv_g64", "gemvfast_g128", "gemvfast_g64"]
NAMES += ["marlin_g-1", "marlin_g128"]


def vector(name):
    """(encoding, stored arrays, shape, everything)."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        golden = dict(file)
    kind, group = name.split("_g")
    encoding = Marlin(int(group), awq=True) if kind == "marlin" else Awq(KINDS[kind], int(group))
    shape = tuple(int(n) for n in golden["shape"])
    return encoding, {part: golden[part] for part in encoding.parts(shape)}, shape, golden


@pytest.mark.parametrize("name", NAMES)
def test_decoding_is_bit_exact_and_packing_gives_the_same_bytes(name):
    encoding, parts, shape, golden = vector(name)
    assert {part: array.shape for part, array in parts.items()} == {
        p: s.shape for p, s in encoding.parts(shape).items()
    }
    codec, again = codec_for(encoding), {part: np.full_like(array, 7) for part, array in parts.items()}
    step = max(encoding.granule(shape), shape[0] // 64 * 32)
    for start in range(0, shape[0], step):
        rows = min(step, shape[0] - start)
        run = {p: a[start : start + rows] for p, a in parts.items()} if encoding.sliced else parts
        into = {p: a[start : start + rows] for p, a in again.items()} if encoding.sliced else again
        here = 0 if encoding.sliced else start
        codes = codec.unpack(run, rows, here)
        out = np.empty((rows, shape[1]), np.float32)
        codec.decode(run, out, here)
        if "dequant_in_out" in golden:
            assert np.array_equal(out, golden["dequant_in_out"].T[start : start + rows].astype(np.float32))
        else:
            assert np.array_equal(codes.codes, golden["codes_out_in"][start : start + rows])
            group = np.arange(shape[1]) // encoding.group
            exact = codes.codes * codes.scales[:, group] + codes.offsets[:, group]
            assert np.array_equal(out, exact.astype(np.float16).astype(np.float32))
        codec.pack(codes, into, here)
    for part, array in parts.items():
        assert np.array_equal(again[part], array), part


def room(encoding, shape):
    return {name: np.zeros(spec.shape, spec.dtype.numpy) for name, spec in encoding.parts(shape).items()}


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([8, 24, 64]), st.sampled_from([-1, 5, 32]), st.integers(0, 99))
def test_gemm_is_packed_as_the_naive_twin_does(outputs, group, seed):
    rng = np.random.default_rng(seed)
    inputs = 35 if group == 5 else 64
    encoding = Awq(Kind.GEMM, group)
    groups = encoding.groups(inputs)
    codes = rng.integers(0, 16, (outputs, inputs)).astype(np.uint8)
    zeros = rng.integers(0, 16, (outputs, groups)).astype(np.float32)
    scales = rng.random((outputs, groups)).astype(np.float16).astype(np.float32)
    parts = room(encoding, (outputs, inputs))
    codec_for(encoding).pack(Codes(codes, scales, zeros), parts)
    assert np.array_equal(parts["qweight"], naive.awq_rows(codes.T))
    assert np.array_equal(parts["qzeros"], naive.awq_rows(zeros.T))
    back = codec_for(encoding).unpack(parts, outputs)
    assert np.array_equal(back.codes, codes)
    assert np.array_equal(back.zeros, zeros)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("group", [32, 64, 128])
def test_quantizing_and_reading_back(kind, group):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((64, 256)) * 0.1).astype(np.float32)
    encoding = Awq(kind, group)
    parts, out = room(encoding, rows.shape), np.empty(rows.shape, np.float32)
    codec_for(encoding).encode(rows, parts)
    codec_for(encoding).decode(parts, out)
    assert np.square(out - rows).mean() < 0.012 * np.square(rows).mean()


def store(folder, parts, config, module="model.layers.0.mlp.up_proj"):
    folder.mkdir(exist_ok=True)
    save_file({f"{module}.{part}": np.ascontiguousarray(a) for part, a in parts.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    return FORMATS["safetensors"].read(folder)


CONFIG = {"quant_method": "awq", "bits": 4, "zero_point": True}


@pytest.mark.parametrize("name", NAMES)
def test_folders_are_recognized_with_and_without_configuration(tmp_path, name):
    encoding, parts, shape, _ = vector(name)
    for config in ({**CONFIG, "group_size": encoding.group}, {}):
        (tensor,) = store(tmp_path / "m", parts, config).tensors
        assert (tensor.encoding, tensor.shape, tensor.name) == (encoding, shape, "model.layers.0.mlp.up_proj.weight")
    if name == "gemvfast_g64":
        renamed = {"scaled_zeros" if part == "qzeros" else part: array for part, array in parts.items()}
        (tensor,) = store(tmp_path / "m", renamed, {**CONFIG, "group_size": 64}).tensors
        assert tensor.encoding == Awq(Kind.LLM_AWQ, 64)


def test_scales_of_bfloat16_round_to_it_as_gptqmodel_does(tmp_path):
    _, parts, _, _ = vector("gemm_g32")
    scales = torch.from_numpy(parts["scales"]).bfloat16()
    arrays = {f"m.{part}": torch.from_numpy(array) for part, array in parts.items()}
    save_torch({**arrays, "m.scales": scales}, tmp_path / "model.safetensors")
    (tensor,) = FORMATS["safetensors"].read(tmp_path / "model.safetensors").tensors
    assert tensor.encoding == Awq(Kind.GEMM, 32, scale="BF16")
    codec, stored = codec_for(tensor.encoding), parts_of(tensor)
    codes = codec.unpack(stored, tensor.shape[0])
    levels = torch.from_numpy(codes.codes - np.repeat(codes.zeros, 32, 1)).bfloat16()
    wanted = levels * scales.T.repeat_interleave(32, 1)
    assert np.array_equal(values_of(tensor), wanted.float().numpy())
    again = {part: np.zeros_like(array) for part, array in stored.items()}
    codec.pack(codes, again)
    assert all(np.array_equal(again[part], stored[part]) for part in stored)


def test_zeros_that_are_all_eight_make_it_symmetric(tmp_path):
    _, parts, _, _ = vector("gemm_g32")
    parts["qzeros"] = np.full_like(parts["qzeros"], np.uint32(0x88888888).view(np.int32))
    (tensor,) = store(tmp_path / "m", parts, CONFIG).tensors
    assert tensor.encoding == Awq(Kind.GEMM, 32, symmetric=True)


def test_a_configuration_that_is_wrong_is_told(tmp_path):
    _, parts, _, _ = vector("gemv_g64")
    assert "not in 8" in store(tmp_path / "m", parts, {"bits": 8, "group_size": 64}).notices[0]
    checkpoint = store(tmp_path / "m", parts, {"bits": 4, "group_size": 32})
    assert checkpoint.tensors[0].encoding == Awq(Kind.GEMV, 32) or "groups of" in checkpoint.notices[0]


BROKEN = {
    "no scales": ({"scales": None}, "no 'scales'"),
    "no zeros": ({"qzeros": None}, "no 'qzeros'"),
    "zeros in F16": ({"qzeros": np.zeros((4, 12), np.float16)}, "no matrix of I32"),
    "zeros too narrow": ({"qzeros": np.zeros((4, 11), np.int32)}, "has shape"),
    "zeros turned": ({"qzeros": np.zeros((12, 4), np.int32)}, "has shape"),
    "scales too narrow": ({"scales": np.zeros((4, 95), np.float16)}, "fit neither"),
    "scales of other groups": ({"scales": np.zeros((7, 96), np.float16)}, "are no 7 groups"),
    "scales in F32": ({"scales": np.zeros((4, 96), np.float32)}, "F32"),
    "scales empty": ({"scales": np.zeros((0, 96), np.float16)}, "no matrices"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_layers_are_errors_that_name_them(tmp_path, case):
    changes, message = BROKEN[case]
    _, parts, _, _ = vector("gemm_g64")
    with pytest.raises(FormatError, match="up_proj") as error:
        store(tmp_path / "m", {k: v for k, v in (parts | changes).items() if v is not None}, CONFIG)
    assert message in str(error.value)


def test_words_of_other_sizes_are_refused(tmp_path):
    _, parts, _, _ = vector("gemm_g32")
    with pytest.raises(UnsupportedError, match="I64"):
        store(tmp_path / "m", parts | {"qweight": parts["qweight"].astype(np.int64)}, CONFIG)


def test_shapes_that_cannot_be_stored():
    for encoding, shape in [
        (Awq(Kind.GEMM, 32), (12, 64)),
        (Awq(Kind.GEMM, 32), (16, 40)),
        (Awq(Kind.GEMV, -1), (16, 20)),
        (Awq(Kind.GEMV_FAST, 32), (16, 96)),
        (Marlin(32), (32, 64)),
        (Awq(Kind.GEMM, 32), (16,)),
    ]:
        with pytest.raises(PlanError):
            encoding.parts(shape)


def test_labels_are_unique():
    encodings = [Awq(kind, group, symmetric) for kind in Kind for group in (-1, 64) for symmetric in (True, False)]
    encodings += [Marlin(group, awq) for group in (-1, 64) for awq in (True, False)]
    assert len({encoding.label for encoding in encodings}) == len(encodings)
