"""A GGUF with error feedback beside auto-round's of the same mix: divergence, and time.

    python -P benchmarks/signed.py FOLDER MODEL --text C4.txt --held-out WIKI.txt --auto-round PYTHON [--to Q4_K_S]
        [--layers 1] [--tokens 8192] [--threads 1]

MODEL, texts and FOLDER are as in `folders.py`, which makes and keeps the first layers and the windows of both; PYTHON
is of an environment with auto-round and gguf. Embedding and head are rounded, too, by both. All are run in llama.cpp;
divergence is from the same layers in F32. Time is of processors: auto-round's without loading, requant's of whole
commands, the calibration too.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from folders import HELD_OUT, REQUANT, WINDOW, by_peer, once, prepared, seconds
from quality import joined, lockstep

from requant.verify.llama_cpp import LlamaCpp
from requant.verify.logits import Comparison, Window, windows

WAYS = {"importance matrix": [], "feedback": ["--feedback"]}


def compared(reference: Path, models: list[Path], text: str) -> list[Comparison]:
    """Each beside the reference, over the same windows."""

    def chosen(llama: LlamaCpp) -> list[Window]:
        cut = windows(llama.tokenize(text[: 8 * HELD_OUT]), WINDOW, HELD_OUT // WINDOW, llama.info.begins_with)
        return [Window(window.tokens, 0) for window in cut]

    return [joined(parts) for parts in zip(*lockstep(reference, models, chosen), strict=True)]


def main() -> None:
    """A line for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--auto-round", required=True)
    parser.add_argument("--to", default="Q4_K_S")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    folder = words.folder = words.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: words.threads])
    prepared(words)
    dense, stats, plain = folder / "dense", folder / "stats.gguf", folder / "f32.gguf"
    reading = ["--text", folder / "text.txt", "--tokens", words.tokens, "--hessians", "--force", "--quiet"]
    calibrating = once(stats, *REQUANT, "calibrate", dense, "-o", stats, *reading)
    seconds(*REQUANT, "convert", dense, plain, "--to", "F32", "--force", "--quiet")
    made: dict[str, tuple[Path, float]] = {}
    for way, more in WAYS.items():
        path = folder / f"{words.to}-{way.split()[0]}.gguf"
        how = ["--to", words.to, "--stats", stats, *more, "--force", "--quiet"]
        made[f"requant, {way}"] = path, calibrating + once(path, *REQUANT, "convert", dense, path, *how)
    processor = by_peer(words.auto_round, "auto-round", folder, words.to)
    made["auto-round"] = next((folder / f"{words.to}-auto-round").rglob("*.gguf")), processor
    found = compared(plain, [path for path, _ in made.values()], words.held_out.read_text("utf-8"))
    print(f"{words.to}: {words.layers} layers, {words.tokens} tokens; KL on {found[0].model.count} others")
    for (name, (path, processor)), one in zip(made.items(), found, strict=True):
        kl = one.measure().kl
        print(f"{name:26} {path.stat().st_size} bytes  KL {kl.value:.4f} ± {kl.error:.4f}  {processor:7.1f} s")


if __name__ == "__main__":
    main()
