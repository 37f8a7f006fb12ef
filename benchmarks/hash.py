"""Checksums beside llama-gguf-hash: `python benchmarks/hash.py --llama-gguf-hash PROGRAM [--size 0.5B] [--rounds 5]`.

PROGRAM is llama.cpp's examples/gguf-hash, built from the sdist of llama-cpp-python 0.3.36: cmake's target
llama-gguf-hash in vendor/llama.cpp, CMAKE_BUILD_TYPE=Release. Both read the same BF16 GGUF from
the page cache, fresh processes in turns; what they print must be equal. Figures are medians of theirs over ours.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
WAYS = (("--xxh64",), ("--sha1",), ("--sha256",), ("--all",), ("--all", "--no-layer"))


def cost(command: list[str], folder: str) -> tuple[float, float, bytes]:
    """Wall seconds, processor seconds, and what was printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, taken, done.stdout


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-gguf-hash", required=True, type=Path)
    parser.add_argument("--size", default="0.5B", help="of the model: tiny, 0.5B, 2B")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, HERE / "synthetic.py", f"{folder}/model", asked.size], check=True)
        ours = [sys.executable, "-m", "requant"]
        subprocess.run([*ours, "convert", "-q", f"{folder}/model", f"{folder}/m.gguf", "--to", "BF16"], check=True)
        print(f"{Path(folder, 'm.gguf').stat().st_size / 1e9:.2f} GB, {os.cpu_count()} processors\n")
        print("| | time | processor time |\n| - | - | - |")
        for way in WAYS:
            rows: list[tuple[float, float]] = []
            for _ in range(asked.rounds):
                mine = cost([*ours, "hash", "m.gguf", *way], folder)
                theirs = cost([str(asked.llama_gguf_hash.resolve()), *way, "m.gguf"], folder)
                if mine[2] != theirs[2]:
                    raise SystemExit(f"{way}: what is printed differs")
                rows.append((theirs[0] / mine[0], theirs[1] / mine[1]))
            wall, processor = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"| `{' '.join(way)}` | {wall:.1f}x | {processor:.1f}x |")


if __name__ == "__main__":
    main()
