"""`requant edit` beside the scripts of gguf-py, and on a file of 40 GB: `python -m benchmarks.edit [--repeat N]`.

The model has a vocabulary of 150,000 tokens, merges and scores. One number is set in place by `gguf-set-metadata`, and
one text in a copy by `gguf-new-metadata`; results are equal. Every figure is a process from its start to its end; runs
of the two alternate, and the median counts. The file of 40 GB is sparse: what matters is that nothing reads or moves
its data.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np

VOCABULARY = 150_000
WIDTH = 64
LARGE = 40 << 30


def write_model(path: Path, data: int = 0) -> None:
    """A llama of no layers; data: bytes of a further tensor, which the file has as a hole."""
    tokens = [f"token{n:06d}" for n in range(VOCABULARY)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("model")
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_merges([f"{a} {b}" for a, b in pairwise(tokens)])
    writer.add_eos_token_id(2)
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH)}
    if data:
        shapes["large"] = (data // 4096, 1024)
    for name, shape in shapes.items():
        writer.add_tensor_info(name, shape, np.dtype("float32"), 4 * shape[0] * shape[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size + -size % 32 + sum(4 * rows * columns for rows, columns in shapes.values()))


def requant(*words: object) -> Callable[[], None]:
    return lambda: _run([sys.executable, "-m", "requant", "edit", *map(str, words), "--quiet"])


def theirs(module: str, *words: object) -> Callable[[], None]:
    return lambda: _run([sys.executable, "-m", f"gguf.scripts.{module}", *map(str, words)])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def seconds(*tried: Callable[[], None], repeat: int) -> list[float]:
    """The median of each, run in turn."""
    found: list[list[float]] = [[] for _ in tried]
    for _ in range(repeat):
        for one, times in zip(tried, found, strict=True):
            start = time.perf_counter()
            one()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in found]


def _used() -> float:
    """Processor time of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _processor(repeat: int, before: float) -> float:
    return (_used() - before) / repeat


def said(path: Path) -> dict[str, object]:
    """What gguf-py reads, the file's own counts left out."""
    fields = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, other = folder / "ours.gguf", folder / "theirs.gguf"
        write_model(ours)
        shutil.copy(ours, other)
        key = "tokenizer.ggml.eos_token_id"
        mine, his = seconds(
            requant(ours, "--set", f"{key}=7"), theirs("gguf_set_metadata", other, key, 7, "--force"), repeat=repeat
        )
        # what is equal is not written again: the second run sets what is there
        assert ours.read_bytes() == other.read_bytes() and said(ours)[key] == 7
        print(f"set a number in place   requant {mine:.2f} s, gguf-set-metadata {his:.2f} s: {his / mine:.1f}x")
        one, two = folder / "one.gguf", folder / "two.gguf"
        mine, his = seconds(
            requant(ours, "--set", "general.name=another", "-o", one, "--force"),
            theirs("gguf_new_metadata", ours, two, "--general-name", "another", "--force"),
            repeat=repeat,
        )
        assert said(one) == said(two)
        print(f"set a text in a copy    requant {mine:.2f} s, gguf-new-metadata {his:.2f} s: {his / mine:.1f}x")
        large = folder / "large.gguf"
        write_model(large, LARGE)
        before = _used()
        numbers = iter(range(10, 10 + 2 * repeat))
        (mine,) = seconds(lambda: requant(large, "--eos", next(numbers))(), repeat=repeat)
        print(f"40 GB, a token, in place           {mine:.2f} s, {_processor(repeat, before):.2f} s of the processor")
        before = _used()
        texts = iter("x" * (5000 * n) for n in range(1, repeat + 1))
        (mine,) = seconds(lambda: requant(large, "--set", f"general.description={next(texts)}")(), repeat=repeat)
        print(f"40 GB, a text that does not fit    {mine:.2f} s, {_processor(repeat, before):.2f} s of the processor")


if __name__ == "__main__":
    main()
