"""Every block type on the weights of real models, with and without an importance: the bytes that ggml makes of them.

MiniLM whole, and of SmolLM2 some rows of every matrix: test_requantize.py has that model whole, by recipes.
"""

from functools import cache

import libgguf
import numpy as np
import pytest

from requant.codecs import codec_for
from requant.encodings import BLOCKS, F32
from requant.formats.gguf import Gguf
from requant.formats.safetensors import Safetensors
from requant.kernels_cpu.ggml import ENCODERS, WEIGHTED
from requant.sources import read
from tests import ggml_oracle, models
from tests.block_rows import importance
from tests.blocks import encode

#: What libgguf 0.2.2 does not know, or has only an older search for, or builds a table for a minute for.
NOT_IN_LIBGGUF = {"NVFP4", "Q1_0", "Q2_0", "IQ1_S", "IQ1_M"}

READ = {
    "MiniLM": lambda: Safetensors().read(models.minilm()),
    "SmolLM2": lambda: Gguf().read(models.smollm2()),
}
#: The most rows of one matrix, in runs of eight.
MOST = {"MiniLM": 1 << 20, "SmolLM2": 32}


@cache
def matrices(model):
    """Name -> float32 [rows, columns]."""
    found = {}
    for tensor in READ[model]().tensors:
        if len(tensor.shape) != 2 or tensor.encoding.label.startswith("I"):
            continue  # biases, norms and position ids
        rows, columns = tensor.shape
        values = np.empty((rows, columns), np.float32)
        stored = read(tensor.sources["data"])
        codec_for(tensor.encoding).decode({"data": stored.view("<f4") if tensor.encoding == F32 else stored}, values)
        step = max(8, rows // MOST[model] * 8)
        found[tensor.name] = np.concatenate([values[k : k + 8] for k in range(0, rows, step)])
    return found


def laid(values, length):
    """Rows of whole blocks: where a row is none, as many rows after each other as it takes."""
    columns = np.lcm(values.shape[1], length)
    return values.reshape(-1, columns)


def reference(label, values, weights):
    if label in NOT_IN_LIBGGUF:
        return ggml_oracle.encode(label, values, weights)
    stored = libgguf.quantize_rows(values, BLOCKS[label].ggml_id, weights)
    return stored.view(np.uint8).reshape(len(values), -1)


def test_the_matrices_are_those_of_the_models():
    assert sum(x.size for x in matrices("MiniLM").values()) == 22_682_112
    assert len(matrices("SmolLM2")) == 211
    assert {len(x) for x in matrices("SmolLM2").values()} == {32}


@pytest.mark.slow
@pytest.mark.parametrize("label", BLOCKS)
@pytest.mark.parametrize("model", READ)
def test_real_weights_become_the_bytes_of_the_reference(model, label):
    rng = np.random.default_rng(1)
    for name, matrix in matrices(model).items():
        x = laid(matrix, BLOCKS[label].values)
        ways = [None] if label in ENCODERS else []
        if label in WEIGHTED:
            ways.append(importance("usual", rng, x.shape[1]))
        for weights in ways:
            assert (encode(label, x, weights) == reference(label, x, weights)).all(), (name, weights is None)
