"""Rows of blocks through the codec of their type, for the suites that compare bytes."""

import numpy as np

from requant.codecs import codec_for
from requant.encodings import BLOCKS


def encode(label, values, importance=None):
    """values: float32 [rows, columns], whole blocks; returns uint8 [rows, bytes of a row]."""
    block = BLOCKS[label]
    out = np.zeros((len(values), values.shape[1] // block.values, block.nbytes), np.uint8)
    codec_for(block).encode(values, {"data": out}, importance=importance)
    return out.reshape(len(values), out.shape[1] * block.nbytes)


def decode(label, data, columns):
    """data: uint8 [rows, bytes of a row]; returns float32 [rows, columns]."""
    out = np.empty((len(data), columns), np.float32)
    codec_for(BLOCKS[label]).decode({"data": data}, out)
    return out


def differing(label, ours, theirs):
    """Numbers of the blocks that are not the same, the first few."""
    return np.flatnonzero((ours != theirs).reshape(-1, BLOCKS[label].nbytes).any(1))[:5].tolist()
