"""Digests of what kernels make of the same numbers, for a processor that is told: `python -m tests.processors TYPE...`.

Run with NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, or under an emulator; each line is a type and a digest of its bytes,
with and without an importance, and of the values that they decode to.
"""

import hashlib
import sys

import numpy as np

from requant.codecs import codec_for
from requant.encodings import BLOCKS, DENSE
from requant.kernels_cpu.ggml import DECODERS, ENCODERS, WEIGHTED

ROWS, COLUMNS = 8, 512


def values_of() -> np.ndarray:
    """Numbers of all sizes, among them a block of zeros, tiny ones, and ties."""
    draws = np.random.default_rng(7)
    values = (draws.standard_normal((ROWS, COLUMNS)) * draws.lognormal(0, 2, (ROWS, 1))).astype(np.float32)
    values[0, :256], values[1, :40], values[2, 256:] = 0, 1e-7, np.round(values[2, 256:] * 4) / 4
    values[3, ::7] *= 30
    return values


def digest_of(label: str) -> str:
    """Of everything that is made for one type."""
    values, digest = values_of(), hashlib.sha256()
    if label == "F16":
        return _digest_of_halves()
    if label == "BF16":
        out, again = np.zeros(values.shape, np.uint16), np.empty_like(values)
        codec = codec_for(DENSE[label])
        codec.encode(values, {"data": out})
        codec.decode({"data": out}, again)
        return hashlib.sha256(out.tobytes() + again.tobytes()).hexdigest()
    block, importance = BLOCKS[label], np.random.default_rng(8).chisquare(1, COLUMNS).astype(np.float32)
    for kernels, more in ((ENCODERS, ()), (WEIGHTED, (importance, COLUMNS))):
        if label in kernels:
            blocks, again = np.zeros(values.size // block.values * block.nbytes, np.uint8), np.empty_like(values)
            kernels[label](values.reshape(-1), *more, blocks)
            DECODERS[label](blocks, again.reshape(-1))
            digest.update(blocks.tobytes() + again.tobytes())
    return digest.hexdigest()


def _digest_of_halves() -> str:
    """Every half to float32, and float32 of every exponent, next to every tie, to halves: as numpy has them."""
    codec, every = codec_for(DENSE["F16"]), np.arange(65536, dtype=np.uint16)
    wide = np.empty((1, 65536), np.float32)
    codec.decode({"data": every.reshape(1, -1)}, wide)
    number = ~np.isnan(wide[0])
    assert wide[0][number].tobytes() == every.view(np.float16)[number].astype(np.float32).tobytes()
    ties = (every.astype(np.uint32) << 16)[:, None] + np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x3000, 0xFFFF], np.uint32)
    middles = wide.view(np.uint32).reshape(-1, 1) + np.array([0xFFF, 0x1000, 0x1001], np.uint32)
    floats = np.concatenate([ties.reshape(-1), middles.reshape(-1)]).view(np.float32)
    floats = floats[~np.isnan(floats)]
    halves = np.empty((1, floats.size), np.uint16)
    codec.encode(floats.reshape(1, -1), {"data": halves})
    with np.errstate(over="ignore"):
        assert halves.tobytes() == floats.astype(np.float16).tobytes()
    return hashlib.sha256(wide[0][number].tobytes() + halves.tobytes()).hexdigest()


def main() -> None:
    """Print a line for each type."""
    for label in sys.argv[1:]:
        print(label, digest_of(label), flush=True)


if __name__ == "__main__":
    main()
