"""Unpacking beside the reference libraries' CPU code: one thread, one process, in turns.

    python benchmarks/unpack.py [--rows 1024] [--columns 4096] [--rounds 9]

References: `dequantize_4bit` and `int8_vectorwise_dequant` of bitsandbytes; torch's casts and products for FP8 (one
scale for a block of 128 x 128); for GPTQ and AWQ the shifts, differences and products that GPTQModel's torch kernel
does, in torch. What is not installed is left out by name. "x" is their median over ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from requant.codecs import codec_for
from requant.encodings.awq import Awq, Kind
from requant.encodings.bitsandbytes import FourBit, RowInt8
from requant.encodings.gptq import Gptq, Order, Zeros
from requant.encodings.scaled import FP8_BLOCK

Case = tuple[str, Callable[[], object], Callable[[], object]]


def encoded(encoding: Any, values: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of `values`, by our own encoder."""
    specs = encoding.parts(values.shape).items()
    parts = {name: np.zeros(part.nbytes, np.uint8).view(part.dtype.numpy).reshape(part.shape) for name, part in specs}
    codec_for(encoding).encode(values, parts)
    return parts


def bitsandbytes(values: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    """NF4 from three dtypes, and int8."""
    import torch
    from bitsandbytes import functional

    for dtype in ("float32", "bfloat16", "float16"):
        encoding = FourBit("nf4", dtype)
        parts = encoded(encoding, values)
        codes, state = functional.quantize_4bit(torch.from_numpy(values).to(getattr(torch, dtype)), quant_type="nf4")
        yield (
            f"NF4 of {dtype}",
            lambda encoding=encoding, parts=parts: codec_for(encoding).decode(parts, out),
            lambda codes=codes, state=state: functional.dequantize_4bit(codes, state),
        )
    rows = RowInt8(marked=False)
    parts = encoded(rows, values)
    codes, scales = torch.from_numpy(parts["data"]), torch.from_numpy(parts["SCB"])
    theirs = functional.int8_vectorwise_dequant
    yield "int8", lambda: codec_for(rows).decode(parts, out), lambda: theirs(codes, scales)


def torch_fp8(values: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    """FP8 in blocks."""
    import torch

    parts = encoded(FP8_BLOCK, values)
    codes = torch.from_numpy(parts["data"].view(np.uint8)).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(parts["scales"])

    def theirs() -> Any:
        wide = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
        return codes.float() * wide[: codes.shape[0], : codes.shape[1]]

    yield "FP8 128x128", lambda: codec_for(FP8_BLOCK).decode(parts, out), theirs


def torch_integers(values: np.ndarray, out: np.ndarray) -> Iterator[Case]:
    """GPTQ and AWQ, 4 bits in groups of 128."""
    import torch

    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    gptq = Gptq(4, 128, True, Zeros.V2, Order.STORED)
    parts = encoded(gptq, values)
    arrays = {name: torch.from_numpy(array) for name, array in parts.items()}
    group_of = torch.arange(values.shape[1]) // 128

    def of_gptq() -> Any:
        codes = (arrays["qweight"][:, None, :] >> shifts[None, :, None] & 15).reshape(values.shape[1], -1)
        zeros = (arrays["qzeros"][:, :, None] >> shifts & 15).reshape(len(arrays["qzeros"]), -1)
        return (arrays["scales"][group_of] * (codes - zeros[group_of])).t()

    yield "GPTQ 4 bit", lambda: codec_for(gptq).decode(parts, out), of_gptq
    awq = Awq(Kind.GEMM, 128)
    stored = encoded(awq, values)
    tensors = {name: torch.from_numpy(array) for name, array in stored.items()}
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])

    def of_awq() -> Any:
        codes, zeros = (
            (tensors[name][:, :, None] >> shifts & 15)[:, :, order].reshape(len(tensors[name]), -1)
            for name in ("qweight", "qzeros")
        )
        return ((codes - zeros[group_of]) * tensors["scales"][group_of]).t()

    yield "AWQ 4 bit", lambda: codec_for(awq).decode(stored, out), of_awq


def race(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of processor time of each, run in turns; both have run once before."""
    ours(), theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, kept in zip((ours, theirs), times, strict=True):
            start = time.process_time()
            run()
            kept.append(time.process_time() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    values = np.random.default_rng(0).standard_normal((options.rows, options.columns)).astype(np.float32)
    out = np.empty_like(values)
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass
    print(f"{'':16}{'ours':>10}{'theirs':>10}{'x':>8}   milliseconds")
    for family in (bitsandbytes, torch_fp8, torch_integers):
        try:
            for name, ours, theirs in family(values, out):
                mine, other = race(ours, theirs, options.rounds)
                print(f"{name:16}{mine * 1e3:10.2f}{other * 1e3:10.2f}{other / mine:8.1f}")
        except ImportError as error:
            print(f"{family.__name__:16} left out: {error.name} is not installed")


if __name__ == "__main__":
    main()
