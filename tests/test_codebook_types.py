"""What is particular to ggml's codebook, ternary and 4-bit float types; test_block_types.py has their contract."""

import libgguf
import numpy as np
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.encodings import BLOCKS
from requant.kernels_cpu.ggml_grids import grid_of, neighbours_of
from requant.kernels_cpu.ggml_shells import NONE
from tests import ggml_oracle, naive_codebooks, naive_levels
from tests.block_rows import importance, rows
from tests.blocks import decode, differing, encode

#: How many distances ggml goes through for a point that is not in the grid.
SHELLS = {"IQ2_XXS": 2, "IQ2_XS": 2, "IQ2_S": 1, "IQ1_S": 3, "IQ3_XXS": 2, "IQ3_S": 3}


@pytest.mark.parametrize("label", SHELLS)
def test_neighbours_are_the_nearest_shells_in_order(label):
    """Against sorting every distance, for some codes of each grid."""
    grid, found = grid_of(label), neighbours_of(label)
    levels, places = 1 << grid.bits if grid.bits == 3 else 3, np.arange(grid.dimensions)
    points = grid.codes[:, None] >> grid.bits * places & (1 << grid.bits) - 1
    assert len(found.span) == levels**grid.dimensions
    for u in np.random.default_rng(0).integers(0, levels**grid.dimensions, 300):
        distances = ((points - u // levels**places % levels) ** 2).sum(1)
        inside = distances.min() == 0
        farthest = 0 if inside else np.unique(distances)[SHELLS[label] - 1]
        order = np.lexsort((np.arange(len(points)), distances))
        expected = grid.codes[order[distances[order] <= farthest]]
        packed = int(found.span[u])
        first, count = packed >> 10 << 3, packed >> 1 & 511
        assert packed % 2 == inside
        assert first % 8 == 0
        assert found.near[first : first + count].tolist() == expected.tolist()
        assert (found.near[first + count : first - count // -8 * 8] == NONE).all()
    assert (grid.codes[found.index[grid.codes]] == grid.codes).all()


def test_iq3_s_forgets_a_zero_group_as_ggml_does():
    """Where 32 values are all zero ggml puts the codes of what follows into their place: the values come out wrong."""
    x = rows("normal", np.random.default_rng(1), (1, 256))
    x[:, 32:64] = 0
    stored = encode("IQ3_S", x)
    assert (stored == ggml_oracle.encode("IQ3_S", x)).all()
    values = decode("IQ3_S", stored, 256)
    assert abs(values[:, :32] - x[:, :32]).max() < 0.3 * abs(x).max()
    assert abs(values[:, 64:96] - x[:, 64:96]).max() > abs(x[:, 64:96]).max()


@pytest.mark.slow  # ggml builds its table for a minute, in both libraries
def test_iq1_m_is_that_of_the_newest_ggml():
    """libgguf has the search of before 2026; most blocks come out the same, a few do not."""
    rng = np.random.default_rng(2)
    x, w = rows("normal", rng, (8, 4096)), importance("usual", rng, 4096)
    ours = encode("IQ1_M", x, w)
    assert (ours == ggml_oracle.encode("IQ1_M", x, w)).all()
    older = libgguf.quantize_rows(x, BLOCKS["IQ1_M"].ggml_id, w).view(np.uint8).reshape(-1, 56)
    same = (ours.reshape(-1, 56) == older).all(1).mean()
    assert same > 0.9


def test_where_ggml_ends_the_process_we_take_the_first_point():
    """Squares of these overflow, so that no point is nearer than the largest float."""
    x = np.full((1, 256), 3e20, np.float32)
    w = np.ones(256, np.float32)
    for label in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M"):
        assert len(encode(label, x, w)[0]) == BLOCKS[label].nbytes


def test_mxfp4_just_below_every_power_of_two():
    """log2f rounds up there, which doubles the scale; at the largest floats the upper levels are then infinite."""
    tops = np.arange(1, 256, dtype=np.uint32)[:, None] << 23
    x = np.zeros((255 * 128, 32), np.float32)
    x[:, 5] = (tops - np.arange(1, 129, dtype=np.uint32)).reshape(-1).view(np.float32)
    x[:, 9] = x[:, 5] * np.float32(0.7)
    x[:, 20] = x[:, 5] * np.float32(-0.9)
    assert differing("MXFP4", encode("MXFP4", x), ggml_oracle.encode("MXFP4", x)) == []


def test_mxfp4_of_subnormal_numbers():
    """Exponents below zero wrap around, as on x86-64; every value is then 0."""
    x = np.zeros((150 * 8, 32), np.float32)
    x[:, 3] = (np.float64(2.0) ** np.arange(-149, 1)[:, None] * np.arange(1, 9)).astype(np.float32).reshape(-1)
    stored = encode("MXFP4", x)
    assert differing("MXFP4", stored, ggml_oracle.encode("MXFP4", x)) == []
    lost = (x[:, 3] > 0) & (x[:, 3] < 2.0**-125)
    assert stored[lost, 0].min() > 200
    assert not decode("MXFP4", stored, 32)[lost].any()


def test_nvfp4_scales_of_every_size():
    bits = np.arange(0, 0x7F800000, 0x7F800000 // 60000, dtype=np.uint32)[:60000]
    x = np.zeros((60000 // 4, 64), np.float32)
    x[:, ::16] = bits.view(np.float32).reshape(-1, 4)
    x[:, 7::16] = x[:, ::16] * np.float32(-0.43)
    assert differing("NVFP4", encode("NVFP4", x), ggml_oracle.encode("NVFP4", x)) == []


@pytest.mark.parametrize("label", ["MXFP4", "NVFP4", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0"])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_finite_bit_patterns(label, seed):
    """Types without sums of squares stand any float."""
    x = np.random.default_rng(seed).integers(0, 1 << 32, (8, 1024), np.uint32).view(np.float32)
    x[~np.isfinite(x)] = 0
    assert differing(label, encode(label, x), ggml_oracle.encode(label, x)) == []


@pytest.mark.parametrize("label", [label for label in BLOCKS if label.startswith("IQ")])
def test_the_gguf_package_decodes_the_same(label):
    """A third opinion, in numpy; finite scales only."""
    rng = np.random.default_rng(3)
    x, w = rows("outliers", rng, (4, 512)), importance("usual", rng, 512)
    stored = encode(label, x, w)
    theirs = getattr(quants, label).dequantize(stored)
    assert (decode(label, stored, 512) == theirs).all()


TWINS = {**naive_levels.ENCODE, **naive_codebooks.ENCODE}


@pytest.mark.parametrize("label", TWINS)
def test_bytes_are_those_of_the_plain_twin(label):
    for kind in ("normal", "outliers", "zeros", "minus zeros", "ties", "one hot", "subnormal"):
        rng = np.random.default_rng(10)
        x = rows(kind, rng, (1, 256))
        for w in (importance("usual", rng, 256), None):
            if w is not None or not BLOCKS[label].needs_importance:
                with np.errstate(all="ignore"):
                    twin = TWINS[label](x[0], w)
                assert (encode(label, x, w)[0] == twin).all(), kind
