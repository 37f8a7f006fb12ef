"""How much faster two threads encode than one, for every type with a search: kernels must not wait for each other.

    python benchmarks/threads.py [--types Q4_K,IQ3_S] [--seconds 0.5] [--json]

The same rows, cut in two, by one thread and then by two, in turns; of each the shortest wall time, because whatever
else the machine does only ever adds to it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from requant.codecs import codec_for
from requant.encodings import BLOCKS

COLUMNS = 1024
ROUNDS = 9
#: Types whose encoder searches for scales; the others are bound by memory.
SEARCHED = [label for label in BLOCKS if "K" in label or label.startswith("IQ") or label == "NVFP4"]


def measure(label: str, seconds: float) -> dict[str, object]:
    """Wall seconds of one thread and of two, and their ratio."""
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
    halves = [job(rows, 1), job(rows, 2)]
    one, two = [], []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for half in halves:
                run(*half)
            middle = time.perf_counter()
            list(pool.map(lambda half: run(*half), halves))
            one.append(middle - start)
            two.append(time.perf_counter() - middle)
    return {"type": label, "one": min(one), "two": min(two), "ratio": min(one) / min(two)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", help="comma-separated; default: all with a search", default=",".join(SEARCHED))
    parser.add_argument("--seconds", type=float, default=0.5, help="of one thread, for each measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(label, options.seconds) for label in options.types.split(",")]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| type | one thread | two | ratio |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['type']} | {row['one']:.2f} s | {row['two']:.2f} s | {row['ratio']:.2f}x |")


if __name__ == "__main__":
    main()
