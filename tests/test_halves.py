"""Values that are 16-bit numbers: written as such, they are those that widening and naive code give."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.codecs import HalvesCodec, codec_for
from requant.encodings.bitsandbytes import FourBit
from requant.encodings.compressed import Packed
from requant.encodings.exl2 import Exl2
from requant.encodings.gptq import Gptq, Order, Zeros
from requant.kernels_cpu.columns import Columns, columns_to_halves
from requant.kernels_cpu.nibbles import nibbles_to_halves
from tests import naive_groups

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
ENCODINGS = [
    *(Gptq(bits, 32, order=order) for bits in (2, 4, 8) for order in (Order.STORED, Order.ACT)),
    Gptq(3, -1, False, Zeros.V2),
    Gptq(4, 64, scale="BF16"),
    Exl2(((6, 32, 2), (3, 64, 2), (2, 32, 2))),
    *(FourBit(table, dtype) for table in ("nf4", "fp4") for dtype in ("float16", "bfloat16")),
    FourBit("nf4", "bfloat16", double=True),
    FourBit("nf4", "float16", block=4096),  # blocks that do not end with rows
    *(Packed(4, group, symmetric, scale="BF16") for group in (32, 128, -1) for symmetric in (True, False)),
    Packed(8, 32, True, scale="F16"),
]


def rounded_bits(values, dtype):
    return torch.from_numpy(values).to(DTYPES[dtype]).view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.label)
def test_halves_are_the_values_and_runs_the_whole(encoding):
    rows, columns = 96, 256
    values = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
    parts = {
        name: np.zeros(part.nbytes, np.uint8).view(part.dtype.numpy).reshape(part.shape)
        for name, part in encoding.parts(values.shape).items()
    }
    codec = codec_for(encoding)
    codec.encode(values, parts)
    if "g_idx" in parts and encoding.order is Order.ACT:
        parts["g_idx"][:] = np.random.default_rng(2).permutation(np.arange(columns) // 32)
    wide, halves = np.empty_like(values), np.empty(values.shape, np.uint16)
    codec.decode(parts, wide)
    assert isinstance(codec, HalvesCodec)
    codec.decode_halves(parts, halves)
    label = encoding.values.label
    again = halves.view(np.float16).astype(np.float32) if label == "F16" else (halves.astype("u4") << 16).view("f4")
    assert np.array_equal(again.view("u4"), wide.view("u4"))
    for start in range(0, rows, 32):
        run = np.empty((32, columns), np.uint16)
        codec.decode_halves(parts, run, start)
        assert np.array_equal(run, halves[start : start + 32])


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 5, 6, 7, 8]),
    planar=st.booleans(),
    blocks=st.integers(1, 3),
    cut=st.sampled_from([0, 0, 3, 8, 16]),
    outputs=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(list(DTYPES)),
)
def test_columns_are_the_naive_ones(bits, planar, blocks, cut, outputs, seed, dtype):
    """Any width, number of outputs and of inputs, and any group of any input; beside what is not to be touched."""
    rng = np.random.default_rng(seed)
    planar, inputs, extra = planar and not cut, 32 * blocks - cut, 5
    codes = rng.integers(0, 1 << bits, (outputs + extra, inputs))
    words = naive_groups.columns(codes.T, bits, planar)
    scales, zeros = rng.standard_normal((3, outputs)).astype("f4"), rng.integers(0, 9, (3, outputs)).astype("f4")
    groups = rng.integers(0, 3, inputs).astype(np.int32)
    out = np.full((outputs, inputs + 7), 0xABCD, np.uint16)
    columns_to_halves(Columns(words, bits, scales, zeros, groups, planar), extra, dtype, out, 4)
    wanted = rounded_bits((codes[extra:].astype("f4") - zeros.T[:, groups]) * scales.T[:, groups], dtype)
    assert np.array_equal(out[:, 4:-3], wanted)
    assert (out[:, :4] == 0xABCD).all() and (out[:, -3:] == 0xABCD).all()


@settings(max_examples=40, deadline=None)
@given(
    group=st.sampled_from([32, 64, 128]),
    count=st.integers(1, 5),
    high_first=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(list(DTYPES)),
)
def test_nibbles_are_the_naive_ones(group, count, high_first, seed, dtype):
    rng = np.random.default_rng(seed)
    size = group * count - 32 * int(rng.integers(0, group // 32))  # the last group may be short
    codes = rng.integers(0, 256, size // 2, dtype=np.uint8)
    table, scales, zeros = (rng.standard_normal(n).astype("f4") for n in (16, count, count))
    out = np.empty(size, np.uint16)
    nibbles_to_halves(codes, table, scales, zeros, group, dtype, out, high_first)
    nibbles = np.stack([codes >> 4, codes & 15] if high_first else [codes & 15, codes >> 4], -1).reshape(-1)
    of = np.arange(size) // group
    assert np.array_equal(out, rounded_bits((table[nibbles] - zeros[of]) * scales[of], dtype))


def test_what_is_no_whole_run_of_nibbles_is_refused():
    arrays = (np.zeros(24, np.uint8), np.zeros(16, "f4"), np.zeros(1, "f4"), np.zeros(1, "f4"))
    with pytest.raises(ValueError, match="48 codes in groups of 64"):
        nibbles_to_halves(*arrays, 64, "F16", np.zeros(48, np.uint16))
