"""Rows of a stored tensor as a tensor of its own: what they decode to is what those rows of the whole decode to."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from requant.encodings import BLOCKS, DENSE, rows_of
from requant.encodings.compressed import Packed
from requant.encodings.gptq import Gptq, Order
from requant.encodings.mlx import MlxAffine
from requant.encodings.scaled import Scaled
from requant.ir import Tensor
from requant.sectioned import sectioned
from requant.sources import FileSlice, Memory
from tests.stored import values_of

NVFP4 = Scaled("modelopt", "F4", 1, 16, "F8_E4M3", whole="multiplies", whole_form="matrices")
ENCODINGS = [
    DENSE["BF16"],
    BLOCKS["Q4_0"],
    MlxAffine(4, 32, "F16"),
    NVFP4,
    replace(NVFP4, whole_form="halves"),
    replace(NVFP4, whole_form="scalar"),
    replace(NVFP4, kind="packed", whole="divides"),
    Scaled("mlx", "F4", 1, 16, "U8", storage="U32", whole="largest", whole_form="matrices"),
    Scaled("ct", "I8", 1, 0, "F32", zero="I8"),
    Scaled("ct", "F8_E4M3", 16, 24, "F32"),
    Scaled("stack", "F8_E4M3", 0, 0, "F32"),
    Scaled("stack", "F8_E4M3", scale="F32", form="one"),
    Scaled("stack", "F8_E4M3", scale="F32", form="rows"),
    Packed(4, 32, scale="F32"),
    Packed(4, 32, symmetric=False, scale="F32"),
    Packed(3, -1, symmetric=False, scale="F32", order=Order.STORED),
    Packed(8, 24, symmetric=False, scale="F32", rows=16),
    Packed(4, 0, symmetric=False, scale="F32"),
]


def made(encoding, shape, seed=0):
    """A tensor of this shape, of any bytes that are no damage."""
    rng, sources = np.random.default_rng(seed), {}
    for name, part in encoding.parts(shape).items():
        data = rng.integers(0, 120, part.nbytes, np.uint8)
        if part.dtype.label in ("F32", "F16", "BF16"):
            numbers = rng.random(max(1, int(np.prod(part.shape)))).astype(np.float32) + 0.5
            half = numbers.view(np.uint32) >> 16
            data = {"F32": numbers, "F16": numbers.astype(np.float16), "BF16": half.astype(np.uint16)}[part.dtype.label]
        if name == "shape":
            data = np.array(shape, np.int64)
        if name == "g_idx":
            data = np.zeros(shape[-1], np.int32)
        sources[name] = Memory(data.tobytes()[: part.nbytes])
    return Tensor("t", shape, encoding, sources)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: e.label)
@pytest.mark.parametrize("shape", [(3, 64, 96), (2, 48, 96), (64, 96)])
def test_experts_and_their_halves_decode_to_what_the_stack_does(encoding, shape):
    if len(shape) == 2 and getattr(encoding, "whole_form", "") in ("matrices", "halves"):
        encoding = replace(encoding, whole_form="one")
    tensor, height = made(encoding, shape), shape[-2]
    whole = values_of(tensor)
    for start in range(0, rows_of(shape), height // 2):
        for stop in (start + height // 2, start + height):
            part = sectioned(tensor, start, min(stop, rows_of(shape)))
            if part is not None:
                assert np.array_equal(values_of(part), whole[start : min(stop, rows_of(shape))], equal_nan=True)
            else:  # only where something belongs to rows beyond them
                across = start // height != (stop - 1) // height
                halves = getattr(encoding, "whole_form", "") == "halves" and stop - start == height
                cut = getattr(encoding, "rows", 1) > 1 and height // 2 % encoding.rows
                words = isinstance(encoding, Packed) and encoding.words(height) != 2 * encoding.words(height // 2)
                assert across or halves or cut or (words and not encoding.symmetric), (start, stop)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ENCODINGS), st.sampled_from([(3, 40, 96), (1, 34, 96), (70, 96)]), st.data())
def test_any_rows(encoding, shape, data):
    if len(shape) == 2 and getattr(encoding, "whole_form", "") in ("matrices", "halves"):
        encoding = replace(encoding, whole_form="one")
    start = data.draw(st.integers(0, rows_of(shape) - 1))
    stop = data.draw(st.integers(start + 1, rows_of(shape)))
    tensor = made(encoding, shape)
    part = sectioned(tensor, start, stop)
    if part is not None:
        assert np.array_equal(values_of(part), values_of(tensor)[start:stop], equal_nan=True)


def test_nothing_is_read_from_files():
    path = __file__
    tensor = replace(made(NVFP4, (4, 32, 64)), sources={})
    sources = {name: FileSlice(path, 100 * n, part.nbytes) for n, (name, part) in enumerate(tensor.parts.items())}
    part = sectioned(replace(tensor, sources=sources), 48, 64)
    assert part.shape == (16, 64) and part.encoding == replace(NVFP4, whole_form="one")
    assert part.sources["data"] == FileSlice(path, 48 * 32, 16 * 32)
    assert part.sources["scales"] == FileSlice(path, 100 + 48 * 4, 16 * 4)
    assert part.sources["whole"] == FileSlice(path, 200 + 4, 4)


def test_layers_that_lie_the_other_way_are_left_alone():
    encoding = Gptq(4, 32)
    assert sectioned(made(encoding, (64, 64)), 0, 32) is None
