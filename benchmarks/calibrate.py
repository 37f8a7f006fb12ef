"""Tokens per second and peak memory of `requant calibrate`, beside llama-imatrix on the same text.

    python benchmarks/calibrate.py FOLDER [--size 2B] [--tokens 2048] [--gradients] [--llama-imatrix PROGRAM]

FOLDER receives a model of benchmarks/synthetic.py. The bound on memory that is printed is one layer, embedding and head
in F32, and 1 GB. PROGRAM: of the llama.cpp inside the llama-cpp-python 0.3.36 sdist; it reads the same model as a GGUF
in BF16, with as many threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from synthetic import make_checkpoint, shapes_of


def measured(command: list[str]) -> tuple[float, int]:
    """Seconds and peak bytes of a program; raises `SystemExit` where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} ended with status {status}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def text_file(folder: Path) -> Path:
    """The texts that come with requant, as one."""
    from requant import calibration

    here = Path(calibration.__file__).parent
    path = folder / "text.txt"
    path.write_text("\n".join((here / name).read_text("utf-8") for name in ("prose.txt", "code.txt")), "utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="2B")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--llama-imatrix")
    words = parser.parse_args()
    model, shapes = make_checkpoint(words.folder / words.size, words.size), shapes_of(words.size)
    text = text_file(words.folder)
    layer = 4 * sum(prod(shape) for name, shape in shapes.items() if name.startswith("model.layers.0."))
    around = 4 * sum(prod(shape) for name, shape in shapes.items() if not name.startswith("model.layers."))
    command = [sys.executable, "-m", "requant", "calibrate", str(model), "-o", str(words.folder / "stats.gguf")]
    command += ["--text", str(text), "--tokens", str(words.tokens), "--force", "--quiet"]
    seconds, peak = measured([*command, *(["--gradients"] if words.gradients else [])])
    print(
        f"requant: {words.tokens} tokens, {seconds:.1f} s, {words.tokens / seconds:.1f} tokens/s, {peak / 1e9:.2f} GB"
    )
    print(
        f"one layer {layer / 1e9:.2f} GB, embedding and head {around / 1e9:.2f} GB; with 1 GB more: "
        f"{(layer + around + 1e9) / 1e9:.2f} GB"
    )
    if words.llama_imatrix:
        gguf = words.folder / f"{words.size}.gguf"
        if not gguf.exists():
            subprocess.run([sys.executable, "-m", "requant", "convert", str(model), str(gguf), "--quiet"], check=True)
        chunks = ["-c", "512", "-b", "512", "--chunks", str(words.tokens // 512), "--no-ppl"]
        own = [words.llama_imatrix, "-m", str(gguf), "-f", str(text), "-o", str(words.folder / "theirs.gguf"), *chunks]
        seconds, peak = measured([*own, "-t", str(os.cpu_count())])
        print(f"llama-imatrix: {seconds:.1f} s, {words.tokens / seconds:.1f} tokens/s, {peak / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
