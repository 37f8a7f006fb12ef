"""The IQ, ternary and 4-bit float types of ggml against its own reference: the same bytes, the same values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.codecs import codec_for
from requant.encodings import BLOCKS
from requant.kernels_cpu.ggml import DECODERS, ENCODERS, WEIGHTED
from tests import ggml_oracle

LABELS = [label for label in BLOCKS if label.startswith(("IQ", "TQ", "MX", "NV", "Q1", "Q2_0"))]
TAKE_IMPORTANCE = [label for label in LABELS if label.startswith("IQ")]


def rows(kind, rng, shape=(16, 2048)):
    """float32 rows that a quantizer may get wrong in one way or another."""
    x = (rng.standard_normal(shape) * 0.02).astype(np.float32)
    sign = rng.integers(0, 2, shape) * 2 - 1
    match kind:
        case "outliers":
            x[rng.random(shape) < 0.004] *= 40
        case "sparse":
            x[rng.random(shape) < 0.95] = 0
        case "zeros":
            x[:, ::2] = 0
            x[1] = 0
            x[2] = -0.0
            x[3, 256:512] = 0
        case "constant":
            x[: len(x) // 2] = 0.25
            x[len(x) // 2 :] = -0.25
        case "one hot":
            x[:] = 0
            x[np.arange(len(x)), rng.integers(0, shape[1], len(x))] = 0.7
            x[:, 300] = -3
        case "signs":
            x = (0.5 * sign).astype(np.float32)
        case "positive":
            x = abs(x)
        case "negative":
            x = -abs(x)
        case "tiny":
            x *= np.float32(1e-18)
        case "edge of zero":  # around the sizes below which ggml takes a group for zero
            x = (sign * 10.0 ** rng.uniform(-16, -6, shape)).astype(np.float32)
        case "subnormal":
            x = (sign * rng.integers(0, 1 << 23, shape)).astype(np.float32) * np.float32(2**-149)
        case "powers":
            x = (sign * 2.0 ** rng.integers(-20, 12, shape)).astype(np.float32)
        case "ties":
            x = (rng.integers(-24, 25, shape) * 0.5).astype(np.float32)
        case "scales":  # every group of 64 at a size of its own
            x = x * np.repeat(2.0 ** rng.integers(-30, 20, (shape[0], shape[1] // 64)), 64, 1).astype(np.float32)
    return x


KINDS = [
    *("normal", "outliers", "sparse", "zeros", "constant", "one hot", "signs", "positive", "negative"),
    *("tiny", "edge of zero", "subnormal", "powers", "ties", "scales"),
]


def importances(kind, rng, columns):
    """What an importance matrix may hold."""
    w = rng.chisquare(1, columns).astype(np.float32)
    match kind:
        case "ones":
            w[:] = 1
        case "some zero":
            w[rng.random(columns) < 0.3] = 0
        case "zero":
            w[:] = 0
        case "wide":
            w = (10.0 ** rng.uniform(-8, 6, columns)).astype(np.float32)
    return w


def encode(label, values, importance=None):
    out = np.zeros((len(values), values.shape[1] // BLOCKS[label].values, BLOCKS[label].nbytes), np.uint8)
    codec_for(BLOCKS[label]).encode(values, {"data": out}, importance=importance)
    return out.reshape(len(values), -1)


def decode(label, blocks):
    block = BLOCKS[label]
    out = np.empty((1, blocks.size // block.nbytes * block.values), np.float32)
    codec_for(block).decode({"data": blocks.reshape(1, -1, block.nbytes)}, out)
    return out.reshape(-1)


def differing(label, ours, theirs):
    """The blocks that are not the same."""
    return np.flatnonzero((ours != theirs).reshape(-1, BLOCKS[label].nbytes).any(1)).tolist()


def test_every_type_is_here():
    assert set(LABELS) <= set(DECODERS)
    assert set(LABELS) <= set(ENCODERS) | set(WEIGHTED)
    assert set(TAKE_IMPORTANCE) == set(WEIGHTED) & set(LABELS)
    for label in LABELS:
        assert (label not in ENCODERS) == BLOCKS[label].needs_importance


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", [label for label in LABELS if not BLOCKS[label].needs_importance])
def test_bytes_are_those_of_the_reference(label, kind):
    x = rows(kind, np.random.default_rng(1))
    assert differing(label, encode(label, x), ggml_oracle.encode(label, x)) == []


@pytest.mark.parametrize("weights", ["usual", "ones", "some zero", "zero", "wide"])
@pytest.mark.parametrize("label", TAKE_IMPORTANCE)
def test_bytes_with_an_importance_are_those_of_the_reference(label, weights):
    rng = np.random.default_rng(2)
    w = importances(weights, rng, 2048)
    for kind in KINDS:
        x = rows(kind, rng, (4, 2048))
        assert differing(label, encode(label, x, w), ggml_oracle.encode(label, x, w)) == [], kind


@pytest.mark.parametrize("label", [label for label in LABELS if label not in TAKE_IMPORTANCE])
def test_the_other_types_take_no_notice_of_an_importance(label):
    rng = np.random.default_rng(3)
    x, w = rows("normal", rng), importances("usual", rng, 2048)
    assert (encode(label, x, w) == ggml_oracle.encode(label, x, w)).all()
    assert (encode(label, x, w) == encode(label, x)).all()


@pytest.mark.parametrize("label", LABELS)
def test_values_of_any_bytes_are_those_of_the_reference(label):
    blocks = np.random.default_rng(4).integers(0, 256, (4096, BLOCKS[label].nbytes), np.uint8)
    ours, theirs = decode(label, blocks), ggml_oracle.decode(label, blocks)
    assert np.flatnonzero(ours.view(np.uint32) != theirs.view(np.uint32)).tolist() == []


@pytest.mark.parametrize("label", LABELS)
def test_decoded_values_encode_as_in_the_reference(label):
    """Values on the grid, where every distance is a tie or nothing."""
    rng = np.random.default_rng(5)
    x = rows("normal", rng, (8, 2048))
    w = importances("usual", rng, 2048) if label in TAKE_IMPORTANCE else None
    again = decode(label, ggml_oracle.encode(label, x, w)).reshape(x.shape)
    assert differing(label, encode(label, again, w), ggml_oracle.encode(label, again, w)) == []


@pytest.mark.parametrize("label", LABELS)
@settings(max_examples=30)
@given(data=st.data())
def test_bytes_of_any_rows(label, data):
    numbers = st.floats(-1e4, 1e4, width=32)
    size = BLOCKS[label].values
    few = data.draw(st.lists(numbers, min_size=1, max_size=40))
    order = data.draw(st.integers(0, 2**32 - 1))
    x = np.random.default_rng(order).choice(np.array(few, np.float32), (2, 4 * max(64, size)))
    w = None
    if label in TAKE_IMPORTANCE and (BLOCKS[label].needs_importance or data.draw(st.booleans())):
        w = np.random.default_rng(order).choice(np.array([0, 0.5, 1, 2, 1e-3, 7], np.float32), x.shape[1])
    assert differing(label, encode(label, x, w), ggml_oracle.encode(label, x, w)) == []


@pytest.mark.parametrize("label", [label for label in LABELS if label.startswith(("MX", "NV", "TQ", "Q"))])
def test_bytes_of_any_finite_bit_patterns(label):
    """Types without sums of squares stand any float: huge, subnormal, every exponent."""
    bits = np.random.default_rng(6).integers(0, 1 << 32, (64, 4096), np.uint32)
    x = bits.view(np.float32)
    x[~np.isfinite(x)] = 0
    assert differing(label, encode(label, x), ggml_oracle.encode(label, x)) == []


def test_mxfp4_just_below_every_power_of_two():
    """log2f rounds up there, which doubles the scale."""
    tops = np.arange(1, 255, dtype=np.uint32)[:, None] << 23
    x = np.zeros((254 * 128, 32), np.float32)
    x[:, 5] = (tops - np.arange(128, dtype=np.uint32)).reshape(-1).view(np.float32)
    x[:, 9] = x[:, 5] * np.float32(0.7)
    assert differing("MXFP4", encode("MXFP4", x), ggml_oracle.encode("MXFP4", x)) == []
    y = np.zeros((150 * 8, 32), np.float32)
    y[:, 3] = (np.float64(2.0) ** np.arange(-149, 1)[:, None] * np.arange(1, 9)).astype(np.float32).reshape(-1)
    assert differing("MXFP4", encode("MXFP4", y), ggml_oracle.encode("MXFP4", y)) == []


def test_nvfp4_scales_of_every_size():
    bits = np.arange(0, 0x7F800000, 0x7F800000 // 60000, dtype=np.uint32)[:60000]
    x = np.zeros((60000 // 4, 64), np.float32)
    x[:, ::16] = bits.view(np.float32).reshape(-1, 4)
    x[:, 7::16] = x[:, ::16] * np.float32(-0.43)
    assert differing("NVFP4", encode("NVFP4", x), ggml_oracle.encode("NVFP4", x)) == []
