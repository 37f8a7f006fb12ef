"""Dumping a GGUF beside gguf-py's gguf-dump: `python benchmarks/dump.py [--tokens 150000] [--rounds 5]`.

Both read the same file with a vocabulary, its merges, scores and types, and 300 small tensors, from the page cache, in
fresh processes in turns, with their modules compiled. Every key, type, value and tensor that gguf-dump prints as JSON
must be in what requant prints. Figures are medians of theirs over ours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

PAIRS = {
    "text: every key and tensor, arrays cut short": (["--metadata", "--tensors", "."], []),
    "JSON: everything, every token": (["--metadata", "--json"], ["--json", "--json-array"]),
}


def write(path: str, tokens: int) -> None:
    """A model of nothing but a vocabulary and names."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(300)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{n}" for n in range(tokens)])
    writer.add_token_scores([-float(n) for n in range(tokens)])
    writer.add_token_types([1] * tokens)
    writer.add_token_merges([f"a{n} b{n}" for n in range(tokens)])
    for n in range(300):
        writer.add_tensor(f"blk.{n}.attn_q.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def cost(command: list[str], environment: Mapping[str, str]) -> tuple[float, float, bytes]:
    """Wall seconds, processor seconds, and what was printed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, taken, done.stdout


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Ends the program where something is missing or differs."""
    for key, field in theirs["metadata"].items():
        if not key.startswith("GGUF.") and ours["metadata"][key] != field["value"]:
            raise SystemExit(f"{key} differs")
    tensors = {one["name"]: one for one in ours["tensors"]}
    for name, info in theirs["tensors"].items():
        same = tensors[name]["shape"] == info["shape"][::-1] and tensors[name]["type"] == info["type"]
        if not same or tensors[name]["parts"]["data"]["offset"] <= 0:
            raise SystemExit(f"{name} differs")
    if len(tensors) != len(theirs["tensors"]):
        raise SystemExit("there are other tensors")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.gguf"
        write(path, asked.tokens)
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        print("| | time | processor time |\n| - | - | - |")
        for what, (our_words, their_words) in PAIRS.items():
            mine = [sys.executable, "-m", "requant", "inspect", path, *our_words]
            theirs = [sys.executable, "-m", "gguf.scripts.gguf_dump", *their_words, path]
            printed = [cost(command, environment)[2] for command in (mine, theirs)]  # and compiled
            if "--json" in their_words:
                compare(json.loads(printed[0]), json.loads(printed[1]))
            rows = []
            for _ in range(asked.rounds):
                (wall, processor, _), (their_wall, their_processor, _) = (
                    cost(mine, environment),
                    cost(theirs, environment),
                )
                rows.append((their_wall / wall, their_processor / processor))
            wall, processor = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"| {what} | {wall:.1f}x | {processor:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
