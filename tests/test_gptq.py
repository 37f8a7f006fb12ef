"""GPTQ against vectors made by GPTQModel 7.7 and AutoGPTQ 0.7.1, and files that are wrong in known ways."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from requant.codecs import Codes, codec_for
from requant.encodings.awq import Marlin
from requant.encodings.gptq import Gptq, Order, Zeros
from requant.errors import FormatError, PlanError, UnsupportedError
from requant.formats import FORMATS
from requant.kernels_cpu.groups import round_to_groups
from tests import naive_groups as naive
from tests.stored import values_of

GOLDEN = Path(__file__).parents[1] / "fixtures" / "encodings" / "gptq"
NAMES = [
    *(f"edge_{name}" for name in ("2b_g64_in200_out40", "4b_g32_in100_out50", "8b_g32_in50_out30")),
    *(f"gptq_{bits}b_g32_{kind}" for bits in (2, 4, 5, 7, 8) for kind in ("asym_act", "sym_seq")),
    *(f"gptq_{bits}b_g32_{kind}" for bits in (3, 6) for kind in ("asym_seq", "sym_act")),
    *(f"gptq_v2_{bits}b_g-1_sym_seq" for bits in (3, 4, 8)),
    *("gptq_4b_g32_asym_seq", "gptq_p_2b_g32_asym_act", "gptq_p_5b_g32_asym_act"),
]
AUTOGPTQ = [f"autogptq071_cuda_{name}" for name in ("2b_asym", "3b_asym", "4b_asym", "8b_asym", "old_4b_sym")]
#: How zeros are stored, and in which array of a vector.
ZEROS = [(Zeros.V2, "qzeros_v2"), (Zeros.V1, "qzeros_v1_written_by_gptqmodel770"), (Zeros.V1, "qzeros_v1")]


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def cases(golden, scale="F16"):
    """(encoding, stored arrays) for every way in which the zeros of a vector are stored."""
    bits, group, g_idx = int(golden["bits"]), int(golden["group_size"]), golden["g_idx"]
    plain = np.arange(len(g_idx)) // (group if group > 0 else len(g_idx))
    order = Order.STORED if (g_idx == plain).all() else Order.ACT
    symmetric = bool((golden["zeros_true"] == 1 << (bits - 1)).all())
    planar = bool(golden["planar"]) if "planar" in golden else False
    for zeros, key in ZEROS:
        if key in golden:
            parts = {name: golden[name] for name in ("qweight", "scales", "g_idx")} | {"qzeros": golden[key]}
            yield Gptq(bits, group, symmetric, zeros, order, scale, planar), parts


@pytest.mark.parametrize("name", NAMES)
def test_decoding_is_bit_exact_and_packing_gives_the_same_bytes(name):
    golden = load(name)
    wanted = golden["dequant_in_out"].T.astype(np.float32)
    seen = 0
    for encoding, parts in cases(golden):
        codec, spec = codec_for(encoding), encoding.parts(wanted.shape)
        assert {part: array.shape for part, array in parts.items()} == {part: s.shape for part, s in spec.items()}
        again = {part: np.full_like(array, 77) for part, array in parts.items()}
        for start in range(0, len(wanted), 32):
            out = np.empty(wanted[start : start + 32].shape, np.float32)
            codec.decode(parts, out, start)
            assert np.array_equal(out, wanted[start : start + 32])
            codes = codec.unpack(parts, len(out), start)
            assert np.array_equal(codes.zeros, golden["zeros_true"].T[start : start + 32])
            codec.pack(codes, again, start)
        for part, array in parts.items():
            assert np.array_equal(again[part], array), (encoding.label, part)
        seen += 1
    assert seen == (1 if name.startswith("edge") else 2)


@pytest.mark.parametrize("name", AUTOGPTQ)
def test_autogptq_stores_zeros_less_one(name):
    golden = load(name)
    ((encoding, parts),) = cases(golden, "F32")
    wanted = golden["dequant_in_out"].T
    out = np.empty(wanted.shape, np.float32)
    codec = codec_for(encoding)
    codec.decode(parts, out)
    assert np.abs(out - wanted).max() < 1e-7  # the vector is the output of a matrix product
    assert np.array_equal(codec.unpack(parts, len(out)).zeros.T, golden["zeros_true"])


@pytest.mark.slow
@pytest.mark.skipif("REQUANT_GOLDEN" not in os.environ, reason="REQUANT_GOLDEN is not the folder of all vectors")
def test_every_vector_there_is():
    found = sorted(Path(os.environ["REQUANT_GOLDEN"]).glob("gptq_gptq*.npz"))
    assert len(found) > 50
    for path in found:
        with np.load(path) as file:
            golden = dict(file)
        wanted = golden["dequant_in_out"].T.astype(np.float32)
        for encoding, parts in cases(golden):
            out = np.empty(wanted.shape, np.float32)
            codec_for(encoding).decode(parts, out)
            assert np.array_equal(out, wanted), path.name


@pytest.mark.parametrize("name", ["marlin_g128", "marlin_g-1"])
def test_marlin_tiles(name):
    golden = load(name)
    groups = len(golden["s"])
    encoding = Marlin(-1 if groups == 1 else golden["codes_in_out"].shape[0] // groups)
    parts, outputs = {"qweight": golden["B"], "scales": golden["s"]}, golden["codes_in_out"].shape[1]
    codec, again = codec_for(encoding), {part: np.zeros_like(array) for part, array in parts.items()}
    for start in range(0, outputs, 64):
        codes = codec.unpack(parts, 64, start)
        assert np.array_equal(codes.codes, golden["codes_in_out"].T[start : start + 64])
        assert np.array_equal(codes.scales, golden["scales_unpermuted"].T[start : start + 64])
        codec.pack(codes, again, start)
    assert all(np.array_equal(again[part], array) for part, array in parts.items())


ENCODINGS = st.builds(
    Gptq,
    st.integers(2, 8),
    st.sampled_from([-1, 32, 64]),
    st.booleans(),
    st.sampled_from([Zeros.V1, Zeros.V2]),
    st.sampled_from([Order.STORED, Order.MISSING, Order.UNSET, Order.ACT]),
    st.sampled_from(["F16", "BF16", "F32"]),
    st.booleans(),
)


def random_codes(encoding, rows, columns, seed):
    rng = np.random.default_rng(seed)
    groups = encoding.groups(columns)
    codes = rng.integers(0, 1 << encoding.bits, (rows, columns)).astype(np.uint8)
    scales = np.ldexp(rng.integers(1, 128, (rows, groups)), -9).astype(np.float32)
    zeros = rng.integers(0, 1 << encoding.bits, (rows, groups)).astype(np.float32)
    if encoding.symmetric:
        zeros[:] = 1 << (encoding.bits - 1)
    order = rng.integers(0, groups, columns).astype(np.int32) if encoding.order is Order.ACT else None
    return Codes(codes, scales, zeros, order)


def room(encoding, shape):
    return {name: np.zeros(spec.shape, spec.dtype.numpy) for name, spec in encoding.parts(shape).items()}


@settings(deadline=None, max_examples=60)
@given(ENCODINGS, st.integers(0, 99))
def test_packing_is_the_naive_one_and_comes_back(encoding, seed):
    codes = random_codes(encoding, 64, 128, seed)
    parts = room(encoding, (64, 128))
    codec = codec_for(encoding)
    codec.pack(codes, parts)
    planar = encoding.planar and encoding.bits not in (2, 4, 8)
    assert np.array_equal(parts["qweight"], naive.columns(codes.codes.T, encoding.bits, planar))
    if encoding.zeros is Zeros.V2:
        assert np.array_equal(parts["qzeros"], naive.rows(codes.zeros.T, encoding.bits, planar))
    back = codec.unpack(parts, 64)
    assert np.array_equal(back.codes, codes.codes)
    assert np.array_equal(back.zeros, codes.zeros)
    assert np.array_equal(back.scales, codes.scales)
    assert (back.groups is None) == (codes.groups is None)
    out = np.empty((64, 128), np.float32)
    codec.decode(parts, out)
    group = codes.groups if codes.groups is not None else np.arange(128) // (128 // codes.scales.shape[1])
    exact = (codes.codes - codes.zeros[:, group]) * codes.scales[:, group]
    if encoding.scale == "BF16":
        bits = exact.view(np.uint32)
        exact = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    assert np.array_equal(out, exact.astype(np.float16).astype(np.float32) if encoding.scale == "F16" else exact)


def test_labels_are_unique():
    labels = set()
    count = 0
    for bits in range(2, 9):
        for group in (-1, 32, 128):
            for symmetric in (True, False):
                for zeros in Zeros:
                    for order in Order:
                        labels.add(Gptq(bits, group, symmetric, zeros, order).label)
                        count += 1
    labels |= {Gptq(3, 32, planar=True).label, Gptq(3, 32, scale="BF16").label}
    assert len(labels) == count + 2


def test_shapes_that_cannot_be_stored():
    assert Gptq(4, 32).parts((50, 100))["qweight"].shape == (13, 50)
    for encoding, shape in [(Gptq(3, 32), (50, 96)), (Gptq(5, 32), (64, 100)), (Gptq(4, 32), (2, 64, 64))]:
        with pytest.raises(PlanError):
            encoding.parts(shape)


# Quantizing


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group", [24, 32, -1])
def test_the_clip_is_near_the_best_there_is(bits, symmetric, group, weighted):
    rng = np.random.default_rng(bits)
    values = (rng.standard_normal((6, 48)) * 0.03).astype(np.float32)
    importance = rng.random(48).astype(np.float32) + np.float32(0.01) if weighted else None
    weights = np.ones(48) if importance is None else importance
    codes = round_to_groups(values, importance, group, bits, symmetric, "F16")
    length, found, best = group if group > 0 else 48, 0.0, 0.0
    for row in range(len(values)):
        for k, start in enumerate(range(0, 48, length)):
            run = slice(start, start + length)
            scale, zero = codes.scales[row, k], codes.zeros[row, k]
            assert scale == np.float16(scale)
            levels = np.rint(values[row, run] * (np.float32(1) / scale)) + zero
            assert np.array_equal(codes.codes[row, run], np.clip(levels, 0, (1 << bits) - 1))
            found += naive.error(values[row, run], weights[run], scale, zero, bits)
            best += naive.best_error(values[row, run], weights[run], bits, symmetric)
    assert found <= 1.03 * best


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_extreme_groups_stay_finite_and_in_range(bits, symmetric):
    rows = np.zeros((32, 64), np.float32)
    rows[1] = 1e-30
    rows[2] = 3e38
    rows[3, 5] = -3e38
    rows[4] = 60000
    rows[5] = np.linspace(0.1, 0.9, 64)
    rows[6] = -rows[5]
    rows[7, ::2] = 65504
    encoding = Gptq(bits, 32, symmetric, Zeros.V2)
    parts = room(encoding, rows.shape)
    codec = codec_for(encoding)
    codec.encode(rows, parts)
    out = np.empty_like(rows)
    codec.decode(parts, out)
    assert np.isfinite(out).all()
    assert not out[0].any()
    codes = codec.unpack(parts, 32)
    assert (codes.scales > 0).all()
    assert codes.codes.max() < 1 << bits
    assert codes.zeros.max() < 1 << bits
    if bits == 8:
        assert np.abs(out[5] - rows[5]).max() < 0.01


def test_zeros_less_one_are_never_zero():
    rows = np.abs(np.random.default_rng(1).standard_normal((32, 64))).astype(np.float32)
    encoding = Gptq(4, 32, False, Zeros.V1)
    parts = room(encoding, rows.shape)
    codec_for(encoding).encode(rows, parts)
    assert codec_for(encoding).unpack(parts, 32).zeros.min() == 1


# Folding


def store(folder, modules, config, **more):
    """A folder with some layers: module -> stored arrays."""
    folder.mkdir(exist_ok=True)
    arrays = {
        f"{module}.{part}": np.ascontiguousarray(a) for module, parts in modules.items() for part, a in parts.items()
    }
    save_file(arrays | more, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    return folder


def read(folder):
    return FORMATS["safetensors"].read(folder)


def parts_of(name, zeros):
    golden = load(name)
    return {key: golden[key] for key in ("qweight", "scales", "g_idx")} | {"qzeros": golden[zeros]}


CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
V1, V2 = "qzeros_v1_written_by_gptqmodel770", "qzeros_v2"


@pytest.mark.parametrize(("name", "key"), [(n, k) for n in NAMES for k in (V1, V2) if k == V2 or n[:4] != "edge"])
def test_folders_are_recognized(tmp_path, name, key):
    golden = load(name)
    form = "gptq" if key == V1 else "gptq_p" if golden["planar"] else "gptq_v2"
    config = CONFIG | {"bits": int(golden["bits"]), "group_size": int(golden["group_size"]), "checkpoint_format": form}
    checkpoint = read(store(tmp_path / "m", {"model.layers.0.mlp.up_proj": parts_of(name, key)}, config))
    (tensor,) = checkpoint.tensors
    assert tensor.name == "model.layers.0.mlp.up_proj.weight"
    assert tensor.shape == golden["dequant_in_out"].shape[::-1]
    (wanted,) = [
        e
        for e, parts in cases(golden)
        if parts["qzeros"] is not None and e.zeros is (Zeros.V1 if key == V1 else Zeros.V2)
    ]
    assert tensor.encoding.integers == wanted.integers
    assert tensor.encoding.zeros is wanted.zeros
    assert tensor.encoding.planar == (wanted.planar or wanted.bits in (5, 6, 7))
    assert checkpoint.notices == ()


def test_what_the_configuration_says_of_zeros_counts(tmp_path):
    layer = {"m.up_proj": parts_of("gptq_4b_g32_sym_seq", V2)}
    checkpoint = read(store(tmp_path / "sym", layer, CONFIG | {"checkpoint_format": "gptq"}))
    assert checkpoint.tensors[0].encoding == Gptq(4, 32, True, Zeros.V2)
    assert "written as v2" in checkpoint.notices[0]
    for stored, said, zeros in ((V2, "gptq", Zeros.V2), (V1, "gptq_v2", Zeros.V1)):
        for name in ("gptq_4b_g32_asym_seq", "gptq_4b_g32_asym_act", "gptq_2b_g32_asym_act"):
            golden = load(name)
            config = CONFIG | {"checkpoint_format": said, "sym": False, "bits": int(golden["bits"])}
            checkpoint = read(store(tmp_path / "asym", {"m.up_proj": parts_of(name, stored)}, config))
            assert checkpoint.tensors[0].encoding.zeros is not zeros, (name, said)
            assert checkpoint.notices == ()  # weights need not balance


def test_a_group_map_may_be_missing_or_never_filled_in(tmp_path):
    parts = parts_of("gptq_4b_g32_sym_seq", V1)
    without = {name: array for name, array in parts.items() if name != "g_idx"}
    (tensor,) = read(store(tmp_path / "a", {"m.up_proj": without}, CONFIG)).tensors
    assert tensor.encoding == Gptq(4, 32, order=Order.MISSING)
    (tensor,) = read(store(tmp_path / "b", {"m.up_proj": parts | {"g_idx": parts["g_idx"] * 0}}, CONFIG)).tensors
    assert tensor.encoding == Gptq(4, 32, order=Order.UNSET)


@pytest.mark.parametrize("name", ["gptq_4b_g32_sym_seq", "gptq_4b_g32_asym_act"])
def test_a_group_map_may_be_of_wide_integers(tmp_path, name):
    parts = parts_of(name, V2)
    config = CONFIG | {"checkpoint_format": "gptq_v2"}
    (narrow,) = read(store(tmp_path / "a", {"m.up_proj": parts}, config)).tensors
    wide = parts | {"g_idx": parts["g_idx"].astype(np.int64)}
    (tensor,) = read(store(tmp_path / "b", {"m.up_proj": wide}, config)).tensors
    assert tensor.encoding == replace(narrow.encoding, index="I64")
    assert np.array_equal(values_of(tensor), values_of(narrow))
    wide["g_idx"][3] = 1 << 32  # 0, if only half of it were looked at
    with pytest.raises(FormatError, match="names group 4294967296"):
        read(store(tmp_path / "c", {"m.up_proj": wide}, config))


def test_modules_differ_and_the_configuration_lies(tmp_path):
    modules = {
        "model.layers.0.mlp.up_proj": parts_of("gptq_4b_g32_sym_seq", V1),
        "model.layers.0.mlp.down_proj": parts_of("gptq_8b_g32_sym_seq", V1),
        "lm_head": parts_of("gptq_8b_g32_sym_seq", V1),
    }
    dynamic = {"-:.*gate": {}, r"+:.*\.down_proj$": {"bits": 8}, "lm_head": {"bits": 8}}
    folder = store(tmp_path / "m", modules, CONFIG | {"dynamic": dynamic})
    checkpoint = read(folder)
    assert {t.name: t.encoding.label for t in checkpoint.tensors} == {
        "model.layers.0.mlp.up_proj.weight": "GPTQ-4b-g32",
        "model.layers.0.mlp.down_proj.weight": "GPTQ-8b-g32",
        "lm_head.weight": "GPTQ-8b-g32",
    }
    assert checkpoint.notices == ()
    (notice,) = read(store(tmp_path / "m", modules, CONFIG)).notices
    assert "8 bits, not in 4" in notice
    assert "and 1 more" in notice


def test_three_bits_of_older_gptqmodel(tmp_path):
    golden = load("gptq_3b_g32_asym_seq")
    words = golden["qzeros_v2"].view(np.uint32).copy()
    constants = np.array([0x24924924, 0x92492492, 0x49249249], np.uint32)
    words -= constants[np.arange(words.shape[1]) % 3]
    parts = parts_of("gptq_3b_g32_asym_seq", V2) | {"qzeros": words.view(np.int32)}
    config = CONFIG | {"bits": 3, "sym": False, "meta": {"quantizer": ["gptqmodel:5.2.0"]}}
    (tensor,) = read(store(tmp_path / "m", {"m.up_proj": parts}, config)).tensors
    assert tensor.encoding.zeros is Zeros.V1_OLD
    out = np.empty(tensor.shape, np.float32)
    codec_for(tensor.encoding).decode(parts, out)
    assert np.array_equal(out, golden["dequant_in_out"].T.astype(np.float32))
    symmetric = np.tile(np.array([0, 0xB6DB6DB7, 0x49249249], np.uint32), (8, 3)).view(np.int32)
    (tensor,) = read(store(tmp_path / "m", {"m.up_proj": parts | {"qzeros": symmetric}}, CONFIG | {"bits": 3})).tensors
    assert tensor.encoding == Gptq(3, 32, True, Zeros.V1_OLD)


def test_planes_of_three_bits_show_in_symmetric_zeros(tmp_path):
    encoding = Gptq(3, 32, True, Zeros.V2, planar=True)
    parts = room(encoding, (64, 64))
    codec_for(encoding).pack(random_codes(encoding, 64, 64, 3), parts)
    (tensor,) = read(store(tmp_path / "m", {"m.up_proj": parts}, CONFIG | {"bits": 3})).tensors
    assert tensor.encoding == encoding


def autogptq_words(zeros, bits):
    """Zeros less one, packed unmasked as AutoGPTQ up to 0.7.1 does."""
    words = np.zeros((len(zeros), zeros.shape[1] * bits // 32), np.uint32)
    per_word = 32 // bits
    for column in range(zeros.shape[1]):
        less = (zeros[:, column].astype(np.int64) - 1 & 0xFFFFFFFF).astype(np.uint32)
        words[:, column // per_word] |= less << np.uint32(bits * (column % per_word))
    return words.view(np.int32)


def test_zeros_that_autogptq_destroyed_are_told(tmp_path):
    golden = load("gptq_4b_g32_asym_seq")
    zeros = np.maximum(golden["zeros_true"], 1)
    config = CONFIG | {"sym": False}
    parts = parts_of("gptq_4b_g32_asym_seq", V1) | {"qzeros": autogptq_words(zeros, 4)}
    assert read(store(tmp_path / "m", {"m.up_proj": parts}, config)).notices == ()
    zeros[:, 8:12] = 0
    parts["qzeros"] = autogptq_words(zeros, 4)
    (notice,) = read(store(tmp_path / "m", {"m.up_proj": parts}, config)).notices
    assert f"{len(zeros)} words of zeros are damaged" in notice
    parts["qzeros"] = golden[V1]  # GPTQModel borrows instead, and nothing is lost
    assert read(store(tmp_path / "m", {"m.up_proj": parts}, config)).notices == ()


def test_auto_round_names_its_formats(tmp_path):
    parts = parts_of("gptq_4b_g32_asym_seq", V1)
    config = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 32}
    checkpoint = read(store(tmp_path / "m", {"m.up_proj": parts}, config))
    assert checkpoint.tensors[0].encoding == Gptq(4, 32, False, Zeros.V1)
    assert checkpoint.notices == ()


def test_biases_of_zeros_go_where_there_are_none(tmp_path):
    parts = parts_of("gptq_4b_g32_sym_seq", V1)
    outputs = parts["scales"].shape[1]
    for bias, kept in ((np.zeros(outputs, np.float16), 1), (np.ones(outputs, np.float16), 2)):
        checkpoint = read(store(tmp_path / "m", {"m.up_proj": parts | {"bias": bias}}, CONFIG))
        assert len(checkpoint.tensors) == kept
        assert len(checkpoint.notices) == 2 - kept


def test_biases_of_zeros_stay_where_the_architecture_has_them(tmp_path):
    parts = parts_of("gptq_4b_g32_sym_seq", V1)
    parts["bias"] = np.zeros(parts["scales"].shape[1], np.float16)
    folder = store(tmp_path / "m", {"m.q_proj": parts, "m.o_proj": parts}, CONFIG)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "quantization_config": CONFIG}))
    assert {tensor.name for tensor in read(folder).tensors} == {"m.q_proj.weight", "m.q_proj.bias", "m.o_proj.weight"}


def test_marlin_of_autogptq_is_recognized(tmp_path):
    golden = load("marlin_g128")
    folder = store(tmp_path / "m", {"m.up_proj": {"B": golden["B"], "s": golden["s"]}}, {"is_marlin_format": True})
    (tensor,) = read(folder).tensors
    assert (tensor.encoding, tensor.shape) == (Marlin(128), golden["codes_in_out"].shape[::-1])


BROKEN = {
    "no scales": ({"scales": None}, "no 'scales'"),
    "no qzeros": ({"qzeros": None}, "no 'qzeros'"),
    "scales of other groups": ({"scales": np.zeros((7, 96), np.float16)}, "does not match"),
    "scales in I32": ({"scales": np.zeros((8, 96), np.int32)}, "not F16"),
    "zeros too narrow": ({"qzeros": np.zeros((8, 11), np.int32)}, "no width"),
    "group map too long": ({"g_idx": np.zeros(400, np.int32)}, "no width"),
    "group map empty": ({"g_idx": np.zeros(0, np.int32)}, "g_idx"),
    "group map out of range": ({"g_idx": np.full(256, 8, np.int32)}, "names group 8; there are 8"),
    "group map negative": ({"g_idx": np.full(256, -1, np.int32)}, "names group -1"),
    "group map of few groups": ({"g_idx": np.repeat([0, 7], [255, 1]).astype(np.int32)}, None),
    "weights of one row less": ({"qweight": np.zeros((31, 96), np.int32)}, "no width"),
    "weights in three dimensions": ({"qweight": np.zeros((2, 16, 96), np.int32)}, "no matrices"),
    "stored twice": ({"weight": np.zeros((96, 256), np.float16)}, "stored twice"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_layers_are_errors_that_name_them(tmp_path, case):
    changes, message = BROKEN[case]
    parts = parts_of("gptq_4b_g32_sym_seq", V1) | changes
    folder = store(tmp_path / "m", {"m.up_proj": {k: v for k, v in parts.items() if v is not None}}, CONFIG)
    if message is None:
        assert read(folder).tensors[0].encoding.order is Order.ACT  # odd, but every input has a group
        return
    with pytest.raises(FormatError, match=r"m\.up_proj") as error:
        read(folder)
    assert message in str(error.value)


def test_what_is_not_read_is_refused_by_name(tmp_path):
    parts = parts_of("gptq_4b_g32_sym_seq", V1)
    with pytest.raises(UnsupportedError, match="embedding"):
        read(store(tmp_path / "m", {"model.embed_tokens": parts}, CONFIG))
    with pytest.raises(UnsupportedError, match="I32"):
        read(store(tmp_path / "m", {"m.up_proj": parts | {"qweight": parts["qweight"].astype(np.int64)}}, CONFIG))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"bits": "four", "group_size": None, "dynamic": 3},
        {"dynamic": {"x": 1}, "meta": []},
        {"bits": True},
    ],
)
def test_a_senseless_configuration_changes_nothing(tmp_path, config):
    (tensor,) = read(store(tmp_path / "m", {"m.up_proj": parts_of("gptq_4b_g32_sym_seq", V1)}, config)).tensors
    assert tensor.encoding == Gptq(4, 32)
