"""Tokens per second and peak memory of `requant calibrate`, both engines, beside llama-imatrix on the same tokens.

    python benchmarks/calibrate.py FOLDER [--model MODEL | --size 2B] [--tokens 4096] [--threads 1] [--times 2]
        [--engines torch,llama] [--gradients] [--llama-imatrix PROGRAM]

FOLDER receives what is made: a model of benchmarks/synthetic.py unless MODEL is one, a GGUF of it in F32, a text of so
many tokens, and what was found. PROGRAM: of the llama.cpp inside the llama-cpp-python 0.3.36 sdist; it and the engine
llama run that GGUF, the engine torch MODEL itself. All are bound to as many processors as threads, and take turns; of
each the run of least processor time counts, loading and all. The first windows of every run are not taken off.

The bound on memory that is printed is one layer in F32 and 1 GB; with gradients the head comes to it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from synthetic import make_checkpoint

from requant import calibration
from requant.formats import open as open_model
from requant.formats.imatrix import read_imatrix
from requant.verify.llama_cpp import LlamaCpp

WINDOW = 512
REQUANT = [sys.executable, "-m", "requant"]


@dataclass(frozen=True)
class Run:
    """Processor seconds, seconds, and peak bytes."""

    processor: float
    seconds: float
    peak: int


def measured(command: list[str], threads: int) -> Run:
    """Of a program; raises `SystemExit` where it fails."""
    bound = partial(os.sched_setaffinity, 0, sorted(os.sched_getaffinity(0))[:threads])
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=bound)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return Run(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss * 1024)


def text_file(folder: Path, gguf: Path, tokens: int) -> Path:
    """The beginning of the texts that come with requant: so many tokens, and a few that fill no window."""
    here = Path(calibration.__file__).parent
    text = "\n".join((here / name).read_text("utf-8") for name in ("prose.txt", "code.txt"))
    with LlamaCpp(gguf, vocab_only=True) as llama:
        pieces = llama.detokenize(llama.tokenize(text)[: tokens + 8], special=False)
    path = folder / f"text-{tokens}.txt"
    path.write_bytes(b"".join(pieces))
    return path


def dense_gguf(model: Path, folder: Path) -> Path:
    """The model in F32."""
    path = folder / f"{model.stem}-f32.gguf"
    if not path.exists():
        subprocess.run([*REQUANT, "convert", str(model), str(path), "--to", "F32", "--quiet"], check=True)
    return path


def commands(words: argparse.Namespace, model: Path, gguf: Path | None, text: Path) -> dict[str, list[str]]:
    """By name, without the file that each writes."""
    ours = [*REQUANT, "calibrate", "--text", str(text), "--tokens", str(words.tokens), "--force", "--quiet"]
    graded = ["--gradients"] if words.gradients else []
    found = {}
    for engine in words.engines.split(","):
        source = model if engine == "torch" else gguf
        found[f"requant, {engine}"] = [*ours, str(source), "--engine", engine, *(graded if engine == "torch" else [])]
    if words.llama_imatrix:
        size = ["-c", str(WINDOW), "-b", str(WINDOW), "--chunks", str(words.tokens // WINDOW), "--no-ppl"]
        threads = ["-t", str(words.threads), "-ctk", "f32", "-ctv", "f32", "-fa", "off"]
        found["llama-imatrix"] = [words.llama_imatrix, "-m", str(gguf), "-f", str(text), *size, *threads]
    return found


def bound_on_memory(model: Path) -> str:
    """One layer in F32, and 1 GB."""
    tensors = open_model(model).tensors
    first = [tensor for tensor in tensors if ".layers.0." in tensor.name or tensor.name.startswith("blk.0.")]
    layer, total = (4 * sum(prod(tensor.shape) for tensor in some) / 1e9 for some in (first, tensors))
    return f"one layer of {layer:.2f} GB, of {total:.2f} GB in F32; with 1 GB more: {layer + 1:.2f} GB"


def difference(ours: Path, theirs: Path) -> str:
    """How far entries are from llama-imatrix's."""
    own, beside = read_imatrix(ours), read_imatrix(theirs)
    off = [np.abs(own.entries[name].sums / entry.sums - 1).max() for name, entry in beside.entries.items()]
    return f"{len(off)} entries differ by {max(off):.1e} of their value at most"


def main() -> None:
    """A line for each program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", default="2B")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--engines", default="torch,llama")
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--llama-imatrix")
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    model = words.model or make_checkpoint(words.folder / words.size, words.size)
    gguf = dense_gguf(model, words.folder)
    text = text_file(words.folder, gguf, words.tokens)
    runs: dict[str, list[Run]] = {}
    files = {}
    for _ in range(words.times):
        for number, (name, command) in enumerate(commands(words, model, gguf, text).items()):
            files[name] = words.folder / f"found-{number}.gguf"
            runs.setdefault(name, []).append(measured([*command, "-o", str(files[name])], words.threads))
    print(bound_on_memory(model))
    best = {name: min(found, key=lambda run: run.processor) for name, found in runs.items()}
    for name, run in best.items():
        said = f"{name:15} {words.tokens / run.processor:7.1f} tokens/processor s, {run.seconds:.1f} s"
        said += f", {run.peak / 1e9:.2f} GB"
        if "llama-imatrix" in best and name != "llama-imatrix":
            said += f", {best['llama-imatrix'].processor / run.processor:.2f} times as fast"
            said += f"; {difference(files[name], files['llama-imatrix'])}"
        print(said)


if __name__ == "__main__":
    main()
