"""How much faster two threads encode than one, for every type with a search: kernels must not wait for each other.

    python benchmarks/threads.py [--types Q4_K,IQ3_S] [--seconds 0.25] [--json]

The same rows, cut in two, by one thread, by two, and by two processes, in turns; of each the shortest wall time,
because whatever else the machine does only ever adds to it. Processes share no lock, no allocator and no
interpreter: what they reach is what the machine has to give at the time, and threads that reach it too wait for
nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from requant.codecs import codec_for
from requant.encodings import BLOCKS

COLUMNS = 1024
ROUNDS = 15
#: Types whose encoder searches for scales; the others are bound by memory.
SEARCHED = [label for label in BLOCKS if "K" in label or label.startswith("IQ") or label == "NVFP4"]


def measure(label: str, seconds: float) -> dict[str, object]:
    """Wall seconds of one thread, of two, and of two processes; and how many times as fast as one the others are."""
    block, codec = BLOCKS[label], codec_for(BLOCKS[label])
    importance = np.random.default_rng(1).chisquare(1, COLUMNS).astype(np.float32) if block.needs_importance else None

    def job(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        values = (np.random.default_rng(seed).standard_normal((rows, COLUMNS)) * 0.02).astype(np.float32)
        return values, np.zeros((rows, COLUMNS // block.values * block.nbytes), np.uint8)

    def run(values: np.ndarray, data: np.ndarray) -> None:
        codec.encode(values, {"data": data}, 0, importance)

    trial = job(16, 0)
    run(*trial)
    start = time.perf_counter()
    run(*trial)
    rows = max(16, int(16 * seconds / max(time.perf_counter() - start, 1e-6)) // 2)
    first, second = job(rows, 1), job(rows, 2)

    def other(orders: Connection) -> None:
        while orders.recv():
            run(*second)
            orders.send(None)

    orders, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=other, args=(theirs,))
    process.start()  # before the threads are: a fork of them would be half a process
    walls: dict[str, list[float]] = {"one": [], "two": [], "processes": []}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            run(*first)
            run(*second)
            walls["one"].append(time.perf_counter() - start)
            start = time.perf_counter()
            list(pool.map(lambda half: run(*half), (first, second)))
            walls["two"].append(time.perf_counter() - start)
            start = time.perf_counter()
            orders.send(True)
            run(*first)
            orders.recv()
            walls["processes"].append(time.perf_counter() - start)
    orders.send(False)
    process.join()
    best = {name: min(times) for name, times in walls.items()}
    ratios = {"ratio": best["one"] / best["two"], "machine": best["one"] / best["processes"]}
    return {"type": label, **best, **ratios}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", help="comma-separated; default: all with a search", default=",".join(SEARCHED))
    parser.add_argument("--seconds", type=float, default=0.25, help="of one thread, for each measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(label, options.seconds) for label in options.types.split(",")]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| type | one thread | two | ratio | two processes |\n|---|---|---|---|---|")
    for row in rows:
        walls = f"{row['one']:.2f} s | {row['two']:.2f} s"
        print(f"| {row['type']} | {walls} | {row['ratio']:.2f}x | {row['machine']:.2f}x |")


if __name__ == "__main__":
    main()
