"""Numbers that must not enter a file silently, wherever in a run of rows they are."""

import ctypes
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requant.codecs import codec_for
from requant.encodings import BLOCKS, DENSE
from requant.errors import FormatError, PlanError
from requant.expressions import Stored
from requant.ir import Tensor, TensorSpec
from requant.kernels_cpu import checks
from requant.plan import Step
from requant.sources import Memory
from requant.values import _HALVES, check_bits, check_blocks, check_copied_blocks, check_values
from tests import ggml_oracle

LABELS = ("F16", "BF16", "F32")
BAD = (np.nan, np.inf, -np.inf)
ROWS = 5


def moved(label, columns):
    """A step that moves ten rows; what is looked at are the last five."""
    shape = (2 * ROWS, columns)
    part = Memory(bytes(DENSE[label].dtype.bits // 8 * 2 * ROWS * columns))
    return Step(Stored(Tensor("a", shape, DENSE[label], {"data": part})), TensorSpec("t", shape, DENSE[label]))


def stored(label, values):
    """The bytes of some values."""
    out = np.zeros(values.shape, DENSE[label].dtype.numpy)
    codec_for(DENSE[label]).encode(values, {"data": out})
    return out.reshape(-1).view(np.uint8)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("columns", [1, 3, 16, 1000])
@pytest.mark.parametrize("bad", BAD)
def test_one_bad_number_is_found_and_replaced_in_stored_rows(label, columns, bad):
    clean = np.full((ROWS, columns), 3.0, np.float32)
    one = moved(label, columns)
    data = stored(label, clean)
    assert check_bits(one, ROWS, data, label, None) == 0
    for at in {(0, 0), (2, columns // 2), (ROWS - 1, columns - 1)}:
        values = clean.copy()
        values[at] = bad
        data = stored(label, values)
        with pytest.raises(FormatError, match=re.escape(f"value [{ROWS + at[0]}, {at[1]}] is {bad}")):
            check_bits(one, ROWS, data, label, None)
        assert check_bits(one, ROWS, data, label, 0.5) == 1
        values[at] = 0.5
        assert (data == stored(label, values)).all()


def bad_rows():
    x = np.ones((ROWS, 50), np.float32)
    x[1, 3], x[2, 7:9], x[3, 0] = -np.inf, np.nan, np.inf
    return x


@pytest.mark.parametrize("label", LABELS)
def test_bad_numbers_are_counted_alike_whether_moved_or_rounded(label):
    one = moved(label, 50)
    words = re.escape("value [6, 3] is -inf; 2 NaN and 2 infinite values in these 5 rows")
    with pytest.raises(FormatError, match=words):
        check_bits(one, ROWS, stored(label, bad_rows()), label, None)
    with pytest.raises(FormatError, match=words):
        check_values(one, ROWS, bad_rows(), None)
    assert check_bits(one, ROWS, stored(label, bad_rows()), label, 0.0) == 4
    assert check_values(one, ROWS, bad_rows(), 0.0) == 4


def encoded(label, rows):
    """A step that makes ten rows of four blocks, and the bytes of the last five, with scales of one."""
    block, shape = BLOCKS[label], (2 * ROWS, 4 * BLOCKS[label].values)
    dense = Tensor("a", shape, DENSE["F32"], {"data": Memory(bytes(4 * shape[0] * shape[1]))})
    return Step(Stored(dense), TensorSpec("t", shape, block)), rows.reshape(ROWS, 4, block.nbytes)


def decoded(label, rows):
    values = np.empty((ROWS, 4 * BLOCKS[label].values), np.float32)
    codec_for(BLOCKS[label]).decode({"data": rows.reshape(ROWS, -1)}, values, 0)
    return values


def valid(label, block):
    """Whether ggml takes a block for one."""
    function = ggml_oracle.library(newest=True).ggml_validate_row_data
    function.argtypes, function.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_bool
    return function(BLOCKS[label].ggml_id, block.ctypes.data, block.nbytes)


@pytest.mark.parametrize("label", BLOCKS)
def test_blocks_are_refused_where_ggml_finds_them_invalid(label):
    """Whatever three bytes of a block are all ones: the table of where scales stand is ggml's."""
    size, refused = BLOCKS[label].nbytes, 0
    for at in range(size - 2):
        step, rows = encoded(label, np.zeros((ROWS * 4, size), np.uint8))
        rows[2, 3, at : at + 3] = 255
        if valid(label, rows[2, 3]):
            check_blocks(step, ROWS, rows)
            continue
        refused += 1
        with pytest.raises(
            PlanError, match=re.escape(f"value [{ROWS + 2}, {3 * BLOCKS[label].values}] begins a block")
        ):
            check_blocks(step, ROWS, rows)
        with pytest.raises(FormatError, match="whose scale is no number, one of 1 such"):
            check_copied_blocks(step, ROWS, rows, None)
        rows[0, 0] = rows[4, 3] = rows[2, 3]
        assert check_copied_blocks(step, ROWS, rows, 0.0) == 3 * BLOCKS[label].values
        assert not rows.any() and not decoded(label, rows).any()
    assert refused or label == "NVFP4"
    step, rows = encoded(label, np.zeros((ROWS * 4, size), np.uint8))
    check_blocks(step, ROWS, rows[:0])


@pytest.mark.parametrize("label", LABELS)
def test_the_largest_numbers_and_no_numbers_are_fine(label):
    largest = np.array([[65504, -65504]], np.float32)
    assert check_bits(moved(label, 2), 0, stored(label, largest), label, None) == 0
    assert check_values(moved(label, 2), 0, largest, None) == 0
    assert check_bits(moved(label, 2), 0, stored(label, largest[:0]), label, None) == 0
    assert check_values(moved(label, 2), 0, largest[:0], None) == 0


def summed_naively(data):
    """What `checks.summed` says of bytes, word by word."""
    total, pages = len(data), len(data) // 4096
    for page in range(pages):
        words = struct.unpack_from("<512Q", data, 4096 * page)
        total += sum(words) * ((page + 1) * 0x9E3779B97F4A7C15 | 1)
    rest = data[4096 * pages :]
    return (total + (zlib.crc32(rest) << 20 if rest else 0)) % (1 << 64)


@given(
    label=st.sampled_from(["Q8_0", "Q4_1", "Q6_K"]),
    blocks=st.integers(0, 300),
    bad=st.lists(st.integers(0, 299), max_size=2),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_pass_sums_blocks_up_and_finds_scales_that_are_no_numbers(label, blocks, bad, seed):
    encoding, (first, last, _) = BLOCKS[label], _HALVES[label]
    data = np.random.default_rng(seed).integers(0, 256, (blocks, encoding.nbytes), np.uint8)
    data[:, first + 1 : last : 2] &= 0x83  # no exponent of ones only
    data[:, last - 1] |= 0x78
    marked = [at for at in bad if at < blocks]
    data[marked, last - 1 if seed % 2 else first + 1] = 0xFC
    said = checks.summed(data.reshape(-1), encoding.nbytes, (first + 1, last - 1))
    assert said == (summed_naively(data.tobytes()), bool(marked))
    assert checks.summed(data.reshape(-1)) == (said[0], False)
