"""Unpacking a whole matrix beside the reference libraries' CPU code: one process, in turns, equal results.

    python benchmarks/unpack.py [--rows 4096] [--columns 4096] [--rounds 9] [--threads 1] [--only GPTQ]

Both sides fill one dense matrix of the same dtype, the one that the reference computes in, and the results are compared
before anything is timed: every number must be equal. Ours is [out, in], as folders store it, done in runs of rows as
`requant convert` does them. GPTQModel's functions and the lines for EXL2 leave the transpose ("theirs");
`.t().contiguous()`, which GPTQModel's own dequantizer of checkpoints does next (utils/model_dequant.py), is timed with
them under "stored".
"x" is the median time of theirs over ours (the thread's processor time, or elapsed time if there are several); "copy"
is what ours reads and writes, as a share of what copying a large array moves here.

References: GPTQModel's `TorchLinear.dequantize_weight` in torch, and as its `post_init` leaves it (compiled by
torch.compile, which needs a C++ compiler and seconds for the first layer); its `dequantize_gemm` for AWQ;
bitsandbytes' `dequantize_4bit` (C++) and `int8_vectorwise_dequant`; `decompress` of compressed-tensors. For FP8 with
scales for blocks of 128 x 128, casts and products in torch, as transformers does. EXL2 has no CPU code anywhere: that
is the arithmetic of exllamav2's kernels written here in torch, whole groups at a time. What is not installed is left
out by name.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from requant.codecs import HalvesCodec, codec_for
from requant.dtypes import DTYPES
from requant.encodings import DENSE
from requant.encodings.awq import Awq, Kind
from requant.encodings.bitsandbytes import FourBit, RowInt8
from requant.encodings.compressed import Packed
from requant.encodings.exl2 import Exl2
from requant.encodings.gptq import Gptq, Order, Zeros
from requant.encodings.scaled import FP8_BLOCK
from requant.runs import RUN_VALUES

Parts = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One row of the table; theirs gives a tensor [out, in] of `dtype`."""

    name: str
    encoding: Any
    parts: Parts
    dtype: str
    theirs: Callable[[], Any]

    def ours(self, out: np.ndarray, pool: ThreadPoolExecutor | None) -> None:
        """Fill `out` by runs of rows, as `requant.execution` cuts them."""
        granule = self.encoding.granule(out.shape) if not isinstance(self.encoding, Exl2) else 32
        rows = granule * max(1, RUN_VALUES // (granule * out.shape[1]))
        starts = range(0, len(out), rows)
        if pool is None:
            scratch = np.empty((rows, out.shape[1]), np.float32)
            for start in starts:
                self.run(out[start : start + rows], start, scratch)
        else:
            list(pool.map(lambda start: self.run(out[start : start + rows], start, None), starts))

    def run(self, out: np.ndarray, start: int, scratch: np.ndarray | None) -> None:
        """Some rows."""
        codec = codec_for(self.encoding)
        if self.dtype == "F32":
            codec.decode(self.parts, out, start)
        elif isinstance(codec, HalvesCodec):
            codec.decode_halves(self.parts, out.view(np.uint16), start)
        else:
            values = (np.empty(out.shape, np.float32) if scratch is None else scratch)[: len(out)]
            codec.decode(self.parts, values, start)
            codec_for(DENSE[self.dtype]).encode(values, {"data": out})


def encoded(encoding: Any, values: np.ndarray) -> Parts:
    """The parts of `values`, by our own encoder."""
    specs = encoding.parts(values.shape).items()
    parts = {name: np.zeros(part.nbytes, np.uint8).view(part.dtype.numpy).reshape(part.shape) for name, part in specs}
    codec = codec_for(encoding)
    if hasattr(codec, "begin"):
        codec.begin(float(np.abs(values).max()), parts)
    codec.encode(values, parts)
    return parts


def bitsandbytes(values: np.ndarray) -> Iterator[Case]:
    """NF4 and FP4 from three dtypes, and int8."""
    import torch
    from bitsandbytes import functional

    for table, dtype in (("nf4", "float32"), ("nf4", "bfloat16"), ("nf4", "float16"), ("fp4", "bfloat16")):
        encoding = FourBit(table, dtype)
        codes, state = functional.quantize_4bit(torch.from_numpy(values).to(getattr(torch, dtype)), quant_type=table)
        parts = encoded(encoding, values)
        parts["data"].reshape(-1)[:] = codes.reshape(-1).numpy()
        parts["absmax"].reshape(-1)[:] = state.absmax.numpy()
        theirs = partial(functional.dequantize_4bit, codes, state)
        yield Case(table.upper(), encoding, parts, encoding.values.label, theirs)
    rows = RowInt8(marked=False)
    parts = encoded(rows, values)
    arrays = torch.from_numpy(parts["data"]), torch.from_numpy(parts["SCB"])
    yield Case("LLM.int8", rows, parts, "F32", partial(functional.int8_vectorwise_dequant, *arrays))


def fp8_in_torch(values: np.ndarray) -> Iterator[Case]:
    """FP8 in blocks."""
    import torch

    parts = encoded(FP8_BLOCK, values)
    codes = torch.from_numpy(parts["data"].view(np.uint8)).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(parts["scales"])

    def theirs() -> Any:
        wide = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
        return codes.float() * wide[: codes.shape[0], : codes.shape[1]]

    yield Case("FP8 128x128", FP8_BLOCK, parts, "F32", theirs)


def gptq(values: np.ndarray) -> Iterator[Case]:
    """GPTQ of several widths, with its inputs in order and by falling activation."""
    with contextlib.redirect_stdout(sys.stderr):
        from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    import torch

    outputs, inputs = values.shape
    shuffled = np.random.default_rng(1).permutation(np.arange(inputs) // 128).astype(np.int32)
    for bits, order in ((4, Order.STORED), (4, Order.ACT), (8, Order.STORED), (8, Order.ACT), (3, Order.STORED)):
        encoding = Gptq(bits, 128, False, Zeros.V2, order)
        parts = encoded(encoding, values)
        if order is Order.ACT:
            parts["g_idx"][:] = shuffled
        layer = TorchLinear(bits, 128, False, order is Order.ACT, inputs, outputs)
        for name, array in parts.items():
            setattr(layer, name, torch.from_numpy(array))
        layer.eval()
        name = f"GPTQ {bits} bit" + (", act-order" if order is Order.ACT else "")
        yield Case(name, encoding, parts, "F16", lambda layer=layer: layer.dequantize_weight().t())
        layer.post_init()
        yield Case(f"{name} (compiled)", encoding, parts, "F16", lambda layer=layer: layer.dequantize_weight().t())


def awq(values: np.ndarray) -> Iterator[Case]:
    """AWQ for gemm."""
    with contextlib.redirect_stdout(sys.stderr):
        from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
    import torch

    encoding = Awq(Kind.GEMM, 128)
    parts = encoded(encoding, values)
    arrays = [torch.from_numpy(parts[name]) for name in ("qweight", "qzeros", "scales")]
    yield Case("AWQ 4 bit", encoding, parts, "F16", lambda: dequantize_gemm(*arrays, 4, 128).t())


def compressed_tensors(values: np.ndarray) -> Iterator[Case]:
    """Integers in words."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    packed = Packed(4, 128, True, scale="BF16")
    parts = encoded(packed, values)
    arrays = {"weight_packed": torch.from_numpy(parts["packed"]), "weight_shape": torch.tensor(values.shape)}
    arrays["weight_scale"] = torch.from_numpy(parts["scales"].view(np.int16)).view(torch.bfloat16)
    weights = QuantizationArgs(num_bits=4, group_size=128, strategy="group", symmetric=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    decompress = BaseCompressor.get_value_from_registry("pack-quantized").decompress
    yield Case("CT 4 bit", packed, parts, "BF16", lambda: decompress(dict(arrays), scheme)["weight"])


def exl2_in_torch(values: np.ndarray) -> Iterator[Case]:
    """EXL2 of 4.25 bits."""
    import torch

    inputs = values.shape[1]
    encoding = Exl2(((5, 128, inputs // 512), (4, 128, inputs // 128 - inputs // 512)))
    parts = encoded(encoding, values)
    tensors = {name: torch.from_numpy(array) for name, array in parts.items()}
    nibbles = torch.arange(0, 32, 4, dtype=torch.int32)

    def codes_of(words: Any, bits: int) -> Any:
        """A stream of codes down each column of words: eight or more at a time that lie alike in every block."""
        blocks = words.reshape(-1, bits, words.shape[1])
        codes = torch.empty((len(blocks), 32, words.shape[1]), dtype=torch.int32)
        for k in range(32):
            word, shift = divmod(k * bits, 32)
            low = torch.bitwise_right_shift(blocks[:, word], shift)
            if shift + bits > 32:
                low = low & (1 << 32 - shift) - 1 | torch.bitwise_left_shift(blocks[:, word + 1], 32 - shift)
            torch.bitwise_and(low, (1 << bits) - 1, out=codes[:, k])
        return codes.reshape(-1, words.shape[1])

    def theirs() -> Any:
        steps = (tensors["q_scale"][:, :, None] >> nibbles & 15).reshape(len(tensors["q_scale"]), -1) + 1
        scales = (steps * steps).half() * (tensors["q_scale_max"] * np.float16(1 / 256).item())[:, None]
        rows, word, group = [], 0, 0
        for bits, length, times in encoding.groups:
            height = bits * length * times // 32
            codes = codes_of(tensors["q_weight"][word : word + height], bits) - (1 << bits - 1)
            here = scales[group : group + times].repeat_interleave(length, 0)
            rows.append(codes.half() * here)
            word, group = word + height, group + times
        return torch.cat(rows)[tensors["q_invperm"].long()].t()

    yield Case("EXL2 4.25 bit", encoding, parts, "F16", theirs)


def copy_bandwidth() -> float:
    """Bytes read and written per second by a copy that no cache holds."""
    source = np.ones(1 << 27, np.uint8)
    target, times = np.zeros_like(source), []
    for _ in range(7):
        start = time.process_time()
        np.copyto(target, source)
        times.append(time.process_time() - start)
    return 2 * source.nbytes / statistics.median(times)


def check(case: Case, out: np.ndarray) -> None:
    """Every number of both results is the same, bit for bit; zeros of either sign are."""
    import torch

    result = case.theirs().contiguous()
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[case.dtype]
    mine = torch.from_numpy(out.view(np.int16) if case.dtype != "F32" else out).view(dtype)
    if result.dtype != dtype or not torch.equal(mine, result):
        raise SystemExit(f"{case.name}: {result.dtype} results differ at {int((mine != result).sum())} places")


def race(case: Case, out: np.ndarray, rounds: int, threads: int) -> tuple[float, float, float]:
    """Median seconds of ours, of theirs, and of theirs as rows of outputs, run in turns; all have run before."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    with ThreadPoolExecutor(threads) as workers:
        pool = None if threads == 1 else workers
        runs = (lambda: case.ours(out, pool), case.theirs, lambda: case.theirs().contiguous())
        case.ours(out, pool)
        check(case, out)
        times: tuple[list[float], ...] = ([], [], [])
        for _ in range(rounds):
            for run, kept in zip(runs, times, strict=True):
                start = clock()
                run()
                kept.append(clock() - start)
    ours, theirs, stored = (statistics.median(kept) for kept in times)
    return ours, theirs, stored


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="families whose name begins so")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read by libraries that are loaded from here on
    import torch

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    values = np.random.default_rng(0).standard_normal((options.rows, options.columns)).astype(np.float32)
    bandwidth = copy_bandwidth()
    print(f"{options.rows} x {options.columns}, {options.threads} thread(s); a copy moves {bandwidth / 1e9:.1f} GB/s\n")
    print("| stored as | both give | ours, ms | theirs, ms | x | stored, ms | x | copy |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for family in (gptq, awq, exl2_in_torch, bitsandbytes, fp8_in_torch, compressed_tensors):
        if not family.__name__.lower().startswith(options.only.lower()):
            continue
        try:
            for case in family(values):
                out = np.empty(values.shape, DTYPES[case.dtype].numpy)
                mine, *others = race(case, out, options.rounds, options.threads)
                moved = out.nbytes + sum(part.nbytes for part in case.parts.values())
                ratios = " | ".join(f"{other * 1e3:.1f} | {other / mine:.1f}" for other in others)
                figures = f"{mine * 1e3:.1f} | {ratios} | {moved / mine / bandwidth:.0%}"
                print(f"| {case.name} | {case.dtype} | {figures} |", flush=True)
        except ImportError as error:
            print(f"| {family.__name__} | left out: {error.name} is not installed | | | | | | |")


if __name__ == "__main__":
    main()
