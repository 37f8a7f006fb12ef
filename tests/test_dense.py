"""Casts between float32 and the other dtypes, against torch; and finding what a half cannot hold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from requant.codecs import codec_for
from requant.dtypes import DTYPES
from requant.encodings import DENSE
from requant.errors import UnsupportedError
from requant.kernels_cpu.checks import HALF_OVERFLOW, beyond
from requant.kernels_cpu.dense import DenseCodec, small_float_table

TORCH = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}
SMALL = [label for label in TORCH if label.startswith("F8")]
BITS = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


def encode(label, values, **options):
    out = np.zeros(values.shape, DTYPES[label].numpy)
    DenseCodec(DTYPES[label], **options).encode(values, {"data": out})
    return out


def decode(label, data, columns):
    out = np.empty((data.size // columns, columns), np.float32)
    codec_for(DENSE[label]).decode({"data": data}, out)
    return out


def torch_bits(label, values):
    """What torch stores, as unsigned integers."""
    dtype = TORCH[label]
    bits = torch.from_numpy(values).to(dtype).view(BITS[DTYPES[label].bits]).numpy()
    return bits.view(f"u{bits.itemsize}")


def numbers(label, rng, count=1 << 16):
    """Any finite float32 bits, usual numbers, and the type's own numbers with their middles; in its range."""
    x = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    usual = rng.standard_normal(count) * 2.0 ** rng.integers(-20, 6, count)
    x = np.concatenate([x[np.isfinite(x)], usual.astype(np.float32)])
    if label in SMALL:
        own = small_float_table(label)
        own = np.sort(own[np.isfinite(own)])
        x = np.concatenate([x, own, own[1:] / 2 + own[:-1] / 2])
        x = x[abs(x) <= own.max()]
    return abs(x[x != 0]) if label == "F8_E8M0" else x


@pytest.mark.parametrize("label", TORCH)
def test_narrowing_is_torchs(label):
    x = numbers(label, np.random.default_rng(1)).reshape(1, -1)
    if label == "F64":
        assert (encode(label, x) == x.astype(np.float64)).all()
    else:
        assert (encode(label, x) == torch_bits(label, x).view(DTYPES[label].numpy)).all()


@pytest.mark.parametrize("label", ["F16", "BF16", *SMALL])
def test_every_code_widens_as_in_torch(label):
    bits = np.arange(1 << DTYPES[label].bits, dtype=f"u{DTYPES[label].bits // 8}")
    theirs = torch.from_numpy(bits.view(bits.dtype.str.replace("u2", "i2"))).view(TORCH[label]).float().numpy()
    ours = decode(label, bits.view(DTYPES[label].numpy), bits.size)[0]
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    assert np.flatnonzero(~same).tolist() == []


@pytest.mark.parametrize("label", ["F16", "BF16", *SMALL])
def test_every_number_of_the_type_comes_back(label):
    bits = np.arange(1 << DTYPES[label].bits, dtype=f"u{DTYPES[label].bits // 8}").view(DTYPES[label].numpy)
    values = decode(label, bits, 1)[:, 0]
    finite = np.isfinite(values)
    assert (encode(label, values[finite]).view(bits.dtype) == bits[finite]).all()


@given(arrays.arrays(np.float64, st.integers(0, 50), elements=st.floats(-1e300, 1e300)))
def test_doubles_round_to_nearest(x):
    with np.errstate(over="ignore", under="ignore"):
        assert (decode("F64", x, 1)[:, 0] == x.astype(np.float32)).all()


@pytest.mark.parametrize("count", [0, 1, 7, 15, 16, 17, 31, 33])
@pytest.mark.parametrize("label", ["F32", *TORCH])
def test_any_count(label, count):
    x = abs(np.random.default_rng(2).standard_normal(count).astype(np.float32)) + 1
    stored = encode(label, x)
    assert (stored == encode(label, np.tile(x, 5))[:count]).all()
    assert (encode(label, decode(label, stored, 1)[:, 0]) == stored).all()


@pytest.mark.parametrize("label", [label for label in SMALL if label != "F8_E8M0"])
def test_small_floats_saturate_only_when_told(label):
    largest = float(np.nanmax(np.where(np.isinf(small_float_table(label)), 0, small_float_table(label))))
    x = np.array([largest * 1.01, -largest * 2, 3e38, 1], np.float32)
    with pytest.raises(UnsupportedError, match=f"is beyond {largest:g}, the largest number of {label}"):
        encode(label, x)
    kept = decode(label, encode(label, x, saturate=True), 1)[:, 0]
    assert kept.tolist() == [largest, -largest, largest, 1]


def test_nan_stays_nan_where_the_type_has_one():
    x = np.array([np.nan, -np.nan, 1] * 6, np.float32)
    x[3:5] = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    for label in TORCH:
        values = np.abs(x) if label == "F8_E8M0" else x
        assert (np.isnan(decode(label, encode(label, values), 1)[:, 0]) == np.isnan(x)).all(), label


def test_powers_of_two_have_no_zero_and_no_sign():
    for bad in (0.0, -1.0, np.inf):
        with pytest.raises(UnsupportedError, match="no zero, no negative number, no infinity"):
            encode("F8_E8M0", np.array([1, bad], np.float32))


def test_four_bit_floats_are_read_two_to_a_byte():
    data = np.array([[0x10, 0x32], [0x7F, 0x98]], np.uint8)  # 2 rows of 4
    out = np.empty((2, 4), np.float32)
    codec_for(DENSE["F4"]).decode({"data": data}, out)
    assert out.tolist() == [[0, 0.5, 1, 1.5], [-6, 6, -0.0, -0.5]]
    codec_for(DENSE["F4"]).decode({"data": data}, out[:1], start=1)
    assert out[0].tolist() == [-6, 6, -0.0, -0.5]
    odd = np.empty((1, 3), np.float32)
    codec_for(DENSE["F4"]).decode({"data": data}, odd, start=1)  # the second row of three begins inside a byte
    assert odd.tolist() == [[1.5, -6, 6]]


@pytest.mark.parametrize("label", ["I8", "I64", "U8", "BOOL", "F6_E2M3", "C64"])
def test_there_is_no_arithmetic_for_what_is_only_copied(label):
    with pytest.raises(UnsupportedError, match=f"no arithmetic for {label}"):
        codec_for(DENSE[label])


def test_what_a_half_cannot_hold():
    x = np.full(40, 65504, np.float32)
    x[20] = np.nextafter(np.float32(-HALF_OVERFLOW), np.float32(0))
    assert beyond(x) is None
    assert np.isfinite(x.astype(np.float16)).all()
    x[33] = -HALF_OVERFLOW
    assert beyond(x) == 33
    assert np.isinf(encode("F16", x)[33])
    assert beyond(np.array([1, np.nan], np.float32)) == 1
    assert beyond(np.array([], np.float32)) is None
