"""ggml's own reference code, prebuilt (PyPI: libggml-python), called through ctypes.

It has every block type of today's ggml, which libgguf 0.2.2 has not, and its output arrays can be reused: tests compare
bytes with it, benchmarks run it beside ours.
"""

import ctypes
from functools import cache
from importlib.metadata import distribution

import numpy as np

from requant.encodings import BLOCKS

_POINTER = ctypes.c_void_p


@cache
def library(newest=False):
    """libggml-base; the newest is the one inside the llama.cpp of xllamacpp."""
    if newest:
        path = distribution("xllamacpp").locate_file("xllamacpp/xllamacpp.abi3.so")
    else:
        path = distribution("libggml-python").locate_file("libggml/lib64/libggml-base.so")
    ggml = ctypes.CDLL(str(path))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, _POINTER, _POINTER, *[ctypes.c_int64] * 3, _POINTER]
    return ggml


def encode(label, values, importance=None, out=None):
    """values: float32 [rows, columns]; returns uint8 [rows, bytes of a row]. Aborts the process where ggml does."""
    block = BLOCKS[label]
    rows, columns = values.shape
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    if out is None:
        out = np.zeros((rows, columns // block.values * block.nbytes), np.uint8)
    weights = None
    if importance is not None:
        assert importance.shape == (columns,)
        assert importance.dtype == np.float32
        weights = importance.ctypes.data
    newest = label == "IQ1_M"  # whose search was rewritten after libggml 0.20
    library(newest).ggml_quantize_chunk(block.ggml_id, values.ctypes.data, out.ctypes.data, 0, rows, columns, weights)
    return out


def decode(label, blocks, out=None):
    """blocks: uint8, whole blocks; returns float32 values in one dimension."""
    block = BLOCKS[label]
    count = blocks.size // block.nbytes * block.values
    out = np.zeros(count, np.float32) if out is None else out
    name = label.lower().replace("_k", "_K")
    function = getattr(library(), f"dequantize_row_{name}")
    function.argtypes, function.restype = [_POINTER, _POINTER, ctypes.c_int64], None
    function(blocks.ctypes.data, out.ctypes.data, count)
    return out
