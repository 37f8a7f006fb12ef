"""Every block type's kernels beside ggml's own, one thread, in one process.

    python benchmarks/kernels.py [--types Q4_K,Q6_K] [--weights 1048576] [--rounds 5] [--json]

Ours and ggml's (PyPI: libggml-python, prebuilt) take turns on the same arrays; figures are medians of processor time,
in million weights per second, and "x" is ours over ggml's. "copy" is the bytes that encoding without an importance
and decoding read and write per second, as shares of what copying a large array moves here; --weights 8388608 is more
than caches hold. F16 and BF16 are ggml's row functions beside our casts.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from requant.codecs import codec_for
from requant.dtypes import DTYPES
from requant.encodings import BLOCKS, DENSE
from requant.kernels_cpu.ggml import DECODERS, ENCODERS, WEIGHTED
from tests import ggml_oracle

COLUMNS = 1024
CASTS = {"F16": "fp16", "BF16": "bf16"}


def race(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of each, run in turns; both have run once before."""
    ours(), theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, kept in zip((ours, theirs), times, strict=True):
            start = time.thread_time()
            run()
            kept.append(time.thread_time() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def copy_bandwidth() -> float:
    """Bytes read and written per second by a copy that no cache holds."""
    source = np.ones(1 << 27, np.uint8)
    target = np.zeros_like(source)
    times = []
    for _ in range(7):
        start = time.thread_time()
        np.copyto(target, source)
        times.append(time.thread_time() - start)
    return 2 * source.nbytes / statistics.median(times)


def measure(label: str, weights: int, rounds: int, bandwidth: float) -> dict[str, object]:
    """One row of the table."""
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((weights // COLUMNS, COLUMNS)) * 0.02).astype(np.float32)
    importance = rng.chisquare(1, COLUMNS).astype(np.float32)
    block, codec = BLOCKS[label], codec_for(BLOCKS[label])
    data = np.zeros((len(values), COLUMNS // block.values * block.nbytes), np.uint8)
    theirs = np.zeros_like(data)
    row: dict[str, object] = {"type": label}
    for name, table, given in (("encode", ENCODERS, None), ("imatrix", WEIGHTED, importance)):
        if label in table:
            ours = race(
                lambda given=given: codec.encode(values, {"data": data}, importance=given),  # type: ignore[misc]
                lambda given=given: ggml_oracle.encode(label, values, given, theirs),  # type: ignore[misc]
                rounds,
            )
            if name == "encode":
                row["copy_encode"] = (values.nbytes + data.nbytes) / ours[0] / bandwidth
            row[name] = figures(ours, weights) | {"same": bool((data == theirs).all())}
    if label in DECODERS:
        many = np.tile(data, (8, 1))  # more than the caches hold
        mine, yours = np.zeros((len(many), COLUMNS), np.float32), np.zeros((len(many), COLUMNS), np.float32)
        ours = race(
            lambda: codec.decode({"data": many}, mine), lambda: ggml_oracle.decode(label, many, yours), 2 * rounds + 1
        )
        row["decode"] = figures(ours, mine.size) | {"same": bool((mine == yours).all())}
        row["copy"] = (many.nbytes + mine.nbytes) / ours[0] / bandwidth
    return row


def measure_cast(label: str, weights: int, rounds: int, bandwidth: float) -> dict[str, object]:
    """The same for a dense type."""
    library, name = ggml_oracle.library(), CASTS[label]
    values = (np.random.default_rng(1).standard_normal((8 * weights // COLUMNS, COLUMNS)) * 0.02).astype(np.float32)
    data, theirs = np.zeros(values.shape, DTYPES[label].numpy), np.zeros(values.shape, "u2")
    mine, yours = np.zeros_like(values), np.zeros_like(values)
    codec = codec_for(DENSE[label])
    narrow, widen = getattr(library, f"ggml_fp32_to_{name}_row"), getattr(library, f"ggml_{name}_to_fp32_row")
    for function in (narrow, widen):
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    encode = race(
        lambda: codec.encode(values, {"data": data}),
        lambda: narrow(values.ctypes.data, theirs.ctypes.data, values.size),
        2 * rounds + 1,
    )
    decode = race(
        lambda: codec.decode({"data": data}, mine),
        lambda: widen(theirs.ctypes.data, yours.ctypes.data, values.size),
        2 * rounds + 1,
    )
    return {
        "type": label,
        "encode": figures(encode, values.size) | {"same": bool((data.view("u2") == theirs).all())},
        "decode": figures(decode, values.size) | {"same": bool((mine == yours).all())},
        "copy_encode": (values.nbytes + data.nbytes) / encode[0] / bandwidth,
        "copy": (data.nbytes + mine.nbytes) / decode[0] / bandwidth,
    }


def figures(seconds: tuple[float, float], weights: int) -> dict[str, object]:
    """Million weights per second of both, and their ratio."""
    ours, theirs = seconds
    return {"ours": weights / ours / 1e6, "ggml": weights / theirs / 1e6, "ratio": theirs / ours}


def line(row: dict[str, object]) -> str:
    """A row of the Markdown table."""
    cells = [str(row["type"])]
    for name in ("encode", "imatrix", "decode"):
        found = row.get(name)
        if isinstance(found, dict):
            cells += [f"{found['ours']:.0f}", f"{found['ggml']:.3g}", f"{found['ratio']:.1f}x"]
            cells[-1] += "" if found["same"] else " DIFFERS"
        else:
            cells += ["", "", ""]
    shares = (row.get(name) for name in ("copy_encode", "copy"))
    return "| " + " | ".join([*cells, *(f"{x:.0%}" if isinstance(x, float) else "" for x in shares)]) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", help="comma-separated; default: all", default=",".join([*CASTS, *BLOCKS]))
    parser.add_argument("--weights", type=int, default=1 << 20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bandwidth = copy_bandwidth()
    if not options.json:
        print(
            f"Copying moves {bandwidth / 1e9:.1f} GB/s (read + write) here. Million weights per second, one thread:\n"
        )
        print("| type | encode | ggml | x | with imatrix | ggml | x | decode | ggml | x | copy, encode | decode |")
        print("|---" * 12 + "|")
    rows = []
    for label in options.types.split(","):
        run = measure_cast if label in CASTS else measure
        rows.append(run(label, options.weights, options.rounds, bandwidth))
        if not options.json:
            print(line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps({"copy_bytes_per_second": bandwidth, "types": rows}, indent=1))


if __name__ == "__main__":
    main()
