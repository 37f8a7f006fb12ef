"""The contract of every block type of ggml, against two builds of its reference (PyPI: libggml-python and libgguf).

A type is here as soon as `requant.encodings.BLOCKS` has it.
"""

import libgguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from requant.codecs import codec_for
from requant.encodings import BLOCKS
from requant.errors import UnsupportedError
from requant.kernels_cpu.ggml import DECODERS, ENCODERS, WEIGHTED
from tests import ggml_oracle, naive_blocks
from tests.block_rows import IMPORTANCES, KINDS, importance, rows
from tests.blocks import decode, differing, encode

LABELS = [label for label in BLOCKS if label in DECODERS]  # all of them: see the first test
#: What libgguf 0.2.2 does not know.
NOT_IN_LIBGGUF = {"NVFP4", "Q1_0", "Q2_0"}


#: For these ggml first spends a minute on a table, in every process (and libgguf does so once more).
LONG_TABLES = ("IQ1",)


def against_ggml(labels):
    """Parameters of tests that run ggml's encoder."""
    return [pytest.param(x, marks=pytest.mark.slow) if x.startswith(LONG_TABLES) else x for x in labels]


#: Rows on which ggml's codebook searches leave their grids and end the process: nobody can compare.
_ENDS = {"large", "huge", "largest numbers", "wide", "beyond halves", "far from zero"}


def kinds(label):
    """The rows that the reference survives."""
    return [kind for kind in KINDS if not (label.startswith(("IQ1", "IQ2", "IQ3")) and kind in _ENDS)]


def oracle(label, values, importance=None):
    """What ggml stores, on which both builds must agree."""
    stored = ggml_oracle.encode(label, values, importance)
    if label not in NOT_IN_LIBGGUF and not label.startswith(LONG_TABLES):
        other = libgguf.quantize_rows(values, BLOCKS[label].ggml_id, importance).view(np.uint8).reshape(stored.shape)
        assert (stored == other).all()
    return stored


def needed(label, rng, columns):
    """An importance for the types that ggml does not encode without one."""
    return importance("usual", rng, columns) if BLOCKS[label].needs_importance else None


def test_every_type_has_its_kernels():
    assert set(DECODERS) == set(BLOCKS)
    assert set(ENCODERS) | set(WEIGHTED) == set(BLOCKS)
    for label, block in BLOCKS.items():
        assert (label not in ENCODERS) == block.needs_importance, label


@pytest.mark.parametrize("label", against_ggml(LABELS))
def test_bytes_are_those_of_the_reference(label):
    for kind in kinds(label):
        rng = np.random.default_rng(1)
        x, w = rows(kind, rng, (4, 1024)), needed(label, rng, 1024)
        assert differing(label, encode(label, x, w), oracle(label, x, w)) == [], kind


@pytest.mark.parametrize("kind", IMPORTANCES)
@pytest.mark.parametrize("label", against_ggml(WEIGHTED))
def test_bytes_with_an_importance_are_those_of_the_reference(label, kind):
    for values in kinds(label):
        rng = np.random.default_rng(2)
        x, w = rows(values, rng, (3, 512)), importance(kind, rng, 512)
        assert differing(label, encode(label, x, w), oracle(label, x, w)) == [], values


@pytest.mark.parametrize("label", [label for label in LABELS if label not in WEIGHTED])
def test_the_other_types_take_no_notice_of_an_importance(label):
    rng = np.random.default_rng(3)
    x, w = rows("normal", rng), importance("usual", rng, 1024)
    assert (encode(label, x, w) == oracle(label, x, w)).all()
    assert (encode(label, x, w) == encode(label, x)).all()


@pytest.mark.parametrize("label", WEIGHTED)
def test_an_importance_may_be_given_for_every_row(label):
    """As an expert's is for the rows of that expert."""
    rng = np.random.default_rng(4)
    x = rows("normal", rng, (5, 512))
    w = np.stack([importance(kind, rng, 512) for kind in IMPORTANCES[:5]])
    apart = [encode(label, x[k : k + 1], w[k]) for k in range(5)]
    assert (encode(label, x, w) == np.concatenate(apart)).all()
    assert (encode(label, x, np.tile(w[0], (5, 1))) == encode(label, x, w[0])).all()


@pytest.mark.parametrize("label", LABELS)
def test_any_number_of_blocks_gives_the_same_bytes(label):
    """Kernels work on groups of blocks: the last group may be short, and a row on its own is the same row."""
    rng = np.random.default_rng(5)
    values = max(BLOCKS[label].values, 256)
    x, w = rows("normal", rng, (19, values)), importance("usual", rng, values)
    if label not in WEIGHTED:
        w = None
    whole = encode(label, x, w)
    for count in (1, 2, 3, 15, 16, 17):
        assert (encode(label, x[:count], w) == whole[:count]).all()
    assert encode(label, x[:0], w).shape == (0, whole.shape[1])
    assert decode(label, whole[:0], values).shape == (0, values)


@pytest.mark.parametrize("label", LABELS)
def test_values_of_any_bytes_are_those_of_the_reference(label):
    """Bit for bit; where a scale is NaN, so are both values, whose payload nobody promises."""
    block = BLOCKS[label]
    data = np.random.default_rng(6).integers(0, 256, (4096, block.nbytes), np.uint8)
    ours, theirs = decode(label, data, block.values), ggml_oracle.decode(label, data).reshape(-1, block.values)
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    assert np.flatnonzero(~same.all(1))[:5].tolist() == []
    if label not in NOT_IN_LIBGGUF:
        other = libgguf.dequantize_rows(data, block.ggml_id)
        assert ((ours.view(np.uint32) == other.view(np.uint32)) | (np.isnan(ours) & np.isnan(other))).all()


@pytest.mark.parametrize("label", against_ggml(LABELS))
def test_values_on_the_grid_encode_as_in_the_reference(label):
    """Where every distance is nothing or a tie; and what the reference has encoded twice, so have we."""
    rng = np.random.default_rng(7)
    x = rows("normal", rng, (8, 1024))
    w = importance("usual", rng, 1024) if label in WEIGHTED else None
    again = decode(label, oracle(label, x, w), 1024)
    assert differing(label, encode(label, again, w), oracle(label, again, w)) == []


def finite_rows(label):
    """Rows of 512 numbers, few of them different, so that ties and repetitions are common."""
    usual = st.floats(-4, 4, width=32)
    numbers = usual if label.startswith("IQ") else st.floats(width=32, allow_nan=False, allow_infinity=False)
    return arrays.arrays(np.float32, (1, 512), elements=st.one_of(usual, numbers), fill=usual)


@pytest.mark.parametrize("label", against_ggml(LABELS))
@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 9), kind=st.sampled_from(IMPORTANCES))
def test_any_finite_row_encodes_as_in_the_reference(label, data, seed, kind):
    x = data.draw(finite_rows(label))
    w = importance(kind, np.random.default_rng(seed), 512) if label in WEIGHTED else None
    assert differing(label, encode(label, x, w), ggml_oracle.encode(label, x, w)) == []
    if label in ENCODERS:
        assert differing(label, encode(label, x), ggml_oracle.encode(label, x)) == []


@pytest.mark.parametrize("label", LABELS)
def test_arrays_may_be_read_only_and_unaligned(label):
    rng = np.random.default_rng(8)
    x, w = rows("normal", rng, (2, 1024)), needed(label, rng, 1024)
    held = np.zeros(x.nbytes + 1, np.uint8)
    held[1:] = x.reshape(-1).view(np.uint8)
    moved = held[1:].view(np.float32).reshape(x.shape)
    moved.flags.writeable = False
    assert not moved.flags.aligned
    stored = encode(label, moved, w)
    assert (stored == encode(label, x, w)).all()
    frozen = stored.copy()
    frozen.flags.writeable = False
    assert (decode(label, frozen, 1024) == decode(label, stored, 1024)).all()


def test_a_wrong_size_or_layout_is_refused_before_any_kernel_runs():
    codec, x = codec_for(BLOCKS["Q8_0"]), np.zeros((2, 64), np.float32)
    with pytest.raises(ValueError, match="128 values are not 102 bytes of Q8_0"):
        codec.encode(x, {"data": np.zeros(102, np.uint8)})
    with pytest.raises(ValueError, match="contiguous"):
        codec.encode(np.zeros((64, 2), np.float32).T, {"data": np.zeros(136, np.uint8)})
    with pytest.raises(ValueError, match="contiguous float32, not float64"):
        codec.encode(x.astype(np.float64), {"data": np.zeros(136, np.uint8)})
    with pytest.raises(ValueError, match="does not fit values of shape"):
        codec_for(BLOCKS["Q4_0"]).encode(x, {"data": np.zeros(72, np.uint8)}, importance=np.ones(32, np.float32))


@pytest.mark.parametrize("label", [label for label in LABELS if BLOCKS[label].needs_importance])
def test_what_needs_an_importance_is_refused_without_one(label):
    with pytest.raises(UnsupportedError, match="cannot be encoded without an importance matrix"):
        encode(label, np.zeros((1, 256), np.float32))


def many(label):
    """How many blocks the long test compares: as many as take ggml some seconds."""
    if BLOCKS[label].values == 256:
        return 80_000
    return 400_000 if label in WEIGHTED else 1_500_000


def test_the_long_test_is_long_enough():
    assert sum(many(label) for label in ENCODERS) >= 10_000_000


@pytest.mark.slow
@pytest.mark.parametrize("label", LABELS)
def test_ten_million_blocks_in_all(label):
    """Of every kind of row, with every kind of importance."""
    rng = np.random.default_rng(9)
    block, done = BLOCKS[label], 0
    while done < many(label):
        for k, kind in enumerate(kinds(label)):
            x = rows(kind, rng, (16, 4096))
            ways = [needed(label, rng, 4096)]
            if label in WEIGHTED:
                ways.append(importance(IMPORTANCES[(done + k) % len(IMPORTANCES)], rng, 4096))
            for w in ways:
                assert differing(label, encode(label, x, w), ggml_oracle.encode(label, x, w)) == [], kind
                done += x.size // block.values


@pytest.mark.parametrize("label", naive_blocks.ENCODE)
def test_bytes_are_those_of_the_plain_twin(label):
    """The twin says in numpy what the kernel should do, and agrees with the reference itself."""
    for kind in ("normal", "zeros", "minus zeros", "subnormal", "huge", "ties"):
        rng = np.random.default_rng(10)
        x = rows(kind, rng, (1, 256))
        for w in (None, importance("some zero", rng, 256)):
            twin = naive_blocks.encode(label, x, w)
            assert (encode(label, x, w) == twin).all(), kind
            assert (ggml_oracle.encode(label, x, w) == twin).all(), kind
